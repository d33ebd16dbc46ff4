"""The steps of a round one by one, and a stage with state through the whole federation."""

from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from conftest import Quadratic, federation, pairs
from test_federation import quadratics

from fedlit.aggregation import Channel, MeanAggregator, Order, Stage
from fedlit.aggregation.secure import IdealSum
from fedlit.algorithms import FedAvg, Scaffold
from fedlit.core.messages import PartialAggregate, StageState, TrainJob
from fedlit.core.serialization import state_nbytes, state_sha256, state_tree
from fedlit.data import Data, Population
from fedlit.data.loading import Loading
from fedlit.executors import Inline, Processes
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.checks.fingerprint import fingerprint
from fedlit.server.client_store import ClientStateStore
from fedlit.server.rounds import aggregate, evaluate, record, select, train
from fedlit.server.sampling import PowerOfChoice
from fedlit.server.sampling.cohort import RoundPlan
from fedlit.server.sampling.sampler import FunctionSampler
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation
from fedlit.simulation.client_faults import Corrupt, Drop
from fedlit.simulation.clock import VirtualClock
from fedlit.simulation.faults import FailurePolicy, FaultPlan

ROWS = [(1.0, 2.0), (3.0, -1.0), (0.5, 4.0), (2.0, 3.0)]


def execute_here(fed):
    """Return a function that executes jobs in this process."""
    return lambda jobs, state: map(partial(fed.worker, state=state), jobs)


def run_steps(fed):
    """Yield the records of all rounds, step by step."""
    state, clients, execute = fed.initial_state(), ClientStateStore(), execute_here(fed)
    while state.round < fed.schedule.rounds:
        plan = select(fed, state, execute)
        outcome = aggregate(fed, plan, state, train(plan, state, clients, execute))
        if outcome.lost is None:
            clients.update(outcome.tree.client_states)
        state = outcome.state
        scores = evaluate(fed, plan, state, clients, execute)
        yield record(fed, plan, outcome, scores, [0.0, 0.0, 0.0])


def without_times(record):
    return {name: value for name, value in record.to_dict().items() if name not in ("time/train_s", "time/round_s")}


def with_faults(fed, *plans):
    return fed.with_worker(replace(fed.worker, faults=FailurePolicy(plans=plans)))


FEDERATIONS = {
    "images": lambda: federation(eval_every=2, lr="cosine"),
    "client states": lambda: quadratics(ROWS, Scaffold(), client_state="keep"),
    "candidates": lambda: replace(quadratics(ROWS), sampler=PowerOfChoice(2)),
    "deadline": lambda: replace(quadratics(ROWS), clock=VirtualClock(0.5, 1e6, 1e6, deadline_s=0.75, late="cut")),
    "lost round": lambda: with_faults(
        quadratics(ROWS, Scaffold(), quorum=3),
        FaultPlan(Corrupt(), 1.0, clients=[1]),
        FaultPlan(Drop(), 1.0, clients=[0], rounds=[2]),
    ),
}


@pytest.mark.parametrize("name", FEDERATIONS)
def test_the_steps_of_a_round_one_by_one_give_the_same_records_as_run(name):
    fed = FEDERATIONS[name]()
    records, expected = list(run_steps(fed)), list(fed.run())
    assert [without_times(one) for one in records] == [without_times(one) for one in expected]
    assert len(records) == 3
    if name == "lost round":
        assert [one.lost is None for one in records] == [True, False, True]


def test_select_plans_the_cohort_and_the_bytes_that_it_receives():
    fed = federation(clients=4, cohort=2)
    plan = select(fed, fed.initial_state(), execute_here(fed))
    assert plan.clients == plan.cohort
    assert len(plan.cohort) == 2
    assert (plan.failures, plan.budgets, plan.up_bytes) == ((), {}, 0)
    assert plan.metrics == {"comm/down_bytes": 2 * fed.down_nbytes(fed.initial_state())}


