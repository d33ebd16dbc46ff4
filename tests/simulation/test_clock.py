"""The virtual clock: the clients that a round waits for, and their steps; only the seed decides both."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from configured import build as built
from configured import errors_of as mistakes
from conftest import Quadratic, federation, holdings, pairs
from test_federation import quadratics

from fedlit.algorithms import FedAvg
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.steps.planned import planned_steps
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.facts import Sampling
from fedlit.core.messages import TrainJob
from fedlit.data import Data, Iid, Population
from fedlit.data.loading import Loading
from fedlit.executors import Processes
from fedlit.server.rounds import select
from fedlit.server.sampling import Uniform
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation
from fedlit.simulation.clock import VirtualClock, evenly_spaced_clients, prob_below_quorum

SIZES = (60, 40, 20, 0)  # six, four, two steps of ten samples, and none


def make_federation(clock, sizes=SIZES, **schedule):
    """A federation whose clients have `sizes` samples and all take part in every round, and its state before round 1."""
    fed = federation(clients=len(sizes), cohort=len(sizes), samples=sum(sizes), **schedule)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    client_data = replace(fed.worker.data, population=Population.of(owner, len(sizes)))
    sampler = Uniform(fed.schedule.num_sampled(len(sizes)))
    fed = replace(fed.with_worker(replace(fed.worker, data=client_data)), sampler=sampler, clock=clock)
    return fed, fed.initial_state()


def plan_round(fed, state):
    """Return the plan of the round after a state."""
    return select(fed, state, lambda jobs, state: map(partial(fed.worker, state=state), jobs))


def plan_first_round(clock, **schedule):
    """Return the plan of round 1 under a clock."""
    return plan_round(*make_federation(clock, **schedule))


def table(tmp_path, *rows, header="client,step_s,up_bytes_s,down_bytes_s"):
    path = tmp_path / "speeds.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


ALIKE = {"step_s": 0.5, "up_bytes_s": 1e18, "down_bytes_s": 1e18}  # the time of transfers is negligible


def test_seconds_are_bytes_down_and_steps_and_bytes_up():
    fed, state = make_federation(VirtualClock(step_s=0.25, up_bytes_s=1000.0, down_bytes_s=4000.0), sizes=(60,))
    plan = plan_round(fed, state)
    numbers = sum(tensor.numel() for tensor in fed.initial.parameters.values())
    down = plan.metrics["comm/down_bytes"]
    assert down > 4 * numbers
    assert plan.metrics["time/simulated_s"] == pytest.approx(
        down / 4000 + 6 * 0.25 + (8 + 4 * numbers) / 1000, rel=1e-12
    )
    record = next(iter(fed.run()))
    assert record.metrics["time/simulated_s"] == plan.metrics["time/simulated_s"]
    assert (record.metrics["comm/up_bytes"], record.metrics["clients/cut"]) == (8 + 4 * numbers, 0)


def test_round_lasts_as_long_as_its_slowest_client():
    plan = plan_first_round(VirtualClock(**ALIKE))
    assert plan.clients == plan.cohort == (0, 1, 2, 3)
    assert plan.metrics["time/simulated_s"] == pytest.approx(3.0)
    assert (plan.failures, plan.budgets) == ((), {})


def test_deadline_leaves_out_a_straggler_and_the_round_lasts_until_the_deadline():
    plan = plan_first_round(VirtualClock(**ALIKE, deadline_s=2.25))
    assert (plan.cohort, plan.clients, plan.budgets) == ((0, 1, 2, 3), (1, 2, 3), {})
    ((client, outcome, reason),) = [(f.client, f.outcome, f.reason) for f in plan.failures]
    assert (client, outcome, reason) == (0, "deadline", "would have taken 3 s, more than clock.deadline_s=2.25")
    assert plan.metrics["time/simulated_s"] == 2.25


def test_cut_straggler_does_the_steps_that_fit_the_deadline():
    plan = plan_first_round(VirtualClock(**ALIKE, deadline_s=1.75, late="cut"))
    assert (plan.clients, plan.budgets, plan.failures) == ((0, 1, 2, 3), {0: 3, 1: 3}, ())
    assert plan.metrics["time/simulated_s"] == pytest.approx(1.5)
    assert plan.metrics["clients/cut"] == 2


def test_cut_straggler_without_a_step_is_left_out():
    plan = plan_first_round(VirtualClock(**ALIKE, deadline_s=0.4, late="cut"))
    assert (plan.clients, [failure.client for failure in plan.failures]) == ((3,), [0, 1, 2])
    slow = plan_first_round(VirtualClock(step_s=0.5, up_bytes_s=1.0, down_bytes_s=1.0, deadline_s=0.4, late="cut"))
    assert (slow.clients, len(slow.failures)) == ((), 4)  # also the client without samples


@pytest.mark.parametrize("deadline", [0.6, 0.7, 0.9, 1.1])
def test_steps_that_end_at_the_deadline_are_in_time(deadline):
    plan = plan_first_round(VirtualClock(**{**ALIKE, "step_s": 0.1}, deadline_s=deadline, late="cut"), sizes=(120,))
    assert plan.budgets == {0: round(10 * deadline)}


def test_fastest_clients_train_in_the_order_of_the_cohort():
    four = {"clients_per_round": 2, "over_select": 1.9}
    plan = plan_first_round(VirtualClock(**ALIKE), **four)
    assert (plan.cohort, plan.clients) == ((0, 1, 2, 3), (2, 3))
    assert {(f.client, f.outcome, f.reason) for f in plan.failures} == {
        (0, "surplus", "came after the first 2 clients"),
        (1, "surplus", "came after the first 2 clients"),
    }
    assert plan.metrics["time/simulated_s"] == pytest.approx(1.0)
    equal = plan_first_round(VirtualClock(**ALIKE), sizes=(20, 20, 20, 20), **four)
    assert equal.clients == (0, 1)  # ties in the order of the cohort


def test_round_waits_for_the_deadline_only_if_too_few_clients_are_in_time():
    over = {"sizes": (60, 40, 20, 10), "over_select": 2.0}
    enough = plan_first_round(VirtualClock(**ALIKE, deadline_s=2.25), clients_per_round=2, **over)
    assert (enough.clients, enough.metrics["time/simulated_s"]) == ((2, 3), pytest.approx(1.0))
    assert [(failure.outcome, failure.reason[:5]) for failure in enough.failures] == [
        ("deadline", "would"),
        ("surplus", "came "),
    ]
    short = plan_first_round(VirtualClock(**ALIKE, deadline_s=1.25), clients_per_round=3, **over)
    assert (short.clients, short.metrics["time/simulated_s"]) == ((2, 3), 1.25)


def test_round_plan_is_the_same_again_and_with_every_algorithm_and_executor():
    clock = VirtualClock(
        step_s=0.1, up_bytes_s=1e6, down_bytes_s=1e6, step_sigma=1.0, bandwidth_sigma=1.0, deadline_s=0.6
    )
    fed, state = make_federation(clock, clients_per_round=2, over_select=1.5)
    other = replace(fed.with_worker(replace(fed.worker, algorithm=FedAvg(proximal=1.0))), executor=Processes(workers=2))
    for round in (0, 1, 5):
        later = replace(state, round=round)
        assert plan_round(fed, later) == plan_round(fed, later) == plan_round(other, later)


def test_the_fastest_clients_are_no_uniform_sample():
    fed, _ = make_federation(VirtualClock(**ALIKE), clients_per_round=2)
    assert fed.sampling == Sampling("fixed", probability=2 / len(fed.registry), size=2)
    over = replace(fed, schedule=replace(fed.schedule, over_select=1.5))
    assert over.sampling == Sampling("other")


def test_speeds_are_lognormal_and_keyed_by_client_and_both_bandwidths_share_a_factor():
    clock = VirtualClock(step_s=0.1, up_bytes_s=1e6, down_bytes_s=3e6, step_sigma=0.5, bandwidth_sigma=0.25)
    speeds = np.asarray([clock.speed(0, client) for client in range(400)])
    assert np.median(speeds, axis=0) == pytest.approx([0.1, 1e6, 3e6], rel=0.1)
    assert np.log(speeds).std(axis=0) == pytest.approx([0.5, 0.25, 0.25], rel=0.1)
    assert speeds[:, 2] / speeds[:, 1] == pytest.approx(3.0)
    assert clock.speed(0, 10**6) == clock.speed(0, 10**6) != clock.speed(1, 10**6)
    wider = replace(clock, step_sigma=1.0).speed(0, 7)
    assert wider[1:] == clock.speed(0, 7)[1:]
    assert wider.step_s / 0.1 == pytest.approx((clock.speed(0, 7).step_s / 0.1) ** 2)


def test_table_sets_the_speed_of_each_client(tmp_path):
    path = table(tmp_path, "2, 1.0, 1e12, 1e12", "0, 0.25, 1e12, 1e12", "1, 0.5, 1e12, 1e12", "3, 1, 1e12, 1e12")
    plan = plan_first_round(VirtualClock(table=path, deadline_s=1.9))
    assert (plan.clients, [failure.client for failure in plan.failures]) == ((0, 3), [1, 2])


@pytest.mark.parametrize(
    ("rows", "header", "problem"),
    [
        ((), "client,step_s,up_bytes_s", "has no column down_bytes_s"),
        (("0,1,1,1", "1,0,1,1"), None, "line 3: step_s of client 1 must be finite and greater than 0, not 0"),
        (("0,1,1,",), None, "down_bytes_s of client 0 must be"),
        (("0,1,1",), None, "down_bytes_s of client 0 must be"),
        (("0,1,1,inf",), None, "down_bytes_s of client 0 must be"),
        (("0,1,1,fast",), None, "line 2"),
        (("zero,1,1,1",), None, "line 2"),
        (("-1,1,1,1",), None, "client -1 is below 0"),
        (("0,1,1,1", "0,1,1,1"), None, "client 0 has two rows"),
    ],
)
def test_errors_in_a_table_are_reported(tmp_path, rows, header, problem):
    path = table(tmp_path, *rows, **({"header": header} if header else {}))
    with pytest.raises(ConfigError, match="table=") as error:
        VirtualClock(table=path)
    assert problem in str(error.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_unreadable_table_is_an_error(tmp_path, content):
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
def test_errors_name_their_argument(key, value):
    with pytest.raises(ConfigError) as error:
        VirtualClock(**{**ALIKE, key: value})
    assert error.value.key == key


@pytest.mark.parametrize("more", [{"step_s": 1.0}, {"step_sigma": 1.0}])
def test_table_and_drawn_speeds_exclude_each_other(tmp_path, more):
    with pytest.raises(ConfigError) as error:
        VirtualClock(table=table(tmp_path, "0,1,1,1"), **more)
    assert [error.value.key] == list(more)


@pytest.mark.parametrize("samples", [0, 7, 35])
@pytest.mark.parametrize(
    ("options", "config", "loading"),
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
def test_planned_steps_are_the_steps_of_the_fit(samples, options, config, loading):
    client_data = holdings(pairs(*[(1.0, 1.0)] * 35), [0] * samples + [1] * (35 - samples), clients=2)
    client_data = replace(client_data, loading=replace(client_data.loading, batch_size=10))
    worker = make_worker(options, config, replace(client_data, loading=replace(client_data.loading, **loading)))
    done = worker.local_trainer(0, 0, {}).fit(worker.replica.read()).steps
    assert planned_steps(worker.trainer_config, worker.data.loading, np.asarray([samples])).tolist() == [done]


def make_worker(options, config, client_data, module=None):
    return ClientWorker(
        FedAvg(),
        ModuleReplica(module or Quadratic(1.0)),
        TrainerConfig({"accelerator": "cpu", **options}, **config),
        client_data,
    )


@pytest.mark.parametrize("batches", [1, 2])
def test_cut_client_sends_the_update_of_a_fit_with_its_step_budget(batches):
    config = TrainerConfig({"accelerator": "cpu", "accumulate_grad_batches": batches})
    fed, state = make_federation(
        VirtualClock(**ALIKE, deadline_s=2.75 / batches, late="cut"),
        recipe=config,
        local_epochs=2,
        quorum=3,
        norm="batch",
    )
    fed = fed.with_worker(replace(fed.worker, trainer_config=replace(fed.worker.trainer_config, epochs=2)))
    plan = plan_round(fed, state)
    assert plan.budgets == ({0: 5, 1: 5} if batches == 1 else {0: 2, 1: 2})
    for client, steps in plan.budgets.items():
        partial = fed.worker(TrainJob(0, 0, (client,), budgets=plan.budgets), state)
        short = replace(fed.worker, trainer_config=replace(fed.worker.trainer_config, steps=steps))(
            TrainJob(0, 0, (client,)), state
        )
        whole = fed.worker(TrainJob(0, 0, (client,)), state)
        assert partial.steps == short.steps == steps < whole.steps
        assert partial.weight == whole.weight
        assert torch.equal(partial.total, short.total)
        assert not torch.equal(partial.total, whole.total)
    record = next(iter(fed.run()))
    assert record.metrics["clients/steps"] == sum(plan.budgets.values()) + 4 // batches
    assert (record.metrics["clients/cut"], record.lost) == (2, None)


class Planning(Quadratic):
    """A Quadratic whose learning rate falls to 0 over all steps that its Trainer plans."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def test_cut_fit_equals_the_first_steps_of_the_whole_fit_with_a_schedule_over_all_steps():
    client_data = holdings(pairs((1.0, 2.0)), batch=1)
    worker = make_worker({}, {"epochs": 4}, client_data, Planning(0.0, lr=1.0))
    fit = worker.local_trainer(0, 0, {}, step_budget=2).fit(worker.replica.read())
    assert fit.steps == 2
    assert fit.model.parameters["w"].item() == pytest.approx(0 + 1.0 * 2 + 0.75 * 0)
    slower = make_worker({}, {"epochs": 4}, client_data, Planning(0.0, lr=0.5))
    fit = slower.local_trainer(0, 0, {}, step_budget=2).fit(slower.replica.read())
    assert fit.model.parameters["w"].item() == pytest.approx(1.0 + 0.375 * 1.0)  # learning rates 4/4 and 3/4 of 0.5


