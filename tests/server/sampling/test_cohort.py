"""The plan of a round: candidates and their losses, empty cohorts, invalid cohorts."""

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from conftest import Quadratic, federation
from test_federation import quadratics

from fedlit.aggregation import MeanAggregator
from fedlit.aggregation.aggregator import merge
from fedlit.algorithms import FedAvg
from fedlit.core.errors import ConfigError, FatalClientFailure, LostRounds
from fedlit.core.facts import Sampling
from fedlit.core.messages import LossJob
from fedlit.core.serialization import shared_tree, state_nbytes
from fedlit.executors import Inline
from fedlit.executors.pool.dispatch import JobBatch
from fedlit.server.checkpoint.checkpointer import Checkpoint, NoCheckpoints
from fedlit.server.client_store import ClientStateStore
from fedlit.server.evaluation import Evaluations
from fedlit.server.rounds import select
from fedlit.server.sampling import Available, Poisson, PowerOfChoice, RoundRobin, Uniform, Weighted
from fedlit.server.sampling.cohort import draw_cohort
from fedlit.server.sampling.sampler import ClientPool, FunctionSampler, Sampler, as_sampler
from fedlit.simulation.client_faults import Drop
from fedlit.simulation.clock import VirtualClock
from fedlit.simulation.faults import FailurePolicy, FaultPlan

ROWS = [(1.0, 2.0), (1.0, 8.0), (1.0, 1.0), (1.0, -9.0), (1.0, 4.0)]
"""With w = 1 the losses are 0.5, 24.5, 0, 50, 4.5."""


def with_power_of_choice(rows=ROWS, candidates=5, faults=None, **options):
    fed = quadratics(rows, **{"rounds": 1, "steps": 1, **options})
    sampler = PowerOfChoice(2, candidates=candidates)
    return replace(fed.with_worker(replace(fed.worker, faults=faults or FailurePolicy())), sampler=sampler)


def first_record(fed):
    return next(iter(fed.run()))


def execute(fed, jobs, state):
    """Execute jobs in this process."""
    return map(partial(fed.worker, state=state), jobs)


def test_the_clients_with_the_highest_losses_of_the_global_model_train():
    fed = with_power_of_choice(rounds=2)
    first, second = fed.run()
    assert first.cohort == (1, 3)
    w = first.model.parameters["w"].item()
    assert w == pytest.approx(1.0 + 0.1 * ((8 - 1) + (-9 - 1)) / 2)
    losses = [0.5 * (w - b) ** 2 for _, b in ROWS]
    assert second.cohort == tuple(sorted(np.argsort(losses)[-2:].tolist()))
    assert first.metrics["clients/asked"] == 5


def test_candidates_receive_the_model_once_and_reply_with_one_number():
    fed = with_power_of_choice(candidates=4)
    metrics, model = first_record(fed).metrics, state_nbytes(shared_tree(fed.initial_state()))
    assert metrics["comm/down_bytes"] == 4 * model
    assert metrics["comm/up_bytes"] == 4 * 8 + 2 * (8 + 4)
    assert first_record(replace(fed, sampler=Uniform(2))).metrics["comm/down_bytes"] == 2 * model


class FailsToReply(Quadratic):
    """Raises on the client whose target is 8, unless it is training."""

    def training_step(self, batch, batch_idx):
        if not self.training and (batch[0][:, 1] == 8).any():
            raise RuntimeError("no loss")
        return super().training_step(batch, batch_idx)


def test_a_candidate_that_fails_to_reply_is_left_out_and_recorded():
    record = first_record(with_power_of_choice(module=FailsToReply(1.0)))
    assert record.cohort == (3, 4)
    ((client, outcome, reason),) = [(f.client, f.outcome, f.reason) for f in record.failures]
    assert (client, outcome) == (1, "exception")
    assert reason.startswith("RuntimeError: no loss")
    assert reason.endswith("asked for its loss")
    assert (record.lost, record.metrics["clients/trained"], record.metrics["clients/failed"]) == (None, 2, 1)
    assert record.metrics["comm/up_bytes"] == 4 * 8 + 2 * (8 + 4)


def test_a_loss_that_is_nan_is_a_failure():
    record = first_record(with_power_of_choice([*ROWS[:4], (1.0, math.nan)]))
    assert record.cohort == (1, 3)
    assert [(f.client, f.outcome) for f in record.failures] == [(4, "not_finite")]


def test_the_round_is_lost_if_no_candidate_replies():
    record = first_record(with_power_of_choice([(1.0, math.inf)] * 3, candidates=3))
    assert (record.cohort, record.lost, len(record.failures)) == ((), "no client was sampled", 3)