def test_train_yields_the_partial_aggregates_in_the_order_of_the_plan():
    fed = quadratics(ROWS)
    plan, state = RoundPlan(cohort=(3, 1, 0), clients=(3, 0), budgets={0: 1}), fed.initial_state()
    clients = ClientStateStore({0: {"mine": {"n": torch.ones(1)}}})
    jobs = []
    partials = list(
        train(plan, state, clients, lambda batch, state: jobs.extend(batch) or execute_here(fed)(jobs, state))
    )
    assert [(partial.index, partial.members, partial.steps) for partial in partials] == [(0, (3,), 2), (1, (0,), 1)]
    assert jobs == [TrainJob(0, 0, (3,)), TrainJob(0, 1, (0,), clients.read([0]), {0: 1})]


def test_aggregate_changes_no_state_that_it_receives():
    fed = quadratics(ROWS, Scaffold())
    state, clients, execute = fed.initial_state(), ClientStateStore(), execute_here(fed)
    before, plan = state_sha256(state_tree(state)), select(fed, state, execute)
    outcomes = [aggregate(fed, plan, state, train(plan, state, clients, execute)) for _ in range(2)]
    assert state_sha256(state_tree(state)) == before
    assert state_sha256(state_tree(outcomes[0].state)) == state_sha256(state_tree(outcomes[1].state)) != before
    assert (state.round, outcomes[0].state.round, len(clients)) == (0, 1, 0)


@pytest.mark.parametrize(
    ("cohort", "partials", "lost"),
    [
        ((), [], "no client was sampled"),
        ((0, 1), [PartialAggregate(index=0), PartialAggregate(index=1)], "0 updates arrived, and schedule.quorum=1"),
        (
            (0,),
            [PartialAggregate(index=0, total=torch.zeros(1, dtype=torch.float64), members=(0,))],
            "the weights of all updates are 0",
        ),
    ],
)
def test_a_lost_round_leaves_everything_but_its_number(cohort, partials, lost):
    fed, plan = quadratics(ROWS), RoundPlan(cohort=cohort, clients=cohort)
    outcome = aggregate(fed, plan, fed.initial_state(), partials)
    assert (outcome.lost, dict(outcome.metrics)) == (lost, {})
    assert outcome.state == replace(fed.initial_state(), round=1)


def test_the_server_waits_for_the_quorum():
    fed = quadratics(ROWS, quorum=4)
    state, plan = fed.initial_state(), RoundPlan(cohort=(0, 1, 2), clients=(0, 1, 2))
    outcome = aggregate(fed, plan, state, train(plan, state, ClientStateStore(), execute_here(fed)))
    assert outcome.lost == "3 updates arrived, and schedule.quorum=4"
    assert outcome.tree.members == [0, 1, 2]


def test_evaluate_executes_nothing_in_a_round_without_an_evaluation():
    fed, jobs = federation(rounds=4, eval_every=2), []
    plan = RoundPlan(cohort=(0, 1), clients=(0, 1))

    def execute(batch, state):
        jobs.extend(batch)
        return execute_here(fed)(batch, state)

    for number in (1, 2):
        scores = evaluate(fed, plan, replace(fed.initial_state(), round=number), ClientStateStore(), execute)
        assert bool(scores.metrics) == bool(jobs) == (number == 2)
    assert [job.split for job in jobs] == ["val", "test"]


class Counting(Stage):
    """Counts only: opened rounds and updates on the server, own messages on each client.

    The server sends the count of rounds, and a client keeps the count that it received last.
    """

    order = Order.PROTECT

    def init(self, layout):
        return StageState({"rounds": torch.tensor(0)}, {"updates": torch.tensor(0), "lost": torch.tensor(0)})

    def encode(self, vector, ticket):
        messages = ticket.own.get("messages", torch.tensor(0)) + 1
        return vector, {"messages": messages, "rounds": ticket.shared["rounds"].clone()}

    def lose(self, ticket, state):
        assert set(ticket.clients) == {0, 1, 2, 3}
        return StageState(state.shared, {**state.private, "lost": state.private["lost"] + 1})

    def open(self, total, ticket, state):
        shared = {"rounds": state.shared["rounds"] + 1}
        updates = {"updates": state.private["updates"] + ticket.updates}
        return total, StageState(shared, {**state.private, **updates})


