"""Simulated seconds: who is waited for, for how many steps, and that nothing but the seed decides it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Quadratic, federation, holdings, pairs
from test_build import built, mistakes
from test_federation import quadratics

from fedlit.algorithms import FedAvg
from fedlit.client.trainer import ModuleReplica, TrainerConfig, planned_steps
from fedlit.client.worker import ClientWorker
from fedlit.core.errors import ConfigError
from fedlit.core.messages import ServerState, TrainJob
from fedlit.data import Population
from fedlit.executors import Processes
from fedlit.server.sampling import Uniform
from fedlit.server.schedule import Schedule
from fedlit.simulation.clock import VirtualClock, prob_below_quorum

SIZES = (60, 40, 20, 0)  # six, four, two steps of ten samples, and none


def clocked(clock, sizes=SIZES, **schedule):
    """A federation of clients with so many samples, all in every round, and its state before round 1."""
    fed = federation(clients=len(sizes), cohort=len(sizes), samples=sum(sizes), **schedule)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    held = replace(fed.worker.data, population=Population.of(owner, len(sizes)))
    sampler = Uniform(fed.schedule.sampled(len(sizes)))
    fed = replace(fed, worker=replace(fed.worker, data=held), sampler=sampler, clock=clock)
    return fed, fed.algorithm.init(fed.initial)


def called(clock, round=0, **schedule):
    fed, state = clocked(clock, **schedule)
    return fed.call(round, state)


def table(tmp_path, *rows, header="client,step_s,up_bytes_s,down_bytes_s"):
    path = tmp_path / "speeds.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


ALIKE = {"step_s": 0.5, "up_bytes_s": 1e18, "down_bytes_s": 1e18}  # transfers take no time worth naming


def test_seconds_are_bytes_down_and_steps_and_bytes_up():
    fed, state = clocked(VirtualClock(step_s=0.25, up_bytes_s=1000.0, down_bytes_s=4000.0), sizes=(60,))
    call = fed.call(0, state)
    numbers = sum(tensor.numel() for tensor in fed.initial.parameters.values())
    down = call.metrics["comm/down_bytes"]
    assert down > 4 * numbers
    assert call.metrics["time/simulated_s"] == pytest.approx(
        down / 4000 + 6 * 0.25 + (8 + 4 * numbers) / 1000, rel=1e-12
    )
    record = next(iter(fed.run()))
    assert record.metrics["time/simulated_s"] == call.metrics["time/simulated_s"]
    assert (record.metrics["comm/up_bytes"], record.metrics["clients/cut"]) == (8 + 4 * numbers, 0)


def test_a_round_lasts_as_long_as_the_slowest_who_is_asked():
    call = called(VirtualClock(**ALIKE))
    assert call.clients == call.cohort == (0, 1, 2, 3)
    assert call.metrics["time/simulated_s"] == pytest.approx(3.0)
    assert (call.failures, call.budgets) == ((), {})


def test_a_deadline_leaves_out_who_would_miss_it_and_is_waited_for():
    call = called(VirtualClock(**ALIKE, deadline_s=2.25))
    assert (call.cohort, call.clients, call.budgets) == ((0, 1, 2, 3), (1, 2, 3), {})
    ((late, outcome, reason),) = [(f.client, f.outcome, f.reason) for f in call.failures]
    assert (late, outcome, reason) == (0, "deadline", "would have taken 3 s, and clock.deadline_s=2.25")
    assert call.metrics["time/simulated_s"] == 2.25


def test_who_would_miss_it_does_the_steps_that_it_can():
    call = called(VirtualClock(**ALIKE, deadline_s=1.75, late="cut"))
    assert (call.clients, call.budgets, call.failures) == ((0, 1, 2, 3), {0: 3, 1: 3}, ())
    assert call.metrics["time/simulated_s"] == pytest.approx(1.5)
    assert call.metrics["clients/cut"] == 2


def test_who_would_not_do_one_step_is_left_out():
    call = called(VirtualClock(**ALIKE, deadline_s=0.4, late="cut"))
    assert (call.clients, [failure.client for failure in call.failures]) == ((3,), [0, 1, 2])
    slow = called(VirtualClock(step_s=0.5, up_bytes_s=1.0, down_bytes_s=1.0, deadline_s=0.4, late="cut"))
    assert (slow.clients, len(slow.failures)) == ((), 4)  # not even the one that has nothing to do


@pytest.mark.parametrize("deadline", [0.6, 0.7, 0.9, 1.1])
def test_steps_that_end_with_the_deadline_are_in_time(deadline):
    call = called(VirtualClock(**{**ALIKE, "step_s": 0.1}, deadline_s=deadline, late="cut"), sizes=(120,))
    assert call.budgets == {0: round(10 * deadline)}


def test_the_first_to_finish_are_asked_in_the_cohorts_order():
    four = {"clients_per_round": 2, "over_select": 1.9}
    call = called(VirtualClock(**ALIKE), **four)
    assert (call.cohort, call.clients) == ((0, 1, 2, 3), (2, 3))
    assert {(f.client, f.outcome, f.reason) for f in call.failures} == {
        (0, "surplus", "came after the first 2"),
        (1, "surplus", "came after the first 2"),
    }
    assert call.metrics["time/simulated_s"] == pytest.approx(1.0)
    assert called(VirtualClock(**ALIKE), sizes=(20, 20, 20, 20), **four).clients == (
        0,
        1,
    )  # equal ones: the cohort's order


def test_a_deadline_is_waited_for_only_if_too_few_were_there():
    over = {"sizes": (60, 40, 20, 10), "over_select": 2.0}
    enough = called(VirtualClock(**ALIKE, deadline_s=2.25), clients_per_round=2, **over)
    assert (enough.clients, enough.metrics["time/simulated_s"]) == ((2, 3), pytest.approx(1.0))
    assert [(failure.outcome, failure.reason[:5]) for failure in enough.failures] == [
        ("deadline", "would"),
        ("surplus", "came "),
    ]
    short = called(VirtualClock(**ALIKE, deadline_s=1.25), clients_per_round=3, **over)
    assert (short.clients, short.metrics["time/simulated_s"]) == ((2, 3), 1.25)


def test_a_call_is_the_same_again_and_with_every_algorithm_and_executor():
    clock = VirtualClock(
        step_s=0.1, up_bytes_s=1e6, down_bytes_s=1e6, step_sigma=1.0, bandwidth_sigma=1.0, deadline_s=0.6
    )
    fed, state = clocked(clock, clients_per_round=2, over_select=1.5)
    other = replace(fed, worker=replace(fed.worker, algorithm=FedAvg(proximal=1.0)), executor=Processes(workers=2))
    for round in (0, 1, 5):
        assert fed.call(round, state) == fed.call(round, state) == other.call(round, state)


def test_speeds_are_lognormal_keyed_by_client_and_of_one_link():
    clock = VirtualClock(step_s=0.1, up_bytes_s=1e6, down_bytes_s=3e6, step_sigma=0.5, bandwidth_sigma=0.25)
    speeds = np.asarray([clock.speed(0, client) for client in range(400)])
    assert np.median(speeds, axis=0) == pytest.approx([0.1, 1e6, 3e6], rel=0.1)
    assert np.log(speeds).std(axis=0) == pytest.approx([0.5, 0.25, 0.25], rel=0.1)
    assert speeds[:, 2] / speeds[:, 1] == pytest.approx(3.0)
    assert clock.speed(0, 10**6) == clock.speed(0, 10**6) != clock.speed(1, 10**6)
    wider = replace(clock, step_sigma=1.0).speed(0, 7)
    assert wider[1:] == clock.speed(0, 7)[1:]
    assert wider.step_s / 0.1 == pytest.approx((clock.speed(0, 7).step_s / 0.1) ** 2)


def test_a_table_says_how_fast_each_client_is(tmp_path):
    path = table(tmp_path, "2, 1.0, 1e12, 1e12", "0, 0.25, 1e12, 1e12", "1, 0.5, 1e12, 1e12", "3, 1, 1e12, 1e12")
    call = called(VirtualClock(table=path, deadline_s=1.9))
    assert (call.clients, [failure.client for failure in call.failures]) == ((0, 3), [1, 2])


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        ((), "client,step_s,up_bytes_s", "has no column down_bytes_s"),
        (("0,1,1,1", "1,0,1,1"), None, "line 3: step_s of client 1 must be a number above 0, not 0"),
        (("0,1,1,",), None, "down_bytes_s of client 0 must be"),
        (("0,1,1",), None, "down_bytes_s of client 0 must be"),
        (("0,1,1,inf",), None, "down_bytes_s of client 0 must be"),
        (("0,1,1,fast",), None, "line 2"),
        (("zero,1,1,1",), None, "line 2"),
        (("-1,1,1,1",), None, "client -1 is below 0"),
        (("0,1,1,1", "0,1,1,1"), None, "client 0 comes twice"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(tmp_path, rows, header, said):
    path = table(tmp_path, *rows, **({"header": header} if header else {}))
    with pytest.raises(ConfigError, match="table=") as error:
        VirtualClock(table=path)
    assert said in str(error.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_table_that_cannot_be_read_is_a_mistake(tmp_path, content):
    path = tmp_path / "speeds.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"table=.*cannot be read"):
        VirtualClock(table=str(path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[
            (key, value)
            for key in ("step_s", "up_bytes_s", "down_bytes_s")
            for value in (0.0, -1.0, float("inf"), None)
        ],
        *[(key, value) for key in ("step_sigma", "bandwidth_sigma") for value in (-0.1, 11.0, float("nan"))],
        ("deadline_s", 0.0),
        ("deadline_s", float("inf")),
        ("late", "wait"),
        ("late", "cut"),  # without a deadline
    ],
)
def test_wrong_values_are_named(key, value):
    with pytest.raises(ConfigError) as error:
        VirtualClock(**{**ALIKE, key: value})
    assert error.value.key == key


@pytest.mark.parametrize("more", [{"step_s": 1.0}, {"step_sigma": 1.0}])
def test_a_table_and_what_is_drawn_exclude_each_other(tmp_path, more):
    with pytest.raises(ConfigError) as error:
        VirtualClock(table=table(tmp_path, "0,1,1,1"), **more)
    assert [error.value.key] == list(more)


@pytest.mark.parametrize("samples", [0, 7, 35])
@pytest.mark.parametrize(
    ("options", "recipe", "loading"),
    [
        ({}, {"epochs": 2}, {}),
        ({}, {"epochs": 2}, {"drop_last": True}),
        ({}, {"epochs": 2}, {"batch_size": "full"}),
        ({}, {"steps": 5}, {"drop_last": True}),
        ({"accumulate_grad_batches": 2}, {"epochs": 2}, {}),
        ({"accumulate_grad_batches": 3}, {"steps": 2}, {}),
        ({"limit_train_batches": 3}, {"epochs": 2}, {}),
        ({"limit_train_batches": 1.0}, {"epochs": 2}, {}),
        ({"limit_train_batches": 0.5, "accumulate_grad_batches": 2}, {"epochs": 2}, {"batch_size": 3}),
        ({"limit_train_batches": 0}, {"steps": 2}, {}),
    ],
)
def test_the_steps_that_are_planned_are_those_that_happen(samples, options, recipe, loading):
    held = holdings(pairs(*[(1.0, 1.0)] * 35), [0] * samples + [1] * (35 - samples), clients=2)
    held = replace(held, loading=replace(held.loading, batch_size=10))
    worker = work(options, recipe, replace(held, loading=replace(held.loading, **loading)))
    happened = worker.local(0, 0, {}).fit(worker.replica.read()).steps
    assert planned_steps(worker.trainer_config, worker.data.loading, np.asarray([samples])).tolist() == [happened]


def work(options, recipe, held, module=None):
    return ClientWorker(
        FedAvg(),
        ModuleReplica(module or Quadratic(1.0)),
        TrainerConfig({"accelerator": "cpu", **options}, **recipe),
        held,
    )


@pytest.mark.parametrize("batches", [1, 2])
def test_a_client_that_is_cut_sends_what_a_fit_of_so_many_steps_sends(batches):
    recipe = TrainerConfig({"accelerator": "cpu", "accumulate_grad_batches": batches})
    fed, state = clocked(
        VirtualClock(**ALIKE, deadline_s=2.75 / batches, late="cut"),
        recipe=recipe,
        local_epochs=2,
        quorum=3,
        norm="batch",
    )
    fed = replace(fed, worker=replace(fed.worker, trainer_config=replace(fed.worker.trainer_config, epochs=2)))
    call = fed.call(0, state)
    assert call.budgets == ({0: 5, 1: 5} if batches == 1 else {0: 2, 1: 2})
    for client, steps in call.budgets.items():
        partial = fed.worker(TrainJob(0, 0, (client,), budgets=call.budgets), state)
        short = replace(fed.worker, trainer_config=replace(fed.worker.trainer_config, steps=steps))(
            TrainJob(0, 0, (client,)), state
        )
        whole = fed.worker(TrainJob(0, 0, (client,)), state)
        assert partial.steps == short.steps == steps < whole.steps
        assert partial.weight == whole.weight
        assert torch.equal(partial.total, short.total)
        assert not torch.equal(partial.total, whole.total)
    record = next(iter(fed.run()))
    assert record.metrics["clients/steps"] == sum(call.budgets.values()) + 4 // batches
    assert (record.metrics["clients/cut"], record.lost) == (2, None)


class Planning(Quadratic):
    """A Quadratic whose rate falls to 0 over all that its Trainer is going to do."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def test_a_cut_is_the_beginning_of_the_whole_fit_for_a_module_that_plans_ahead_too():
    held = holdings(pairs((1.0, 2.0)), batch=1)
    worker = work({}, {"epochs": 4}, held, Planning(0.0, lr=1.0))
    fit = worker.local(0, 0, {}, budget=2).fit(worker.replica.read())
    assert fit.steps == 2
    assert fit.model.parameters["w"].item() == pytest.approx(0 + 1.0 * 2 + 0.75 * 0)
    slower = work({}, {"epochs": 4}, held, Planning(0.0, lr=0.5))
    fit = slower.local(0, 0, {}, budget=2).fit(slower.replica.read())
    assert fit.model.parameters["w"].item() == pytest.approx(1.0 + 0.375 * 1.0)  # rates 4/4 and 3/4 of 0.5