def test_the_failure_policy_holds_for_candidates_too():
    attempts = []

    class Counts(FailsToReply):
        def training_step(self, batch, batch_idx):
            attempts.extend([1] * (not self.training and bool((batch[0][:, 1] == 8).any())))
            return super().training_step(batch, batch_idx)

    first_record(with_power_of_choice(module=Counts(1.0), faults=FailurePolicy(on_error="retry", retries=2)))
    assert len(attempts) == 3
    with pytest.raises(FatalClientFailure, match="client 1: exception"):
        first_record(with_power_of_choice(module=FailsToReply(1.0), faults=FailurePolicy(on_error="fail")))


def test_a_client_with_a_planned_dropout_replies_as_a_candidate_and_then_drops_out():
    record = first_record(with_power_of_choice(faults=FailurePolicy(plans=(FaultPlan(Drop(), 1.0, clients=[3]),))))
    assert record.cohort == (1, 3)
    assert [(f.client, f.outcome) for f in record.failures] == [(3, "planned")]


def test_a_candidate_whose_worker_process_is_lost_twice_is_left_out():
    batch = JobBatch([LossJob(0, 7)], (), 1, partial(merge, MeanAggregator()))
    batch.lose(batch.tasks.popleft())
    assert not batch.done
    batch.lose(batch.tasks.popleft())
    assert batch.error is None
    assert math.isnan(batch.done[0].value)
    assert (batch.done[0].failure.client, batch.done[0].failure.outcome) == (7, "lost_worker")


def test_training_is_bit_identical_with_and_without_losses_of_candidates():
    fed = federation(clients=4, cohort=4, norm="batch", rounds=1)
    with_losses = replace(fed, sampler=PowerOfChoice(4))
    assert [r.sha256 for r in with_losses.run()] == [r.sha256 for r in fed.run()]


@dataclass(frozen=True)
class EmptyEverySecondRound(Sampler):
    """Draws an empty cohort in every second round."""

    size: int

    def __call__(self, pool, generator):
        return np.arange(self.size if pool.round % 2 else 0)


@pytest.mark.parametrize("clock", [None, VirtualClock(0.5, 1e6, 1e6), VirtualClock(0.5, 1e6, 1e6, deadline_s=9.0)])
def test_a_round_with_an_empty_cohort_is_lost_and_the_run_continues(clock):
    fed = federation(rounds=4, quorum=2, local_steps=1)
    fed = replace(fed, sampler=EmptyEverySecondRound(2), clock=clock, evaluations=Evaluations("cohort"))
    records = list(fed.run())
    assert [record.lost for record in records] == ["no client was sampled", None, "no client was sampled", None]
    assert [record.cohort for record in records] == [(), (0, 1), (), (0, 1)]
    nbytes = [(record.metrics["comm/down_bytes"], record.metrics["comm/up_bytes"]) for record in records]
    assert (nbytes[0], nbytes[2]) == ((0, 0), (0, 0))
    assert all("val/loss" in record.metrics for record in records)
    assert clock is None or records[0].metrics["time/simulated_s"] == 0
    assert records[0].to_dict()["cohort"] == []


def test_rounds_with_an_empty_cohort_do_not_count_as_lost_in_a_row():
    fed = replace(federation(rounds=6, local_steps=1, eval_every=9), sampler=EmptyEverySecondRound(0))
    fed = fed.with_worker(replace(fed.worker, faults=FailurePolicy(max_lost_rounds=2)))
    records = list(fed.run())
    assert [record.lost for record in records] == ["no client was sampled"] * 6
    lines = tuple(record.to_dict() for record in records)
    assert Checkpoint(fed.initial_state(), ClientStateStore(), lines).lost_in_a_row == 0


def test_rounds_without_a_reply_count_as_lost_in_a_row_also_across_empty_cohorts():
    fed = with_power_of_choice([(1.0, math.inf)] * 3, candidates=3, rounds=6, faults=FailurePolicy(max_lost_rounds=2))
    with pytest.raises(LostRounds):
        list(replace(fed, sampler=EverySecondRound(fed.sampler)).run())


@dataclass(frozen=True)
class EverySecondRound(Sampler):
    """Draws an empty cohort in every second round, and that of another sampler in the others."""

    sampler: Sampler

    def __call__(self, pool, generator):
        return self.sampler(pool, generator) if pool.round % 2 else np.arange(0)


SAMPLERS = [Weighted(2), RoundRobin(2), Poisson(2), PowerOfChoice(2, 3), Available(2, 4, 0.5, 0.5)]