def by_row(samples, generator):
    """Partition: one client for each sample."""
    return Population.of(np.arange(len(samples)), len(samples))


def uniform(size):
    """Make a plain function that draws a cohort uniformly."""
    return lambda pool, generator: generator.choice(len(pool), size, replace=False)


FAULTS = FailurePolicy(
    plans=(
        FaultPlan(Corrupt(), 1.0, clients=[1], rounds=[2]),
        FaultPlan(Drop(), 1.0, clients=[0, 2], rounds=[3]),
    )
)
"""Client 1 sends an invalid update in round 2. Clients 0 and 2 drop out in round 3, which is lost under a quorum of 3."""

COUNTS = [
    ((1, 4), {0: (1, 0), 1: (1, 0), 2: (1, 0), 3: (1, 0)}),
    ((2, 7), {0: (2, 1), 1: (1, 0), 2: (2, 1), 3: (2, 1)}),
    ((2, 7), {0: (2, 1), 1: (1, 0), 2: (2, 1), 3: (2, 1)}),
    ((3, 11), {0: (3, 2), 1: (2, 2), 2: (3, 2), 3: (3, 2)}),
    ((4, 15), {0: (4, 3), 1: (3, 3), 2: (4, 3), 3: (4, 3)}),
]
"""After each round: rounds and updates of the server, and of each client its messages and the rounds that it received."""


def make_federation(*stages, folder=None, executor=None, algorithm=None, faults=FAULTS, momentum=0.0, **schedule):
    """Make a federation with one client for each row; by default five rounds, a quorum of 3, and `FAULTS`."""
    return Federation.of(
        partial(Quadratic, 1.0, momentum=momentum),
        Data("rows", pairs(*ROWS), None, (2,), ()),
        by_row,
        algorithm or Scaffold(),
        Schedule(**{"rounds": 5, "client_fraction": 1.0, "quorum": 3, "local_steps": 2, **schedule}),
        loading=Loading(batch_size="full", val_fraction=0.0),
        sampler=uniform,
        channel=Channel.of(stages),
        executor=executor or Inline(),
        checkpointer=None if folder is None else DiskCheckpointer(folder),
        faults=faults,
    )


def counts(folder):
    """Return the counts in the newest checkpoint, in the form of `COUNTS`."""
    checkpoint = DiskCheckpointer(folder).peek({})
    stage = checkpoint.state.channel["counting"]
    own = {client: groups["channel/counting"] for client, groups in checkpoint.client_states.read(range(4)).items()}
    numbers = {client: (int(state["messages"]), int(state["rounds"])) for client, state in sorted(own.items())}
    return (int(stage.shared["rounds"]), int(stage.private["updates"])), numbers


def model_digests(records):
    return [state_sha256({"model": one.model}) for one in records]


@pytest.fixture(scope="module")
def plain_records():
    """The records of the run without a stage."""
    torch.set_num_threads(1)
    return list(make_federation().run())


EXECUTORS = {"inline": Inline(), "processes": Processes(workers=2)}


@pytest.mark.parametrize("executor", ["inline", pytest.param("processes", marks=pytest.mark.slow)])
def test_a_stage_that_only_counts_changes_no_result(tmp_path, executor, plain_records, caplog):
    fed = make_federation(Counting(), folder=tmp_path, executor=EXECUTORS[executor])
    records, numbers = [], []
    for one in fed.run():
        records.append(one)
        numbers.append(counts(tmp_path))
    assert numbers == COUNTS
    assert int(DiskCheckpointer(tmp_path).peek({}).state.channel["counting"].private["lost"]) == 1
    assert model_digests(records) == model_digests(plain_records)
    assert [one.lost for one in records] == [None, None, "2 updates arrived, and schedule.quorum=3", None, None]
    assert [(f.client, f.outcome) for f in records[1].failures] == [(1, "not_finite")]
    assert "runs inline" not in caplog.text
    stage_bytes = state_nbytes({"channel/counting": {"rounds": torch.tensor(0)}})
    for one, plain in zip(records, plain_records, strict=True):
        assert one.failures == plain.failures
        assert one.metrics["comm/up_bytes"] == plain.metrics["comm/up_bytes"]
        assert one.metrics["comm/down_bytes"] == plain.metrics["comm/down_bytes"] + 4 * stage_bytes


