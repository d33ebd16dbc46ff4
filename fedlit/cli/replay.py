"""The repetition of one client's local training of a round, bit-identical."""

from __future__ import annotations

import pdb
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from fedlit.cli.evaluate import load_run_config
from fedlit.client.steps.optimizer_state import algorithm_state
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.messages import ClientFailure, ServerState, Update
from fedlit.core.model import FitResult
from fedlit.core.tensors import norm
from fedlit.core.text.console import PlainConsole
from fedlit.core.text.numbers import format_number
from fedlit.executors import Inline, Vectorized
from fedlit.experiment.config.build import build_run
from fedlit.runs.folder import read_records, require_files, user_errors
from fedlit.runs.layout import CONFIG, JOURNAL
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Checkpoint, Checkpointer
from fedlit.server.checkpoint.folders import committed_rounds
from fedlit.server.checkpoint.format import UNREADABLE, read_checkpoint
from fedlit.server.client_store import ClientStateStore
from fedlit.server.rounds import select
from fedlit.server.setup import Federation


@dataclass(frozen=True)
class ReplayResult:
    """Result of a repeated local training.

    Args:
        start: the round of the checkpoint from which the replay starts; 0 for the initial weights.
        recomputed: number of rounds computed again. The digest of each equals the digest in the run's journal.
        update: the client's update; None if the round did not wait for the client, which then did not train.
        fits: results of the client's local fits.
        steps: the client's step budget; None without one.
        excluded: why the round did not wait for the client; None if it waited.
        was_stacked: True if the client trained in a stack, whose last bits differ from those of the client alone.
    """

    start: int
    recomputed: int
    update: Update | None
    fits: Sequence[FitResult] = ()
    steps: int | None = None
    excluded: ClientFailure | None = None
    was_stacked: bool = False