def test_a_clients_optimizer_goes_on_from_where_it_was_cut():
    rows = [(1.0, 2.0)]
    fed = quadratics(rows, rounds=2, steps=3, module=Quadratic(1.0, momentum=0.9), client_state="keep")
    fed = replace(fed, clock=VirtualClock(**ALIKE, deadline_s=1.1, late="cut"))
    w, velocity, ends = 1.0, 0.0, []
    for _ in range(4):
        velocity = 0.9 * velocity + (w - 2.0)
        w -= 0.1 * velocity
        ends.append(w)
    records = list(fed.run())
    assert [record.metrics["clients/steps"] for record in records] == [2, 2]
    assert [record.model.parameters["w"].item() for record in records] == pytest.approx(ends[1::2], abs=1e-6)


def test_deadline_failures_are_in_the_record_and_in_the_quorum():
    fed, _ = clocked(VirtualClock(**ALIKE, deadline_s=2.25), quorum=3, rounds=1)
    (record,) = fed.run()
    assert record.cohort == (0, 1, 2, 3)
    assert [(failure.client, failure.outcome) for failure in record.failures] == [(0, "deadline")]
    assert (record.metrics["clients/failed"], record.metrics["clients/trained"], record.lost) == (1, 3, None)
    (nobody,) = clocked(VirtualClock(**ALIKE, deadline_s=0.4), sizes=(60, 40), rounds=1)[0].run()
    assert (nobody.lost is not None, nobody.metrics["clients/failed"], nobody.metrics["clients/steps"]) == (True, 2, 0)


