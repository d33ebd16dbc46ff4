"""Repeat one client's local training of a finished round, bit for bit: `python -m fedlit.replay RUN --round R --client C`."""

from __future__ import annotations

import argparse
import os
import pdb
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedlit.cli.evaluate import load_run_config
from fedlit.client.callbacks import algorithm_state
from fedlit.core.errors import ConfigError, ConfigErrors, print_config_errors
from fedlit.core.files import read_json_lines
from fedlit.core.messages import ClientFailure, FitResult, ServerState, Update
from fedlit.core.tensors import norm
from fedlit.executors import Inline
from fedlit.experiment.config.allowlist import untrusted_targets
from fedlit.experiment.config.build import build_run
from fedlit.runs.layout import JOURNAL
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Checkpoint
from fedlit.server.checkpoint.format import committed_rounds, read_checkpoint
from fedlit.server.client_store import ClientStateStore
from fedlit.server.federation import Federation


@dataclass(frozen=True)
class ReplayResult:
    """A client's training, run again.

    Args:
        start: the round after whose commit the way began; 0 for the initial weights.
        recomputed: rounds that were computed again, each found to have the digest that the run recorded.
        update: what the client sends; None of one that was not waited for, and did not train.
        fits: what its local fits came to.
        steps: optimizer steps after which it was cut short; None if it was not.
        left_out: why it was not waited for.
    """

    start: int
    recomputed: int
    update: Update | None
    fits: Sequence[FitResult] = ()
    steps: int | None = None
    left_out: ClientFailure | None = None


@dataclass
class InMemoryCheckpointer:
    """Keeps the newest round, in memory."""

    saved: Checkpoint | None = None

    def open(self, experiment: Mapping[str, Any]) -> AbstractContextManager[None]:
        return nullcontext()

    def load(self) -> Checkpoint | None:
        return self.saved

    def commit(self, state: ServerState, store: ClientStateStore, record: RoundRecord) -> None:
        self.saved = Checkpoint(state, store)

    def finish(self) -> None: ...


def replay_client(
    run: Path, round: int, client: int, allow: Sequence[str] = (), *, whole: bool = False, debug: bool = False
) -> ReplayResult:
    """Trains a client again as it was trained in a round; one that was not waited for did not train, and does not now.

    Args:
        run: folder of a run, finished or not.
        round: which, counted from 1.
        client: one of the round's cohort.
        allow: modules that the run's configuration may name, besides those of the list.
        whole: trains the rest of the cohort too, and compares the round's digest.
        debug: steps into the client's rule with pdb.

    Raises:
        Mistakes: if there is no such run, round or client, or a digest is not the recorded one.
    """
    records = _records(run)
    if not 1 <= round <= len(records):
        raise ConfigErrors([ConfigError("round", round, f"must be from 1 to {len(records)}")])
    if client not in records[round - 1]["cohort"]:
        cohort = ", ".join(map(str, records[round - 1]["cohort"][:20]))
        raise ConfigErrors([ConfigError("client", client, f"was not in the cohort of round {round}: {cohort}")])
    config = load_run_config(run / "config.yaml", [])
    if refused := untrusted_targets(config, allow):
        raise ConfigErrors(refused)
    config["observers"], config["check"], config["resume"] = {}, False, None
    federation = build_run(config, run, {})[0].federation
    newest = InMemoryCheckpointer(_nearest(run, round - 1))
    start = 0 if newest.saved is None else newest.saved.state.round
    rounds = max(federation.schedule.rounds, len(records))  # a run that was gone on with may be asked for fewer
    quiet = replace(federation.schedule, rounds=rounds, eval_every=10**9, stop_at=None)  # changes no state
    borne = replace(
        federation.worker.faults, max_lost_rounds=rounds + 1
    )  # a run that they ended may have been gone on with
    worker = replace(federation.worker, faults=borne)
    federation = replace(
        federation, worker=worker, schedule=quiet, executor=Inline(_threads(config)), checkpointer=newest
    )
    _recompute(federation, newest, records, round - 1)
    before = newest.saved or Checkpoint(federation.algorithm.init(federation.initial), ClientStateStore())
    with federation.executor.open(federation.worker, 1) as execute:
        call = federation.call(round - 1, before.state, execute)
        steps, left_out = call.budgets.get(client), next((f for f in call.failures if f.client == client), None)
        update, fits = (None, ()) if left_out is not None else _trained(federation, before, round, client, steps, debug)
    if whole:
        _recompute(federation, newest, records, round)
    return ReplayResult(start, round - 1 - start + whole, update, fits, steps, left_out)


