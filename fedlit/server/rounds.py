"""The loop over rounds, and the five steps of a round.

The steps are `select`, `train`, `aggregate`, `evaluate` and `record`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from fedlit.aggregation.jobs import make_train_jobs
from fedlit.core.errors import ConfigError
from fedlit.core.messages import EvalResult, Result, ServerState
from fedlit.core.serialization import state_sha256, state_tree
from fedlit.executors.executor import Execute
from fedlit.runs.metric_names import join_metrics, names_on_split
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Checkpoint
from fedlit.server.checks.fingerprint import fingerprint
from fedlit.server.client_store import ClientStateStore
from fedlit.server.evaluation import Scores
from fedlit.server.federation import FederationParts
from fedlit.server.outcome import RoundOutcome, aggregate
from fedlit.server.sampling.cohort import LossOracle, RoundPlan, draw_cohort
from fedlit.server.sampling.sampler import ClientPool
from fedlit.server.summation.exchanges import start_exchanges


def run_rounds(federation: FederationParts, start: Checkpoint | None = None) -> Iterator[RoundRecord]:
    """Yield the record of each round: McMahan et al. (2017), Algorithm 1.

    Args:
        federation: the parts. Every draw is keyed by (seed, purpose, round, client).
        start: checkpoint to resume from; None for the newest of the checkpointer, or the beginning.

    Raises:
        LostRounds: if too many rounds in a row were lost, also if the last round is one of them.
        LostWorkers: if worker processes are lost so often that there is no result.
        ConfigError: if another process uses the checkpoints.
        ConfigErrors: if the checkpoints are of another experiment.
    """
    schedule, faults = federation.schedule, federation.faults
    with federation.checkpointer.open(fingerprint(federation)):
        begin = start or federation.checkpointer.load() or Checkpoint(federation.initial_state(), ClientStateStore())
        state, clients, last = begin.state, begin.client_states, begin.last
        lost = faults.carried_over(begin.lost_in_a_row)
        with federation.executor.open(federation.worker, schedule.rounds - state.round) as execute:
            while state.round < schedule.rounds and not federation.monitor.has_reached(last, schedule.stop_at):
                faults.raise_if_too_many_lost(lost)
                seconds = [time.perf_counter()]
                sent = federation.broadcast(state)
                plan = select(federation, sent, execute)
                started = start_exchanges(federation, plan, sent, clients, execute)
                exchanges, partials = started or (None, train(plan, sent, clients, execute))
                outcome = aggregate(federation, plan, state, partials, exchanges)
                if outcome.lost is None:
                    clients.update(outcome.tree.client_states)
                outcome = outcome.with_metrics(federation.charge(outcome.tree, clients, last))
                state = outcome.state
                seconds.append(time.perf_counter())
                scores = evaluate(federation, plan, state, clients, execute)
                seconds.append(time.perf_counter())
                last = record(federation, plan, outcome, scores, seconds)
                lost = (lost + 1 if last.lost else 0) if last.attempted else lost
                federation.checkpointer.commit(state, clients, last)  # all of the round, or nothing
                yield last
            faults.raise_if_too_many_lost(lost)
        federation.checkpointer.finish()


def select(federation: FederationParts, state: ServerState, execute: Execute) -> RoundPlan:
    """Plan the round after a state: the cohort, and clients that train.

    Raises:
        ConfigError: if the fastest clients are wanted and there is no clock.
    """
    schedule, registry = federation.schedule, federation.registry
    losses = LossOracle(state, execute)
    pool = ClientPool(registry.sizes, state.round, registry.seed, losses)
    cohort = draw_cohort(federation.sampler, pool)
    down_bytes = federation.down_nbytes(state) * len(losses.results.keys() | set(cohort))
    plan = RoundPlan(
        cohort=cohort,
        clients=cohort,
        failures=losses.failures(cohort),
        metrics={**federation.sampler.metrics(pool), **losses.metrics(), "comm/down_bytes": down_bytes},
        up_bytes=losses.up_bytes,
    )
    if federation.clock is None:
        if schedule.over_select > 1:
            hint = "pass clock=VirtualClock(...) to Federation.of"
            raise ConfigError("schedule.over_select", schedule.over_select, "needs a clock", hint)
        return plan
    fastest = schedule.cohort_size(len(registry)) if schedule.over_select > 1 else None
    timing = federation.clock.time_cohort(federation.round_work(cohort, state), fastest)
    return replace(
        plan,
        clients=timing.clients,
        budgets=timing.budgets,
        failures=(*plan.failures, *timing.failures),
        metrics={**plan.metrics, **timing.metrics},
    )


def train(plan: RoundPlan, state: ServerState, clients: ClientStateStore, execute: Execute) -> Iterator[Result]:
    """Train the plan's clients; yield partial aggregates in order."""
    return execute(make_train_jobs(state.round, plan.clients, clients.read(plan.clients), plan.budgets), state)


def evaluate(
    federation: FederationParts, plan: RoundPlan, state: ServerState, clients: ClientStateStore, execute: Execute
) -> Scores:
    """Evaluate the state after a round, if the schedule evaluates that round.

    Metrics are those of the global model on each split, and on clients' own test sets those of the model that each client uses.
    """
    round, registry = state.round - 1, federation.registry
    if not federation.schedule.is_evaluated(round):
        return Scores()
    client_states = clients.read if federation.algorithm.personalized else None
    ids = registry.clients_to_evaluate(plan.cohort)
    jobs = federation.evaluations.make_jobs(
        round, registry.splits, registry.num_client_tests, ids, registry.seed, client_states
    )
    return Scores.of([result for result in execute(jobs, state) if isinstance(result, EvalResult)])


def record(
    federation: FederationParts,
    plan: RoundPlan,
    outcome: RoundOutcome,
    scores: Scores,
    seconds: list[float],
) -> RoundRecord:
    """Make the record of a finished round.

    Args:
        federation: the parts.
        plan: the round's plan.
        outcome: the result of the training.
        scores: result of its evaluation.
        seconds: readings of a clock: at the beginning, after training, after evaluation.
    """
    state, tree = outcome.state, outcome.tree
    training = {} if federation.hides_clients else tree.metrics()
    names = names_on_split(training, "train")
    sent_bytes = tree.up_bytes - plan.up_bytes
    measurements = {
        "time/train_s": seconds[1] - seconds[0],
        "time/round_s": seconds[2] - seconds[0],
        "schedule/lr_factor": federation.schedule.lr_factor(state.round - 1),
        "clients/trained": len(tree.members),
        "clients/failed": len(tree.failures),
        "clients/steps": tree.steps,
        "comm/up_bytes": tree.up_bytes,
        **({"comm/ratio": tree.plain_bytes / sent_bytes} if sent_bytes else {}),
    }
    training = {names[name]: value for name, value in training.items()}
    metrics = join_metrics(
        training,
        federation.algorithm.metrics(state),
        outcome.metrics,
        federation.channel.metrics(state.channel),
        scores.metrics,
        {**plan.metrics, "comm/down_bytes": plan.metrics["comm/down_bytes"] + outcome.down_bytes},
        measurements,
    )
    return RoundRecord(
        number=state.round,
        cohort=tuple(sorted(plan.cohort)),
        metrics=metrics,
        failures=tuple(tree.failures),
        lost=outcome.lost,
        sha256=state_sha256(state_tree(state)),
        model=federation.algorithm.model(state.shared),
        clients={} if federation.channel.hides_clients else {**outcome.clients, **scores.clients},
    )