@pytest.mark.parametrize("sampler", [RoundRobin(3), Available(2, period=4, awake=0.5, spread=0.3), Poisson(2)])
def test_a_resumed_run_has_the_same_cohorts(sampler):
    fed = replace(federation(clients=5, rounds=6, local_steps=1, eval_every=9), sampler=sampler)
    expected, checkpoints = list(fed.run()), []

    class InMemory(NoCheckpoints):
        def commit(self, state, client_states, record):
            checkpoints.append(Checkpoint(state, ClientStateStore()))

    records = replace(fed, checkpointer=InMemory()).run()
    for _ in range(3):
        next(records)
    resumed = list(fed.run(checkpoints[2]))
    assert [(r.number, r.cohort, r.sha256) for r in resumed] == [(r.number, r.cohort, r.sha256) for r in expected[3:]]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_cohorts_do_not_depend_on_the_algorithm_if_the_losses_are_the_same(sampler):
    fed, other = (replace(federation(3, algorithm=a), sampler=sampler) for a in (FedAvg(), FedAvg(proximal=1.0)))
    other_seed = replace(fed, registry=replace(fed.registry, seed=4))

    def cohorts(fed):
        states = [replace(fed.initial_state(), round=round) for round in range(5)]
        return [select(fed, state, partial(execute, fed)).cohort for state in states]

    assert cohorts(fed) == cohorts(other)
    assert len(set(cohorts(fed))) > 1
    assert cohorts(fed) != cohorts(other_seed)


def test_losses_are_measured_by_the_executor():
    fed, jobs = with_power_of_choice(), []
    with Inline().open(fed.worker, 1) as inline:
        plan = select(fed, fed.initial_state(), lambda batch, state: jobs.extend(batch) or inline(batch, state))
    assert plan.cohort == (1, 3)
    assert jobs == [LossJob(0, client) for client in range(5)]


def test_a_plain_function_is_a_sampler_and_measures_each_client_once():
    pools, jobs = [], []

    def first_with_a_loss(pool, generator):
        pools.append((len(pool), pool.round, pool.sizes.tolist(), pool.losses(np.array([2, 0])).tolist()))
        return np.flatnonzero(pool.losses(np.arange(3)) > 0)[:1]

    fed = replace(with_power_of_choice(), sampler=as_sampler(first_with_a_loss))
    select(fed, fed.initial_state(), lambda batch, state: jobs.extend(batch) or execute(fed, batch, state))
    assert [job.client for job in jobs] == [2, 0, 1]
    pools.clear()
    record = first_record(fed)
    assert pools == [(5, 0, [1] * 5, [0.0, 0.5])]
    assert (record.cohort, record.metrics["clients/asked"]) == ((0,), 3)
    assert record.metrics["comm/up_bytes"] == 3 * 8 + 12


def test_a_function_sampler_has_the_defaults_of_a_sampler():
    def last(pool, generator):
        return [len(pool) - 1]

    sampler, pool = as_sampler(last), ClientPool(np.ones(5), 0, 0, lambda ids: ids)
    assert sampler == FunctionSampler(last)
    assert as_sampler(sampler) is sampler
    assert (sampler.name, FunctionSampler(partial(last)).name, Uniform(3).name) == ("last", "partial", "Uniform")
    assert draw_cohort(sampler, pool) == (4,)
    assert (sampler.max_cohort(5), dict(sampler.metrics(pool)), sampler.weighted_by_examples) == (None, {}, False)
    assert sampler.sampling(5) == Sampling("other", by_loss=True)  # a function may ask for losses


@pytest.mark.parametrize("value", [None, 3, "uniform"])
def test_a_value_that_cannot_be_called_is_not_a_sampler(value):
    with pytest.raises(ConfigError, match=f"sampler={type(value).__name__}: is not a sampler; make a function"):
        as_sampler(value)


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        ([0, 5], "draws client 5, and there are 5 clients"),
        ([-1], "draws client -1, and there are 5 clients"),
        ([2, 2], "draws a client twice"),
        ([0.5], r"draws float64 of shape \[1\] instead of ids"),
        ([[1, 2]], r"draws int64 of shape \[1, 2\] instead of ids"),
    ],
)
def test_an_invalid_cohort_is_an_error_with_the_samplers_name(ids, problem):
    def constant(pool, generator):
        return ids

    with pytest.raises(ConfigError, match=f"sampler=constant: {problem}; return distinct ids"):
        draw_cohort(as_sampler(constant), ClientPool(np.ones(5), 0, 0, lambda ids: ids))