@pytest.mark.parametrize(
    ("factor", "sampled"), [(1.0, 100), (1.1, 110), (1.101, 111), (1.3, 130), (2.0, 200), (9.0, 400)]
)
def test_how_many_are_sampled(factor, sampled):
    assert Schedule(clients_per_round=100, over_select=factor).num_sampled(400) == sampled


@pytest.mark.parametrize("factor", [0.9, float("inf"), float("nan")])
def test_a_wrong_factor_is_named(factor):
    with pytest.raises(ConfigError) as error:
        Schedule(over_select=factor)
    assert error.value.key == "over_select"


class ByHand(Quadratic):
    def __init__(self):
        super().__init__(1.0)
        self.automatic_optimization = False


def test_what_cannot_be_done_is_refused_without_a_configuration_too(tmp_path):
    with pytest.raises(ConfigError, match=r"schedule\.over_select=2"):
        called(None, clients_per_round=2, over_select=2.0)
    with pytest.raises(ConfigError, match=r"clock\.table=.* no row for client 0"):
        called(VirtualClock(table=table(tmp_path, "1,1,1,1")))
    fed = quadratics([(1.0, 2.0)], module=ByHand())
    cut = VirtualClock(**ALIKE, deadline_s=1.0, late="cut")
    with pytest.raises(ConfigError, match=r"clock\.late=cut: cannot cut ByHand"):
        replace(fed, clock=cut).call(0, ServerState(0, {"model": fed.initial}))
    (mistake,) = cut.check_deadline(fed.worker, ServerState(0, {"model": fed.initial}), fed.schedule)
    assert (mistake.key, mistake.warning) == ("clock.late", False)