def test_optimizer_state_of_a_cut_client_continues_in_the_next_round():
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


def test_deadline_failures_are_in_the_record_and_count_for_the_quorum():
    fed, _ = make_federation(VirtualClock(**ALIKE, deadline_s=2.25), quorum=3, rounds=1)
    (record,) = fed.run()
    assert record.cohort == (0, 1, 2, 3)
    assert [(failure.client, failure.outcome) for failure in record.failures] == [(0, "deadline")]
    assert (record.metrics["clients/failed"], record.metrics["clients/trained"], record.lost) == (1, 3, None)
    (empty,) = make_federation(VirtualClock(**ALIKE, deadline_s=0.4), sizes=(60, 40), rounds=1)[0].run()
    assert (empty.lost is not None, empty.metrics["clients/failed"], empty.metrics["clients/steps"]) == (True, 2, 0)


@pytest.mark.parametrize(
    ("factor", "sampled"), [(1.0, 100), (1.1, 110), (1.101, 111), (1.3, 130), (2.0, 200), (9.0, 400)]
)
def test_over_select_sets_the_number_of_sampled_clients(factor, sampled):
    assert Schedule(clients_per_round=100, over_select=factor).num_sampled(400) == sampled


@pytest.mark.parametrize("factor", [0.9, float("inf"), float("nan")])
def test_error_in_over_select_names_it(factor):
    with pytest.raises(ConfigError) as error:
        Schedule(over_select=factor)
    assert error.value.key == "over_select"


