"""The executor of stacked models: its groups, processes, and resumed runs."""

import warnings
from dataclasses import replace
from functools import partial
from typing import ClassVar
from unittest.mock import patch

import pytest
import torch
from small import federation
from stacks import Dense, ragged, samples, with_executor
from torch import nn

from fedlit.aggregation import MeanAggregator
from fedlit.aggregation.chunk import ChunkSum
from fedlit.aggregation.jobs import make_train_jobs
from fedlit.algorithms import Ditto, FedAvg, Scaffold
from fedlit.client.failures import FailureReports
from fedlit.client.vectorized.stack import Stack
from fedlit.core.errors import ConfigError, FatalClientFailure
from fedlit.core.messages import EvaluateJob, TrainJob
from fedlit.data import TensorSamples
from fedlit.executors import Auto, Inline, Vectorized
from fedlit.executors.vectorized.groups import group_jobs
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.simulation.faults import FailurePolicy


@pytest.mark.parametrize(
    ("clients", "size", "lengths"), [(60, 25, [20, 20, 20]), (5, 25, [5]), (130, 50, [43, 43, 44])]
)
def test_groups_are_about_equal_and_cover_the_cohort_in_order(clients, size, lengths):
    cohort = [7 * client % 1000 for client in range(clients)]
    states = {cohort[1]: {"own": {}}}
    jobs = group_jobs(make_train_jobs(3, cohort, states, {cohort[2]: 4}), size)
    assert [len(job.clients) for job in jobs] == lengths
    assert [client for job in jobs for client in job.clients] == cohort
    assert [job.index for job in jobs] == list(range(len(lengths)))
    assert {job.round for job in jobs} == {3}
    assert jobs[0].client_states == states
    assert jobs[0].budgets == {cohort[2]: 4}


def test_other_jobs_stay_as_they_are():
    jobs = [EvaluateJob(0, "val"), EvaluateJob(0, "test")]
    assert group_jobs(iter(jobs), 25) == jobs
    assert group_jobs([], 25) == []


@pytest.mark.parametrize(("key", "value"), [("group_size", 0), ("workers", 0), ("threads", 0), ("wall_timeout_s", 0.0)])
def test_a_wrong_argument_is_named(key, value):
    with pytest.raises(ConfigError) as error:
        Vectorized(**{key: value})
    assert error.value.key == key
    with pytest.raises(ConfigError, match="must be auto or null"):
        Auto(vectorize="always")


def test_the_first_round_records_how_far_a_client_is_from_itself_alone():
    stacked = list(with_executor(ragged(rounds=2), Vectorized(4)).run())
    assert 0 < stacked[0].metrics["train/vectorized_difference"] < 1e-5
    assert "train/vectorized_difference" not in stacked[1].metrics
    (alone,) = with_executor(ragged(rounds=1), Inline()).run()
    assert "train/vectorized_difference" not in alone.metrics


def digests(fed, executor):
    return [record.sha256 for record in with_executor(fed, executor).run()]


@pytest.mark.slow
def test_auto_trains_stacks_only_where_it_is_asked_and_where_it_pays_off(caplog):
    caplog.set_level("INFO", "fedlit")
    dense, images = ragged(), federation()
    alone, stacked = digests(dense, Inline()), digests(dense, Vectorized())
    assert alone != stacked
    assert digests(dense, Auto(1)) == alone
    assert digests(dense, Auto(1, vectorize="auto")) == stacked
    assert "as one stacked model" in caplog.text
    assert digests(images, Auto(1, vectorize="auto")) == digests(images, Inline())
    assert "has the convolution" in caplog.text


def test_client_states_do_not_keep_the_stack_alive():
    fed = ragged(algorithm=Ditto(), sizes=(10, 10, 10, 10))
    worker = fed.worker.vectorize()
    partial_sum = worker(TrainJob(0, 1, (0, 1, 2, 3)), fed.initial_state())
    for state in partial_sum.client_states.values():
        for tensors in state.values():
            for tensor in tensors.values():
                assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