@pytest.mark.parametrize("before", [2, 3])  # 2: after an update that was left out; 3: after a lost round
def test_the_counts_of_a_stage_survive_the_end_of_a_run(tmp_path, before, plain_records):
    expected = [one.sha256 for one in make_federation(Counting()).run()]
    run = make_federation(Counting(), folder=tmp_path).run()
    records = list(islice(run, before))
    run.close()
    assert counts(tmp_path) == COUNTS[before - 1]
    for one in make_federation(Counting(), folder=tmp_path).run():
        assert counts(tmp_path) == COUNTS[one.number - 1]
        records.append(one)
    assert [one.sha256 for one in records] == expected
    assert model_digests(records) == model_digests(plain_records)


def test_a_stage_keeps_its_tensors_beside_the_state_of_the_optimizer(tmp_path):
    settings = {"algorithm": FedAvg(), "client_state": "keep", "momentum": 0.9, "rounds": 2, "faults": None}
    records = list(make_federation(Counting(), folder=tmp_path, **settings).run())
    assert model_digests(records) == model_digests(make_federation(**settings).run())
    state = DiskCheckpointer(tmp_path).load().client_states.read([0])[0]
    assert {group.partition("/")[0] for group in state} == {"optimizer", "channel"}
    assert int(state["channel/counting"]["messages"]) == 2


class OtherMean(MeanAggregator):
    """The same rule under another name."""


def test_the_fingerprint_holds_the_stages_the_codec_and_the_aggregator():
    fed = make_federation(Counting())
    plain, staged = fingerprint(make_federation()), fingerprint(fed)
    assert {key: staged[key] for key in ("channel.counting", "channel.codec", "aggregator")} == {
        "channel.counting": "Counting", "channel.codec": "Float32", "aggregator": "MeanAggregator"
    }  # fmt: skip
    assert "channel.counting" not in plain
    other = fed.with_worker(replace(fed.worker, aggregator=OtherMean()))
    assert staged | {"aggregator": "OtherMean"} == fingerprint(other)


def test_the_fingerprint_holds_the_items_of_a_mapping():
    fed = make_federation()
    channels = [Channel.of([IdealSum(ranges={"control": value})]) for value in (2.0, 3.0)]
    one, other = (fingerprint(fed.with_worker(replace(fed.worker, channel=channel))) for channel in channels)
    assert {key for key in one if one[key] != other[key]} == {"channel.secure_sum.ranges.control"}


def test_a_federation_around_another_worker_takes_its_server_half_from_it():
    fed = make_federation()
    worker = replace(fed.worker, channel=Channel.of([Counting()]), algorithm=FedAvg(), faults=FailurePolicy())
    other = fed.with_worker(worker)
    assert (other.worker, other.channel, other.algorithm, other.faults) == (
        worker, worker.channel, worker.algorithm, worker.faults
    )  # fmt: skip
    assert (other.aggregator, other.trainer_config, other.loading) == (
        worker.aggregator, worker.trainer_config, worker.data.loading
    )  # fmt: skip
    assert list(other.initial_state().channel) == ["counting"]
    assert [one.lost for one in other.run()] == [None] * 5


def test_a_plain_function_draws_the_cohorts_of_a_federation():
    fed = make_federation(clients_per_round=2, quorum=1, rounds=1, faults=None)
    (one,) = fed.run()
    assert isinstance(fed.sampler, FunctionSampler)
    assert (len(one.cohort), one.lost) == (2, None)
