"""A round's cohort in the loop: who is asked for a loss, what that costs, and what becomes of a round that has nobody."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from conftest import Quadratic, federation
from test_federation import quadratics

from fedlit.algorithms import FedAvg
from fedlit.client.worker import FatalClientFailure
from fedlit.core import serialization as wire
from fedlit.core.errors import ConfigError, LostRounds
from fedlit.core.messages import LossJob, ServerState, Shared
from fedlit.executors import Inline
from fedlit.executors.dispatch import JobBatch
from fedlit.server.checkpoint.checkpointer import Checkpoint, NoCheckpoints
from fedlit.server.client_store import ClientStateStore
from fedlit.server.evaluation import Evaluations
from fedlit.server.sampling import Available, Poisson, PowerOfChoice, RoundRobin, Uniform, Weighted
from fedlit.server.sampling.cohort import draw_cohort
from fedlit.server.sampling.sampler import ClientPool
from fedlit.simulation.client_faults import Drop
from fedlit.simulation.clock import VirtualClock
from fedlit.simulation.faults import FailurePolicy, FaultPlan

ROWS = [(1.0, 2.0), (1.0, 8.0), (1.0, 1.0), (1.0, -9.0), (1.0, 4.0)]
"""With w = 1 the losses are 0.5, 24.5, 0, 50, 4.5."""


def choosing(rows=ROWS, candidates=5, faults=None, **options):
    fed = quadratics(rows, **{"rounds": 1, "steps": 1, **options})
    sampler = PowerOfChoice(2, candidates=candidates)
    return replace(fed.with_worker(replace(fed.worker, faults=faults or FailurePolicy())), sampler=sampler)


def first(fed):
    return next(iter(fed.run()))


def test_those_with_the_highest_losses_of_the_global_model_train():
    fed = choosing(rounds=2)
    one, two = fed.run()
    assert one.cohort == (1, 3)
    w = one.model.parameters["w"].item()
    assert w == pytest.approx(1.0 + 0.1 * ((8 - 1) + (-9 - 1)) / 2)
    losses = [0.5 * (w - b) ** 2 for _, b in ROWS]
    assert two.cohort == tuple(sorted(np.argsort(losses)[-2:].tolist()))
    assert one.metrics["clients/asked"] == 5


def test_candidates_are_sent_the_model_once_and_answer_one_number():
    fed = choosing(candidates=4)
    metrics, model = first(fed).metrics, wire.state_nbytes(fed.algorithm.init(fed.initial).shared)
    assert metrics["comm/down_bytes"] == 4 * model
    assert metrics["comm/up_bytes"] == 4 * 8 + 2 * (8 + 4)
    assert first(replace(fed, sampler=Uniform(2))).metrics["comm/down_bytes"] == 2 * model


class FailsToAnswer(Quadratic):
    """Raises on the client whose target is 8, unless it is training."""

    def training_step(self, batch, batch_idx):
        if not self.training and (batch[0][:, 1] == 8).any():
            raise RuntimeError("will not say")
        return super().training_step(batch, batch_idx)


def test_a_candidate_that_fails_to_answer_is_left_out_and_recorded():
    record = first(choosing(module=FailsToAnswer(1.0)))
    assert record.cohort == (3, 4)
    ((client, outcome, reason),) = [(f.client, f.outcome, f.reason) for f in record.failures]
    assert (client, outcome) == (1, "exception")
    assert reason.startswith("RuntimeError: will not say")
    assert reason.endswith("asked for its loss")
    assert (record.lost, record.metrics["clients/trained"], record.metrics["clients/failed"]) == (None, 2, 1)
    assert record.metrics["comm/up_bytes"] == 4 * 8 + 2 * (8 + 4)


def test_a_loss_that_is_no_number_is_a_failure():
    record = first(choosing([*ROWS[:4], (1.0, math.nan)]))
    assert record.cohort == (1, 3)
    assert [(f.client, f.outcome) for f in record.failures] == [(4, "not_finite")]


def test_if_no_candidate_answers_the_round_is_lost():
    record = first(choosing([(1.0, math.inf)] * 3, candidates=3))
    assert (record.cohort, record.lost, len(record.failures)) == ((), "nobody was sampled", 3)


def test_a_candidate_is_asked_again_or_ends_the_run_as_any_client():
    tries = []

    class Counts(FailsToAnswer):
        def training_step(self, batch, batch_idx):
            tries.extend([1] * (not self.training and bool((batch[0][:, 1] == 8).any())))
            return super().training_step(batch, batch_idx)

    first(choosing(module=Counts(1.0), faults=FailurePolicy(on_error="retry", retries=2)))
    assert len(tries) == 3
    with pytest.raises(FatalClientFailure, match="client 1: exception"):
        first(choosing(module=FailsToAnswer(1.0), faults=FailurePolicy(on_error="fail")))


def test_who_is_planned_to_drop_out_answers_and_drops_out():
    record = first(choosing(faults=FailurePolicy(plans=(FaultPlan(Drop(), 1.0, clients=[3]),))))
    assert record.cohort == (1, 3)
    assert [(f.client, f.outcome) for f in record.failures] == [(3, "planned")]


def test_a_candidate_whose_process_is_lost_twice_is_left_out():
    call = JobBatch([LossJob(0, 7)], (), 1)
    call.lose(call.tasks.popleft())
    assert not call.done
    call.lose(call.tasks.popleft())
    assert call.error is None
    assert math.isnan(call.done[0].value)
    assert (call.done[0].failure.client, call.done[0].failure.outcome) == (7, "lost_worker")


def test_asking_changes_no_bit_of_training():
    fed = federation(clients=4, cohort=4, norm="batch", rounds=1)
    asks = replace(fed, sampler=PowerOfChoice(4))
    assert [r.sha256 for r in asks.run()] == [r.sha256 for r in fed.run()]


@dataclass(frozen=True)
class Nobody:
    """Draws nobody in every second round."""

    size: int

    def __call__(self, pool, generator):
        return np.arange(self.size if pool.round % 2 else 0)


@pytest.mark.parametrize("clock", [None, VirtualClock(0.5, 1e6, 1e6), VirtualClock(0.5, 1e6, 1e6, deadline_s=9.0)])
def test_a_round_with_nobody_is_lost_and_the_run_goes_on(clock):
    fed = federation(rounds=4, quorum=2, local_steps=1)
    fed = replace(fed, sampler=Nobody(2), clock=clock, evaluations=Evaluations("cohort"))
    records = list(fed.run())
    assert [record.lost for record in records] == ["nobody was sampled", None, "nobody was sampled", None]
    assert [record.cohort for record in records] == [(), (0, 1), (), (0, 1)]
    sent = [(record.metrics["comm/down_bytes"], record.metrics["comm/up_bytes"]) for record in records]
    assert (sent[0], sent[2]) == ((0, 0), (0, 0))
    assert all("val/loss" in record.metrics for record in records)
    assert clock is None or records[0].metrics["time/simulated_s"] == 0
    assert records[0].record()["cohort"] == []


def test_rounds_with_nobody_are_not_among_those_that_end_the_run():
    fed = replace(federation(rounds=6, local_steps=1, eval_every=9), sampler=Nobody(0))
    fed = fed.with_worker(replace(fed.worker, faults=FailurePolicy(max_lost_rounds=2)))
    records = list(fed.run())
    assert [record.lost for record in records] == ["nobody was sampled"] * 6
    assert (
        Checkpoint(ServerState(6, {}), ClientStateStore(), tuple(record.record() for record in records)).lost_in_a_row
        == 0
    )


def test_rounds_whose_candidates_all_fail_are_and_those_with_nobody_do_not_part_them():
    fed = choosing([(1.0, math.inf)] * 3, candidates=3, rounds=6, faults=FailurePolicy(max_lost_rounds=2))
    with pytest.raises(LostRounds):
        list(replace(fed, sampler=Every(fed.sampler)).run())


@dataclass(frozen=True)
class Every:
    """Draws nobody in every second round, and as another sampler does in the others."""

    sampler: object

    def __call__(self, pool, generator):
        return self.sampler(pool, generator) if pool.round % 2 else np.arange(0)


SAMPLERS = [Weighted(2), RoundRobin(2), Poisson(2), PowerOfChoice(2, 3), Available(2, 4, 0.5, 0.5)]


@pytest.mark.parametrize("sampler", [RoundRobin(3), Available(2, period=4, awake=0.5, spread=0.3), Poisson(2)])
def test_a_run_that_is_gone_on_with_meets_the_same_cohorts(sampler):
    fed = replace(federation(clients=5, rounds=6, local_steps=1, eval_every=9), sampler=sampler)
    whole, saved = list(fed.run()), []

    class Keeps(NoCheckpoints):
        def commit(self, state, store, record):
            saved.append(Checkpoint(state, ClientStateStore()))

    iterator = replace(fed, checkpointer=Keeps()).run()
    for _ in range(3):
        next(iterator)
    rest = list(fed.run(saved[2]))
    assert [(r.number, r.cohort, r.sha256) for r in rest] == [(r.number, r.cohort, r.sha256) for r in whole[3:]]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_the_cohorts_do_not_depend_on_the_algorithm_given_the_same_losses(sampler):
    one, other = (replace(federation(3, algorithm=a), sampler=sampler) for a in (FedAvg(), FedAvg(proximal=1.0)))
    state = one.algorithm.init(one.initial)
    drawn = [[fed.call(t, state).cohort for t in range(5)] for fed in (one, other)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1
    assert drawn[0] != [replace(one, seed=4).call(t, state).cohort for t in range(5)]


def test_what_is_asked_for_is_done_where_the_jobs_are_done():
    fed, jobs = choosing(), []
    with Inline().open(fed.worker, 1) as execute:
        call = fed.call(0, ServerState(0, Shared(fed.initial)), lambda *asked: jobs.extend(asked[0]) or execute(*asked))
    assert call.cohort == (1, 3)
    assert jobs == [LossJob(0, client) for client in range(5)]


def test_a_sampler_is_given_the_round_and_may_ask_twice():
    seen, jobs = [], []

    def mine(pool, generator):
        seen.append((len(pool), pool.round, pool.sizes.tolist(), pool.losses(np.array([2, 0])).tolist()))
        return np.flatnonzero(pool.losses(np.arange(3)) > 0)[:1]

    fed = replace(choosing(), sampler=mine)
    fed.call(
        0,
        ServerState(0, Shared(fed.initial)),
        lambda asked, state: jobs.extend(asked) or map(fed.worker, asked, [state] * 3),
    )
    assert [job.client for job in jobs] == [2, 0, 1]  # each is asked once
    seen.clear()
    record = first(fed)
    assert seen == [(5, 0, [1] * 5, [0.0, 0.5])]
    assert (record.cohort, record.metrics["clients/asked"]) == ((0,), 3)
    assert record.metrics["comm/up_bytes"] == 3 * 8 + 12


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([0, 5], "draws client 5, and there are 5"),
        ([-1], "draws client -1"),
        ([2, 2], "draws a client twice"),
        ([0.5], "are no ids"),
        ([[1, 2]], "are no ids"),
    ],
)
def test_what_a_sampler_may_not_draw_is_told(ids, said):
    with pytest.raises(ConfigError, match=said) as error:
        draw_cohort(lambda pool, generator: ids, ClientPool(np.ones(5), 0, 0, lambda ids: ids))
    assert error.value.key == "sampler"
