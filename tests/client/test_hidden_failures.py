"""Clients that fail where nothing about single clients may be recorded: what their failures tell, and who does not fail."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Quadratic
from test_worker import SeenStates, worker

from fedlit.aggregation import Channel
from fedlit.aggregation.compression import Half
from fedlit.aggregation.privacy import CentralDP, DistributedDP, LocalDP
from fedlit.aggregation.secure import IdealSum
from fedlit.client.dp_sgd.settings import ExamplePrivacy
from fedlit.client.losses.query import answer_loss_query
from fedlit.core.errors import FatalClientFailure
from fedlit.core.facts import FederationFacts, Sampling
from fedlit.core.messages import EvaluateJob, Exchange, ExchangeJob, ServerState, TrainJob
from fedlit.data.samples import ClientTestSet
from fedlit.simulation.client_faults import Fault
from fedlit.simulation.faults import FailurePolicy, FaultPlan

NAN, VALUE = float("nan"), 0.123456
NOISE = {"noise_multiplier": 0.0, "delta": 1e-3}


def bound(*stages):
    """The channel of a federation of three clients with one parameter, all of which take part."""
    facts = FederationFacts(
        sizes=np.ones(3, int),
        cohort_size=3,
        splits=(),
        has_client_tests=False,
        rounds=2,
        sampling=Sampling("fixed", size=3),
        weighting="equal",
        update_numbers={"parameters": 1},
    )
    return Channel.of(stages).bind(facts)


def trained(channel, rows, algorithm=None, job=None, **parts):
    """The partial aggregate of three clients with these samples."""
    one, state = worker(rows, [0, 1, 2], algorithm)
    one = replace(one, channel=channel, **parts)
    layout = one.update_template(state).layout
    state = ServerState(0, state.shared, channel=channel.init(layout))
    return one(job or TrainJob(0, 0, (0, 1, 2)), state)


def slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


CHANNELS = {
    "local": bound(LocalDP(clip=5.0, **NOISE)),
    "central": bound(CentralDP(clip=5.0, **NOISE)),
    "adaptive": bound(CentralDP(clip="adaptive", initial_clip=5.0, **NOISE)),
    "distributed": bound(DistributedDP(clip=5.0, **NOISE), IdealSum()),
}


@pytest.mark.parametrize("name", [*("local", "distributed"), *slow("central", "adaptive")])
@pytest.mark.parametrize("bad", [NAN, pytest.param(math.inf, marks=pytest.mark.slow)])
def test_a_client_whose_update_is_not_finite_takes_part_with_zeros(name, bad):
    """Its target is where the model is, or it is not finite: both moves are zero, and nothing else tells them apart."""
    rows = [(1.0, 2.0), (1.0, 1.0), (1.0, 4.0)]
    zeros, invalid = (trained(CHANNELS[name], [rows[0], (1.0, target), rows[2]]) for target in (1.0, bad))
    assert invalid.failures == ()
    assert invalid.members == (0, 1, 2)
    assert torch.equal(invalid.total, zeros.total)
    figures = ("weight", "clipped", "up_bytes", "plain_bytes", "steps", "norms", "client_states")
    assert [getattr(invalid, figure) for figure in figures] == [getattr(zeros, figure) for figure in figures]


def test_without_a_privacy_mechanism_the_client_fails_and_its_figures_stay_hidden_in_a_secure_sum():
    rows = [(1.0, 2.0), (1.0, NAN), (1.0, 4.0)]
    (failure,) = trained(bound(IdealSum()), rows).failures
    assert (failure.client, failure.outcome, failure.reason) == (1, "not_finite", "some numbers are NaN or infinite")


class Weightless(SeenStates):
    """Gives client 1 a weight that is no number."""

    def client(self, local, shared, client_state):
        update = super().client(local, shared, client_state)
        return replace(update, weight=NAN if getattr(local, "client", 0) == 1 else 1.0)


@pytest.mark.slow
def test_a_weight_that_is_no_number_counts_as_1_and_the_update_as_zeros():
    rows = [(1.0, 2.0)] * 3
    partial = trained(CHANNELS["local"], rows, Weightless([]))
    assert (partial.failures, partial.weight) == ((), 3.0)
    assert float(partial.total) == pytest.approx(0.2)
    (failure,) = trained(bound(IdealSum()), rows, Weightless([])).failures
    assert failure.reason == "weight is not a finite number of at least 0"


def test_a_client_that_sends_zeros_keeps_its_old_state():
    """The new state follows from weights that are not finite."""
    old = {1: {"mine": {"t": torch.full((1,), 7.0)}}}
    partial = trained(
        CHANNELS["local"], [(1.0, 2.0), (1.0, NAN), (1.0, 4.0)], SeenStates([]), TrainJob(0, 0, (0, 1), old)
    )
    assert float(partial.client_states[0]["mine"]["t"]) == 1.0
    assert float(partial.client_states[1]["mine"]["t"]) == 7.0


@pytest.mark.slow
def test_an_update_that_a_codec_makes_infinite_counts_as_zeros_too():
    """65504 is the largest number of float16."""
    rows = [(1.0, 2.0), (1.0, 1e7), (1.0, 4.0)]
    plain, private = bound(Half("float16")), bound(CentralDP(clip=5.0, **NOISE), Half("float16"))
    assert [failure.client for failure in trained(plain, rows).failures] == [1]
    partial = trained(private, rows)
    assert (partial.failures, partial.members) == ((), (0, 1, 2))
    assert float(partial.total) == pytest.approx(0.1 + 0.3, abs=1e-3)


@pytest.mark.slow
def test_a_residual_that_a_codec_makes_infinite_is_not_kept(caplog):
    channel = replace(bound(CentralDP(clip=5.0, **NOISE), Half("float16")), error_feedback=True)
    with caplog.at_level(logging.WARNING, "fedlit"):
        first = trained(channel, [(1.0, 2.0), (1.0, 1e7), (1.0, 4.0)], logs_hidden=True)
    assert "client 1 sends zeros instead of its update" in caplog.text
    assert first.client_states[1] == {}
    job = TrainJob(1, 0, (0, 1, 2), first.client_states)
    second = trained(channel, [(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)], job=job)
    assert float(second.total) == pytest.approx(0.1 + 0.2 + 0.3, abs=1e-3)


class Untestable(Quadratic):
    """Cannot be evaluated."""

    def test_step(self, batch, batch_idx):
        raise ValueError(f"bad input {VALUE}")


@pytest.mark.slow
def test_an_error_in_the_evaluation_of_a_client_has_no_text():
    one, state = worker([(1.0, 2.0)] * 3, [0, 1, 2], module=Untestable(1.0))
    one = replace(one, data=replace(one.data, client_tests=ClientTestSet(one.data.train, one.data.population)))
    with pytest.raises(ValueError, match=str(VALUE)):
        one(EvaluateJob(0, "test", 1), state)
    one = replace(one, channel=bound(IdealSum()))
    with pytest.raises(FatalClientFailure, match="client 1: exception in its evaluation: ValueError at ") as error:
        one(EvaluateJob(0, "test", 1), state)
    assert str(VALUE) not in str(error.value)
    assert error.value.__context__ is None


class Telling(Fault):
    """Fails with a text that holds a value of the data."""

    def before(self, attempt):
        tensor = torch.tensor([VALUE])
        raise ValueError(f"bad input {tensor.tolist()}")

    def at_exchange(self, number):
        if number == 9:
            self.before(None)


POLICY = FailurePolicy(plans=(FaultPlan(Telling(), 1.0, clients=(1,)),))
PLACE = "in before"


@pytest.mark.parametrize("name", ["local", *slow("distributed", "secure", "example")])
def test_the_text_of_an_error_is_no_reason_where_clients_are_hidden(name, caplog):
    parts = {"faults": POLICY}
    if name == "example":
        one, state = worker([(1.0, 2.0)] * 3, [0, 1, 2], privacy=ExamplePrivacy(noise_multiplier=1.0))
        (failure,) = replace(one, **parts)(TrainJob(0, 0, (1,)), state).failures
    else:
        channel = bound(IdealSum()) if name == "secure" else CHANNELS[name]
        (failure,) = trained(channel, [(1.0, 2.0)] * 3, **parts).failures
    assert (failure.client, failure.outcome) == (1, "exception")
    assert failure.reason.startswith("ValueError at ")
    assert failure.reason.endswith(PLACE)
    assert "test_hidden_failures.py:" in failure.reason
    assert str(VALUE) not in failure.reason
    assert caplog.text == ""


@pytest.mark.slow
def test_without_hidden_clients_the_text_is_part_of_the_reason():
    (failure,) = trained(Channel(), [(1.0, 2.0)] * 3, faults=POLICY).failures
    assert f"ValueError: bad input [{VALUE}" in failure.reason


def test_hidden_texts_are_logged_on_request(caplog):
    rows = [(1.0, 2.0), (1.0, 2.0), (1.0, NAN)]
    with caplog.at_level(logging.WARNING, "fedlit"):
        (failure,) = trained(CHANNELS["local"], rows, faults=POLICY, logs_hidden=True).failures
    assert str(VALUE) not in failure.reason
    assert "client 1 is left out:\nTraceback" in caplog.text
    assert f"ValueError: bad input [{VALUE}" in caplog.text
    assert "client 2 sends zeros instead of its update: some numbers are NaN or infinite" in caplog.text


@pytest.mark.slow
def test_an_error_that_ends_the_run_and_those_of_other_jobs_are_hidden_too():
    fatal = replace(POLICY, on_error="fail")
    with pytest.raises(FatalClientFailure, match="client 1: exception: ValueError at ") as error:
        trained(CHANNELS["local"], [(1.0, 2.0)] * 3, faults=fatal)
    assert str(VALUE) not in str(error.value)
    one, state = worker([(1.0, 2.0)] * 3, [0, 1, 2])
    one = replace(one, channel=bound(IdealSum()), faults=POLICY)
    exchange = ExchangeJob(0, (1,), Exchange(9, "advertise_keys", {1: b""}, {}))
    (failure,) = one(exchange, state).failures
    assert failure.reason.startswith("ValueError at ")

    def measure():
        raise ValueError(f"loss of {VALUE}")

    result = answer_loss_query(1, measure, 0, one.reports)
    assert result.failure is not None
    assert result.failure.reason.endswith("in measure, when asked for its loss")


class Memory(Quadratic):
    def training_step(self, batch, batch_idx):
        raise torch.OutOfMemoryError(f"tried to allocate {VALUE}")


@pytest.mark.slow
def test_the_text_of_an_error_about_memory_is_hidden_too():
    one, state = worker([(1.0, 2.0)] * 3, [0, 1, 2], module=Memory(1.0))
    layout = one.update_template(state).layout
    one = replace(one, channel=CHANNELS["local"])
    (failure,) = one(TrainJob(0, 0, (1,)), ServerState(0, state.shared, channel=one.channel.init(layout))).failures
    assert failure.outcome == "out_of_memory"
    assert failure.reason.startswith("OutOfMemoryError at ")
    assert str(VALUE) not in failure.reason