class ManualOptimization(Quadratic):
    def __init__(self):
        super().__init__(1.0)
        self.automatic_optimization = False


def test_impossible_clocks_are_refused_without_a_configuration_too(tmp_path):
    with pytest.raises(ConfigError, match=r"schedule\.over_select=2"):
        plan_first_round(None, clients_per_round=2, over_select=2.0)
    with pytest.raises(ConfigError, match=r"clock\.table=.* no row for client 0"):
        plan_first_round(VirtualClock(table=table(tmp_path, "1,1,1,1")))
    data, cut = Data("pairs", pairs((1.0, 2.0)), None, (2,), ("0",)), VirtualClock(**ALIKE, deadline_s=1.0, late="cut")
    parts = (ManualOptimization, data, Iid(1), FedAvg(), Schedule(rounds=1, clients_per_round=1, local_epochs=1))
    options = {"loading": Loading(val_fraction=0.0), "trainer_config": TrainerConfig({"accelerator": "cpu"})}
    with pytest.raises(
        ConfigErrors, match=r"clock\.late=cut: cannot end the local training of ManualOptimization early"
    ):
        Federation.of(*parts, clock=cut, **options)
    fed = Federation.of(*parts, clock=replace(cut, late="drop"), **options)
    (error,) = cut.check(fed.facts(data))
    assert (error.key, error.value, error.warning) == ("clock.late", "cut", False)