class SeesDtype(FedAvg):
    """Notes the state of torch in which its client rule goes on after a fit."""

    seen: ClassVar[list] = []

    def client(self, local, shared, client_state):
        update = super().client(local, shared, client_state)
        self.seen.append((torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        return update


def test_client_rules_go_on_outside_of_the_trainer_s_precision():
    fed = ragged(algorithm=SeesDtype(), options={"precision": "64-true"}, sizes=(10, 10, 10))
    SeesDtype.seen.clear()
    fed.worker.vectorize()(TrainJob(0, 1, (0, 1, 2)), fed.initial_state())
    assert set(SeesDtype.seen) == {(torch.float32, True, False)}


def test_each_stack_is_answered_before_the_next_one_trains(monkeypatch):
    fed = ragged(sizes=(10, 10, 10, 10, 10))
    worker = fed.worker.vectorize()
    nbytes = sum(tensor.nbytes for tensor in fed.initial.parameters.values())
    log = []
    for owner, name in ((Stack, "train"), (ChunkSum, "add_plain")):
        monkeypatch.setattr(owner, name, noted(getattr(owner, name), log))
    result = replace(worker, stacks=replace(worker.stacks, max_bytes=2 * nbytes))(
        TrainJob(1, 0, (0, 1, 2, 3, 4)), fed.initial_state()
    )
    assert log == ["train", "add_plain", "train", *["add_plain"] * 2, "train", *["add_plain"] * 2]
    assert result.members == (0, 1, 2, 3, 4)


def noted(method, log):
    """A method that notes its calls."""

    def call(*args, **kwargs):
        log.append(method.__name__)
        return method(*args, **kwargs)

    return call


@pytest.mark.parametrize("on_error", ["drop", "fail"])
def test_a_rule_that_fails_between_two_stacks_ends_or_leaves_the_others(on_error):
    fed = ragged(algorithm=FailsAfterFit(), sizes=(10, 10, 10, 10))
    FailsAfterFit.calls = 10
    worker = replace(fed.worker, faults=FailurePolicy(on_error=on_error)).vectorize()
    nbytes = sum(tensor.nbytes for tensor in fed.initial.parameters.values())
    worker = replace(worker, stacks=replace(worker.stacks, max_bytes=nbytes))
    FailsAfterFit.calls = 0
    if on_error == "fail":
        with pytest.raises(FatalClientFailure, match="client 1"):
            worker(TrainJob(1, 0, (0, 1, 2, 3)), fed.initial_state())
        assert FailsAfterFit.calls == 2
    else:
        result = worker(TrainJob(1, 0, (0, 1, 2, 3)), fed.initial_state())
        assert (result.members, [failure.client for failure in result.failures]) == ((0, 2, 3), [1])
    later = worker(TrainJob(1, 0, (0, 1)), fed.initial_state())
    assert later.members == (0, 1)  # the module is as before


class Flaky(FedAvg):
    """Fails once or more often after a fit of client 1."""

    left = 0

    def client(self, local, shared, client_state):
        update = super().client(local, shared, client_state)
        if Flaky.left and local.examples and local.client == 1:
            Flaky.left -= 1
            raise OSError("try again")
        return update


@pytest.mark.parametrize(("times", "members"), [(1, (0, 1, 2)), (2, (0, 1, 2)), (3, (0, 2))])
@pytest.mark.parametrize("is_stacked", [False, True], ids=["alone", "stack"])
def test_a_client_that_fails_is_tried_again(times, members, is_stacked, caplog):
    reports = FailureReports(hides_texts=True, logs_hidden=True)
    worker = replace(ragged(algorithm=Flaky(), sizes=(10, 10, 10)).worker, faults=FailurePolicy("retry", retries=2))
    worker = worker.vectorize() if is_stacked else worker
    state = ragged(sizes=(10, 10, 10)).initial_state()
    worker.update_template(state)
    Flaky.left = times
    with patch.object(type(worker), "reports", reports):
        result = worker(TrainJob(1, 0, (0, 1, 2)), state)
    assert (result.members, Flaky.left) == (members, 0)
    assert [failure.client for failure in result.failures] == [client for client in (1,) if client not in members]
    assert caplog.text.count("client 1 is left out") == times  # each failure once


@pytest.mark.parametrize("is_stacked", [False, True], ids=["alone", "stack"])
def test_a_stop_iteration_of_a_sum_is_an_error(is_stacked):
    class Empty(MeanAggregator):
        def add_float32(self, total, numbers, weight):
            return next(iter(()))

    worker = replace(ragged(sizes=(10, 10)).worker, aggregator=Empty())
    worker = worker.vectorize() if is_stacked else worker
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        worker(TrainJob(1, 0, (0, 1)), ragged(sizes=(10, 10)).initial_state())


class Warns(FedAvg):
    def client(self, local, shared, client_state):
        update = super().client(local, shared, client_state)
        warnings.warn(f"of {local.examples} examples", stacklevel=1)
        return update


@pytest.mark.parametrize("is_stacked", [False, True], ids=["alone", "stack"])
def test_each_warning_of_a_client_rule_is_shown(is_stacked):
    worker = ragged(algorithm=Warns(), sizes=(10, 10, 10)).worker
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        worker = worker.vectorize() if is_stacked else worker
        state = ragged(sizes=(10, 10, 10)).initial_state()
        worker.update_template(state)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        worker(TrainJob(1, 0, (0, 1, 2)), state)
    assert [str(one.message) for one in caught if "examples" in str(one.message)] == ["of 10 examples"] * 3


def test_clients_without_numbers_fail_alone_also_in_the_trial():
    data = samples(43)
    data.x[0:10] = torch.nan
    for algorithm in (Scaffold(), Ditto()):
        fed = ragged(algorithm=algorithm, sizes=(10, 12, 10, 7, 4), data=data)
        for record in with_executor(fed, Vectorized(5)).run():
            assert [(failure.client, failure.outcome) for failure in record.failures] == [(0, "not_finite")]


class Unreadable:
    """Inputs of which one cannot be read."""

    def __init__(self, x, number):
        self.x, self.number = x, number

    def __getitem__(self, numbers):
        if self.number in numbers.tolist():
            raise OSError("cannot read it")
        return self.x[numbers]


@pytest.mark.parametrize(("number", "client"), [(56, 4), (3, 0)], ids=["a small one", "the largest one"])
def test_a_client_whose_sample_cannot_be_read_fails_alone(number, client):
    data = samples(57)
    fed = ragged(data=TensorSamples(Unreadable(data.x, number), data.y))
    for record in with_executor(fed, Vectorized(6)).run():
        assert [(failure.client, failure.outcome) for failure in record.failures] == [(client, "exception")]


class FailsAfterFit(FedAvg):
    """Its second client rule fails."""

    calls = 10

    def client(self, local, shared, client_state):
        update = super().client(local, shared, client_state)
        type(self).calls += local.examples > 0  # the template of the updates has none
        if type(self).calls == 2:
            raise ValueError("of the rule")
        return update


SETTINGS = {
    "dropout": partial(ragged, partial(Dense, norm=partial(nn.Dropout, 0.5)), sizes=(23, 7, 16, 10, 1, 0, 9, 9)),
    "states": partial(
        ragged, partial(Dense, partial(torch.optim.Adam, lr=0.01)), FedAvg(proximal=0.1), client_state="keep", rounds=3
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", SETTINGS.values(), ids=SETTINGS)
def test_results_do_not_depend_on_the_number_of_processes(make):
    expected = [(record.sha256, record.failures) for record in with_executor(make(), Vectorized(2)).run()]
    records = with_executor(make(), Vectorized(2, workers=2)).run()
    assert [(record.sha256, record.failures) for record in records] == expected


@pytest.mark.slow
@pytest.mark.parametrize("make", SETTINGS.values(), ids=SETTINGS)
def test_a_resumed_run_has_the_same_digests(make, tmp_path):
    fed = with_executor(make(), Vectorized(3))
    expected = [record.sha256 for record in fed.run()]
    run = replace(fed, checkpointer=DiskCheckpointer(tmp_path)).run()
    first = next(run)
    run.close()
    rest = replace(with_executor(make(), Vectorized(3)), checkpointer=DiskCheckpointer(tmp_path)).run()
    assert [first.sha256, *(record.sha256 for record in rest)] == expected