def _trained(
    federation: Federation, before: Checkpoint, round: int, client: int, steps: int | None, debug: bool
) -> tuple[Update, Sequence[FitResult]]:
    """What a client sends, and its fits."""
    memory = before.client_states.read([client]).get(client, {})
    local = federation.worker.local(round - 1, client, memory, steps)
    arguments = (local, before.state.shared, algorithm_state(memory))
    rule: Any = federation.algorithm.client
    update = pdb.runcall(rule, *arguments) if debug else rule(*arguments)
    assert isinstance(update, Update)
    return update, local.results


def _records(run: Path) -> list[dict[str, Any]]:
    for name in ("config.yaml", JOURNAL):
        if not (run / name).is_file():
            raise ConfigErrors([ConfigError("run", run, f"has no {name}", "name the folder of a run")])
    return read_json_lines(run / JOURNAL)[0]


def _nearest(run: Path, round: int) -> Checkpoint | None:
    """The newest commit that is whole and not after a round; None for the beginning."""
    for kept in reversed([number for number in committed_rounds(run) if number <= round]):
        try:
            state, store, _ = read_checkpoint(run, kept)
        except (OSError, ValueError, KeyError):
            continue  # the way is longer, and the digests on it tell
        return Checkpoint(state, store)
    return None


def _recompute(
    federation: Federation, newest: InMemoryCheckpointer, records: Sequence[Mapping[str, Any]], last: int
) -> None:
    """Runs the rounds up to the last, and compares each digest with the recorded one."""
    at = 0 if newest.saved is None else newest.saved.state.round
    rounds = federation.run() if at < last else iter(())
    for record in rounds:
        if record.sha256 != records[record.number - 1]["state_sha256"]:
            why = f"round {record.number} came out otherwise than the run recorded"
            remedy = "with the fedlit, torch and kind of machine of the run its bits come back"
            raise ConfigErrors([ConfigError("state_sha256", record.sha256[:12], why, remedy)])
        if record.number == last:
            return
    if at < last:
        raise ConfigErrors([ConfigError("round", last, "was not reached: the run ends before it")])


def _threads(config: Mapping[str, Any]) -> int:
    return int(config["executor"].get("threads", 1))


def main() -> None:
    """The command. Exit status 2 for a mistake in what was typed."""
    sys.path.insert(0, os.getcwd())
    parser = argparse.ArgumentParser(prog="python -m fedlit.replay", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--round", type=int, required=True, help="counted from 1")
    parser.add_argument("--client", type=int, required=True, help="one of the round's cohort")
    parser.add_argument(
        "--whole", action="store_true", help="train the rest of the cohort too, compare the round's digest"
    )
    parser.add_argument("--debug", action="store_true", help="step into the client's rule with pdb")
    parser.add_argument("--allow", action="append", default=[], metavar="MODULE", help="trust what it names in the run")
    typed = parser.parse_args()
    try:
        done = replay_client(typed.run, typed.round, typed.client, typed.allow, whole=typed.whole, debug=typed.debug)
    except ConfigErrors as mistakes:
        print_config_errors(mistakes.errors)
        sys.exit(2)
    Console().print(_table(typed.run, typed.round, typed.client, done))


def _table(run: Path, round: int, client: int, done: ReplayResult) -> Table:
    failures = _records(run)[round - 1]["failures"]
    outcome = next((f"{f['outcome']}: {f['reason']}" for f in failures if f["client"] == client), "ok")
    table = Table(show_header=False, title=f"client {client} in round {round}", title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    began = f"the commit of round {done.start}" if done.start else "the initial weights"
    table.add_row("began at", f"{began}; {done.recomputed} rounds computed again, with the digests of the run")
    if done.steps is not None:
        table.add_row("was cut short", f"after {done.steps} steps, for clock.deadline_s")
    table.add_row("then it was" if done.update else "did not train", outcome)
    for fit in done.fits:
        logged = ", ".join(f"{name} {value:.6f}" for name, value in fit.metrics.items())
        table.add_row("a fit", f"{fit.examples} samples, {fit.steps} steps; {logged}")
    if done.update is None:
        return table
    table.add_row("weight", f"{done.update.weight:g}")
    for group, tensors in done.update.groups.items():
        table.add_row(group, f"{sum(t.numel() for t in tensors.values()):,} numbers, norm {norm(tensors):.6g}")
    return table