@pytest.mark.parametrize(
    ("deadline", "late", "is_warning"),
    [(9.0, "drop", None), (2.25, "drop", None), (0.75, "drop", True), (0.75, "cut", None), (1e-3, "drop", False)],
)
def test_deadline_that_loses_rounds_is_reported_before_round_1(deadline, late, is_warning):
    fed, state = make_federation(
        VirtualClock(**ALIKE, deadline_s=deadline, late=late), sizes=(60, 40, 20, 10), quorum=2
    )
    work, schedule = fed.round_work(evenly_spaced_clients(4), state), fed.schedule
    errors = list(fed.clock.check_deadline(work, 4, schedule.rounds, schedule.num_sampled(4), schedule.quorum))
    expected = [] if is_warning is None else [("clock.deadline_s", is_warning)]
    assert [(error.key, error.warning) for error in errors] == expected
    assert all("min 0.5, median 1.5, max 3 s" in error.problem for error in errors)


def test_probability_of_a_round_below_the_quorum():
    assert prob_below_quorum(4, 0, 2, 1) == pytest.approx(1.0)
    assert prob_below_quorum(4, 4, 2, 1) == 0.0
    assert prob_below_quorum(4, 2, 2, 1) == pytest.approx(1 / 6)
    assert prob_below_quorum(4, 2, 2, 2) == pytest.approx(5 / 6)
    assert prob_below_quorum(5, 3, 5, 3) == 0.0
    assert prob_below_quorum(10**6, 10**6 // 2, 20, 1) == pytest.approx(2.0**-20, rel=1e-3)


def test_configuration_makes_a_clock_or_none(tmp_path):
    cut = ["clock=lognormal", "clock.deadline_s=4", "clock.late=cut"]
    run = built(*cut, "schedule.over_select=1.5", "schedule.rounds=1", folder=tmp_path)
    fed = run.federation
    assert (fed.clock.deadline_s, fed.sampler.size, run.warnings) == (4, 5, ())
    (record,) = fed.run()
    assert (len(record.cohort), record.metrics["clients/trained"]) == (5, 3)
    assert 0 < record.metrics["time/simulated_s"] <= 4
    assert built().federation.clock is None


def test_errors_have_their_full_names(tmp_path):
    path = table(tmp_path, "1,1,1,1")
    assert "needs" not in mistakes("schedule.over_select=1.5").get("schedule.over_select", "needs")
    assert "no row for client 0, 2, 3, 4, 5 and 4 more" in mistakes("clock=table", f"clock.table={path}")["clock.table"]
    assert "clock=lognormal has one" in mistakes("+clock.deadline_s=1")["clock.step_s"]
    assert "clock.deadline_s" in mistakes("clock=lognormal", "clock.deadline_s=0.0001")
