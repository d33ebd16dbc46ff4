"""`python -m fedlit.evaluate RUN`: evaluates a finished run's model again, and prints what its summary says."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from fedlit.algorithms import FedAvg
from fedlit.core.errors import ConfigError, ConfigErrors, did_you_mean, print_config_errors
from fedlit.core.files import read_json_lines
from fedlit.core.messages import EvalResult, ServerState
from fedlit.experiment.config.allowlist import untrusted_targets
from fedlit.experiment.config.build import build_run, to_plain
from fedlit.experiment.weights import load_weights
from fedlit.server.checkpoint.checkpointer import Checkpoint
from fedlit.server.checkpoint.format import committed_rounds, read_checkpoint
from fedlit.server.evaluation import combine_results


def main() -> None:
    """The command. Exit status 2 for a mistake in what was typed."""
    sys.path.insert(0, os.getcwd())
    parser = argparse.ArgumentParser(prog="python -m fedlit.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="what differs now, such as data.root=FOLDER")
    parser.add_argument("--checkpoint", choices=["best", "model"], default="best", help="the best round or the last")
    parser.add_argument("--split", action="append", choices=["val", "test"], help="default: all that there are")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="MODULE", help="trust what it names in the run's file"
    )
    typed = parser.parse_args()
    try:
        summary, metrics = evaluate_run(typed.run, typed.overrides, typed.checkpoint, typed.split, typed.allow)
    except ConfigErrors as mistakes:
        print_config_errors(mistakes.errors)
        sys.exit(2)
    Console().print(_table(summary, metrics, typed.checkpoint))


def evaluate_run(
    run: Path, overrides: Sequence[str], checkpoint: str, splits: Sequence[str] | None, allow: Sequence[str]
) -> tuple[dict[str, Any], dict[str, float]]:
    """The run's summary, and its model's metrics now.

    Args:
        run: folder of a finished run.
        overrides: KEY=VALUE that differ from the run's own.
        checkpoint: `best` or `model`.
        splits: which of `val` and `test`; None for all that there are.
        allow: modules that the run's configuration may name, besides those of the list.

    Raises:
        Mistakes: if the run is not finished, or its configuration cannot be had.
    """
    for name in ("config.yaml", "summary.json", "rounds.jsonl", f"{checkpoint}.ckpt"):
        if not (run / name).is_file():
            raise ConfigErrors([ConfigError("run", run, f"has no {name}", "name the folder of a finished run")])
    config = load_run_config(run / "config.yaml", overrides)
    if refused := untrusted_targets(config, allow):
        raise ConfigErrors(refused)
    config["observers"], config["check"], config["resume"] = {}, False, None
    config["model"] = {key: value for key, value in config["model"].items() if key != "init_from"}  # it has its weights
    summary = json.loads((run / "summary.json").read_text())
    number = summary["best" if checkpoint == "best" else "last"]["round"]
    cohort = _cohort(run, number)
    config["clock"], config["schedule"]["over_select"] = {}, 1.0  # nobody is asked
    built, _ = build_run(config, run, {})
    federation = built.federation
    saved = _saved(run, number) if hasattr(federation.algorithm, "personal") else None
    # a checkpoint is the very model that is evaluated, unless clients have models of their own
    worker = federation.worker if saved is not None else replace(federation.worker, algorithm=FedAvg())
    gone = saved is None and hasattr(federation.algorithm, "personal")  # the clients' models of that round
    own = 0 if gone else worker.data.num_client_tests
    there = [*federation.splits, *(["test"] if own and "test" not in federation.splits else [])]
    if missing := [split for split in splits or () if split not in there]:
        raise ConfigErrors([ConfigError("split", split, f"is not there: {', '.join(there)} are") for split in missing])
    try:
        load_weights(worker.replica.module, str(run / f"{checkpoint}.ckpt"))
    except ConfigError as mistake:
        raise ConfigErrors([mistake]) from mistake
    state = ServerState(0, {"model": worker.replica.read()}) if saved is None else replace(saved.state, round=0)
    asked, memories = splits or there, None if saved is None else saved.client_states.read
    server = [split for split in federation.splits if split in asked]
    those, clients = worker.data.clients_to_evaluate(cohort), own if "test" in asked else 0
    jobs = federation.evaluations.make_jobs(number - 1, server, clients, those, federation.seed, memories)
    with federation.executor.open(worker, 1) as execute:
        scores = [score for score in execute(jobs, state) if isinstance(score, EvalResult)]
    return summary, combine_results(scores)


def _saved(run: Path, number: int) -> Checkpoint | None:
    """What a round left, if it is kept."""
    if number not in committed_rounds(run):
        return None
    state, store, _ = read_checkpoint(run, number)
    return Checkpoint(state, store)


def _cohort(run: Path, number: int) -> list[int]:
    """The cohort of a round, as its record has it."""
    for record in read_json_lines(run / "rounds.jsonl")[0]:
        if record["round"] == number:
            return record["cohort"]
    why = f"has no round {number} in rounds.jsonl, which summary.json names"
    raise ConfigErrors([ConfigError("run", run, why, "name the folder of a finished run")])


def load_run_config(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The run's configuration with the overrides, which must be of keys that it has."""
    config = OmegaConf.load(path)
    wrong = []
    for text in overrides:
        key, equals, _ = text.partition("=")
        keys = [str(name) for name in _keys(OmegaConf.to_container(config))]
        if not equals or key not in keys:
            remedy = did_you_mean(key, keys) or "write KEY=VALUE"
            wrong.append(ConfigError(key, text.partition("=")[2], "is not a key of the run's configuration", remedy))
        elif key == "model.init_from":
            wrong.append(
                ConfigError(key, text.partition("=")[2], "would change nothing: the checkpoint has the weights")
            )
    if wrong:
        raise ConfigErrors(wrong)
    try:
        merged = OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides)))
    except OmegaConfBaseException as error:
        raise ConfigErrors([ConfigError("", "", str(error).splitlines()[0])]) from error
    assert isinstance(merged, DictConfig)
    return to_plain(merged)


def _keys(node: Any, path: str = "") -> list[str]:
    if not isinstance(node, Mapping):
        return []
    here = [(f"{path}.{key}" if path else str(key), value) for key, value in node.items()]
    return [name for name, _ in here] + [below for name, value in here for below in _keys(value, name)]


def _table(summary: Mapping[str, Any], metrics: Mapping[str, float], checkpoint: str) -> Table:
    """What the summary says beside what was measured now."""
    said = summary["best" if checkpoint == "best" else "last"]
    table = Table(title=f"{checkpoint}.ckpt, round {said['round']} of {summary['rounds']}", title_justify="left")
    for name in ("metric", "in summary.json", "now"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for name, value in metrics.items():
        then = said["metrics"].get(name)  # null is what was no number
        table.add_row(name, "-" if then is None else f"{then:.6f}", f"{value:.6f}")
    return table