@dataclass
class InMemoryCheckpointer(Checkpointer):
    """A checkpointer that keeps the newest round in memory."""

    checkpoint: Checkpoint | None = None

    def open(self, experiment: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Open for any experiment."""
        return nullcontext()

    def load(self) -> Checkpoint | None:
        """The newest round; None before the first."""
        return self.checkpoint

    def commit(self, state: ServerState, client_states: ClientStateStore, record: RoundRecord) -> None:
        """Keep a round instead of the one before."""
        self.checkpoint = Checkpoint(state, client_states)


def replay_client(
    run: Path, round: int, client: int, allow: Sequence[str] = (), *, whole: bool = False, debug: bool = False
) -> ReplayResult:
    """Repeat a client's local training of one round.

    A client that the round did not wait for did not train, and is not trained here.

    Args:
        run: folder of a run, finished or not.
        round: number of the round, counted from 1.
        client: a client of the round's cohort.
        allow: modules that the run's configuration may name, besides those of the list.
        whole: train the rest of the cohort too, and compare the round's digest.
        debug: start pdb at the first line of the client's rule.

    Raises:
        ConfigErrors: if there is no such run, round or client, or a digest differs from the journal's.
    """
    records = _read_records(run)
    if not 1 <= round <= len(records):
        raise ConfigErrors([ConfigError("round", round, f"must be from 1 to {len(records)}")])
    if client not in records[round - 1]["cohort"]:
        cohort = ", ".join(map(str, records[round - 1]["cohort"][:20]))
        problem = f"was not in the cohort of round {round}: {cohort}"
        raise ConfigErrors([ConfigError("client", client, problem, "name a client of the cohort")])
    config = load_run_config(run, [], allow)
    newest = InMemoryCheckpointer(_nearest_checkpoint(run, round - 1))
    start = 0 if newest.checkpoint is None else newest.checkpoint.state.round
    federation = _build_federation(run, config, newest, len(records))
    _recompute(federation, newest, records, round - 1)
    before = newest.checkpoint or Checkpoint(federation.initial_state(), ClientStateStore())
    with federation.executor.open(federation.worker, 1) as execute:
        plan = select(federation, before.state, execute)
        steps, excluded = plan.budgets.get(client), next((f for f in plan.failures if f.client == client), None)
        update, fits = (None, ()) if excluded is not None else _train(federation, before, round, client, steps, debug)
    if whole:
        _recompute(federation, newest, records, round)
    was_stacked = isinstance(federation.executor, Vectorized)
    return ReplayResult(start, round - 1 - start + whole, update, fits, steps, excluded, was_stacked)


def _build_federation(
    run: Path, config: dict[str, Any], checkpointer: InMemoryCheckpointer, num_rounds: int
) -> Federation:
    """The run's federation in this process, without evaluations, observers and files."""
    config["observers"], config["loggers"], config["check"], config["resume"] = {}, {}, False, None
    federation = build_run(config, run, {})[0].federation
    rounds = max(federation.schedule.rounds, num_rounds)  # a resumed run may have a configuration with fewer rounds
    schedule = replace(federation.schedule, rounds=rounds, eval_every=10**9, stop_at=None)  # changes no state
    # A run that ended with too many lost rounds may have been resumed with a higher limit.
    faults = replace(federation.faults, max_lost_rounds=rounds + 1)
    federation = federation.with_worker(replace(federation.worker, faults=faults))
    threads = int(config["executor"].get("threads", 1))
    size = federation.executor.stack_size(federation.worker)
    executor = Inline(threads) if size is None else Vectorized(size, threads=threads)
    return replace(federation, schedule=schedule, executor=executor, checkpointer=checkpointer)


def _train(
    federation: Federation, before: Checkpoint, round: int, client: int, steps: int | None, debug: bool
) -> tuple[Update, Sequence[FitResult]]:
    """Run the client's rule.

    Returns:
        The client's update, and the results of its local fits.
    """
    state = before.client_states.read([client]).get(client, {})
    local = federation.worker.local_trainer(round - 1, client, state, steps)
    arguments = (local, before.state.shared, algorithm_state(state))
    rule: Any = federation.algorithm.client
    update = pdb.runcall(rule, *arguments) if debug else rule(*arguments)
    if update is None:  # of pdb.runcall, after the command to quit
        sys.exit("fedlit: the debugger was left before the client's rule returned")
    assert isinstance(update, Update)
    return update, local.results


def _read_records(run: Path) -> list[dict[str, Any]]:
    """The records of all rounds in the run's journal."""
    hint = "name the folder of a run"
    require_files(run, (CONFIG, JOURNAL), "run", hint)
    with user_errors(run, "run", hint):
        return read_records(run)[0]


def _nearest_checkpoint(run: Path, round: int) -> Checkpoint | None:
    """The newest complete checkpoint up to a round; None without one."""
    for number in reversed([number for number in committed_rounds(run) if number <= round]):
        try:
            state, store, _ = read_checkpoint(run, number)
        except UNREADABLE:
            continue  # an earlier checkpoint costs only time, since every digest is compared
        return Checkpoint(state, store)
    return None


def _recompute(
    federation: Federation, newest: InMemoryCheckpointer, records: Sequence[Mapping[str, Any]], last: int
) -> None:
    """Run the rounds up to `last` and compare each digest.

    Raises:
        ConfigErrors: if a digest differs, or the run ends before the last round.
    """
    done = 0 if newest.checkpoint is None else newest.checkpoint.state.round
    rounds = federation.run() if done < last else iter(())
    for record in rounds:
        if record.sha256 != records[record.number - 1]["state_sha256"]:
            problem = f"round {record.number} has another digest than in the run"
            hint = "use the run's version of fedlit, its version of torch and its kind of processor or GPU"
            raise ConfigErrors([ConfigError("state_sha256", record.sha256[:12], problem, hint)])
        if record.number == last:
            return
    if done < last:
        raise ConfigErrors([ConfigError("round", last, "was not reached: the run ends before this round")])


def print_replay(options: Namespace) -> None:
    """Print the result of `replay_client`.

    Args:
        options: the arguments of the command.
    """
    result = replay_client(
        options.run, options.round, options.client, options.allow, whole=options.whole, debug=options.debug
    )
    PlainConsole().print(_table(options.run, options.round, options.client, result))


def _table(run: Path, round: int, client: int, result: ReplayResult) -> Table:
    """The result of a replay, a row for each fact."""
    failures = _read_records(run)[round - 1]["failures"]
    outcome = next((f"{f['outcome']}: {f['reason']}" for f in failures if f["client"] == client), "ok")
    table = Table(show_header=False, title=f"client {client} in round {round}", title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    start = f"the checkpoint of round {result.start}" if result.start else "the initial weights"
    count = f"{result.recomputed} round{'s' * (result.recomputed != 1)}"
    table.add_row("start", f"{start}; {count} computed again, digests equal to the run's")
    if result.steps is not None:
        table.add_row("step budget", f"{result.steps} steps, for clock.deadline_s")
    table.add_row("outcome" if result.update else "did not train", outcome)
    for fit in result.fits:
        metrics = ", ".join(f"{name} {format_number(value, 6)}" for name, value in fit.metrics.items())
        work = f"{fit.examples} examples, {fit.steps} steps"
        table.add_row("local fit", f"{work}; {metrics}" if metrics else work)
    if result.update is None:
        return table
    if result.was_stacked:
        table.add_row("trained", "alone; in the run it trained in a stack, whose last bits and dropout masks differ")
    table.add_row("weight", f"{result.update.weight:g}")
    for group, tensors in result.update.groups.items():
        table.add_row(group, f"{sum(t.numel() for t in tensors.values()):,} numbers, norm {norm(tensors):.6g}")
    return table