@pytest.mark.parametrize(
    ("deadline", "late", "warned"),
    [(9.0, "drop", None), (2.25, "drop", None), (0.75, "drop", True), (0.75, "cut", None), (1e-3, "drop", False)],
)
def test_a_deadline_that_loses_rounds_is_told_before_round_1(deadline, late, warned):
    fed, state = clocked(VirtualClock(**ALIKE, deadline_s=deadline, late=late), sizes=(60, 40, 20, 10), quorum=2)
    found = list(fed.clock.foresee(fed.worker, state, fed.schedule))
    assert [(mistake.key, mistake.warning) for mistake in found] == (
        [] if warned is None else [("clock.deadline_s", warned)]
    )
    assert all("min 0.5, median 1.5, max 3 s" in mistake.allowed for mistake in found)


def test_how_probable_a_round_of_too_few_is():
    assert prob_below_quorum(4, 0, 2, 1) == pytest.approx(1.0)
    assert prob_below_quorum(4, 4, 2, 1) == 0.0
    assert prob_below_quorum(4, 2, 2, 1) == pytest.approx(1 / 6)
    assert prob_below_quorum(4, 2, 2, 2) == pytest.approx(5 / 6)
    assert prob_below_quorum(5, 3, 5, 3) == 0.0
    assert prob_below_quorum(10**6, 10**6 // 2, 20, 1) == pytest.approx(2.0**-20, rel=1e-3)


def test_a_configuration_makes_a_clock_or_none(tmp_path):
    cut = ["clock=lognormal", "clock.deadline_s=4", "clock.late=cut"]
    run = built(*cut, "schedule.over_select=1.5", "schedule.rounds=1", folder=tmp_path)
    fed = run.federation
    assert (fed.clock.deadline_s, fed.sampler.size, run.warnings) == (4, 5, ())
    (record,) = fed.run()
    assert (len(record.cohort), record.metrics["clients/trained"]) == (5, 3)
    assert 0 < record.metrics["time/simulated_s"] <= 4
    assert built().federation.clock is None


def test_mistakes_have_their_full_names(tmp_path):
    path = table(tmp_path, "1,1,1,1")
    assert "needs" not in mistakes("schedule.over_select=1.5").get("schedule.over_select", "needs")
    assert "no row for client 0, 2, 3, 4, 5 and 4 more" in mistakes("clock=table", f"clock.table={path}")["clock.table"]
    assert "clock=lognormal has one" in mistakes("+clock.deadline_s=1")["clock.step_s"]
    assert "clock.deadline_s" in mistakes("clock=lognormal", "clock.deadline_s=0.0001")
