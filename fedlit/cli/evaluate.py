"""The evaluation of a finished run's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table

from fedlit.algorithms import FedAvg
from fedlit.cli.overrides.suggestions import similar_keys
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.messages import EvalResult, ServerState, Shared
from fedlit.core.text.console import PlainConsole
from fedlit.core.text.escape import print_lines
from fedlit.core.text.numbers import format_number
from fedlit.experiment.config.build import build_run
from fedlit.experiment.config.plain import to_plain
from fedlit.experiment.config.trust.allowlist import untrusted_targets
from fedlit.experiment.config.trust.interpolations import interpolation_errors, literal
from fedlit.experiment.weights import load_weights
from fedlit.runs.folder import load_run, read_config, require_files, user_errors
from fedlit.runs.layout import CKPTS, CONFIG, JOURNAL, SUMMARY
from fedlit.runs.origin import is_own_run
from fedlit.server.checkpoint.checkpointer import Checkpoint
from fedlit.server.checkpoint.folders import committed_rounds
from fedlit.server.checkpoint.format import UNREADABLE, read_checkpoint
from fedlit.server.evaluation import combine_results

HINT = "name the folder of a finished run"
HELD_OUT_KEYS = ("seed", "data.val_fraction", "data.client_test_fraction")
"""Keys that decide which samples are held out for validation and for the clients' own test sets, besides the partition."""


def print_evaluation(
    run: Path, overrides: Sequence[str], checkpoint: str, splits: Sequence[str] | None, allow: Sequence[str]
) -> None:
    """Print the result of `evaluate_run`."""
    summary, metrics = evaluate_run(run, overrides, checkpoint, splits, allow)
    PlainConsole().print(_table(summary, metrics, checkpoint))
    for key in held_out_keys(overrides):
        held_out = "the samples of val/ and own/ metrics, so the model may have been trained on some of them"
        print_lines(f"fedlit: {key} changes {held_out}")


def held_out_keys(overrides: Sequence[str]) -> list[str]:
    """Return the changed keys that decide which training samples are held out."""
    keys = [text.partition("=")[0] for text in overrides]
    return [key for key in keys if key in HELD_OUT_KEYS or key.partition(".")[0] == "partition"]


def evaluate_run(
    run: Path, overrides: Sequence[str], checkpoint: str, splits: Sequence[str] | None, allow: Sequence[str]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Evaluate the model of a finished run.

    Args:
        run: folder of a finished run.
        overrides: KEY=VALUE for each changed value of the run's configuration.
        checkpoint: `best` or `model`.
        splits: some of `val` and `test`; None for all splits of the run.
        allow: modules that the run's configuration may name, besides those of the list.

    Returns:
        The run's summary, and the metrics of its model now.

    Raises:
        ConfigErrors: if the run is not finished, or its configuration is not valid any more.
    """
    require_files(run, (CONFIG, SUMMARY, JOURNAL, CKPTS[checkpoint]), "run", HINT)
    config = load_run_config(run, overrides, allow)
    config["observers"], config["loggers"], config["check"], config["resume"] = {}, {}, False, None
    config["model"] = {key: value for key, value in config["model"].items() if key != "init_from"}  # weights are loaded
    with user_errors(run, "run", HINT):
        finished = load_run(run)
    summary = dict(finished.summary)
    number = summary["best" if checkpoint == "best" else "last"]["round"]
    cohort = _cohort(run, finished.records, number)
    config["clock"], config["schedule"]["over_select"] = {}, 1.0  # no client trains
    federation = build_run(config, run, {})[0].federation
    saved = _read_round(run, number) if federation.algorithm.personalized else None
    # The file has exactly the model that is evaluated, unless clients have models of their own.
    worker = federation.worker if saved is not None else replace(federation.worker, algorithm=FedAvg())
    lacks_client_models = saved is None and federation.algorithm.personalized
    registry = federation.registry
    num_client_tests = 0 if lacks_client_models else registry.num_client_tests
    names = [*federation.splits, *(["test"] if num_client_tests and "test" not in federation.splits else [])]
    if missing := [split for split in splits or () if split not in names]:
        problem = f"is not a split of this run: it has {', '.join(names)}"
        raise ConfigErrors([ConfigError("split", split, problem) for split in missing])
    try:
        load_weights(worker.replica.module, str(run / CKPTS[checkpoint]))
    except ConfigError as error:
        raise ConfigErrors([error]) from error
    state = ServerState(0, Shared(worker.replica.read())) if saved is None else replace(saved.state, round=0)
    names, client_states = splits or names, None if saved is None else saved.client_states.read
    server_splits = [split for split in federation.splits if split in names]
    clients, count = registry.clients_to_evaluate(cohort), num_client_tests if "test" in names else 0
    jobs = federation.evaluations.make_jobs(number - 1, server_splits, count, clients, federation.seed, client_states)
    with federation.executor.open(worker, 1) as execute:
        results = [result for result in execute(jobs, state) if isinstance(result, EvalResult)]
    return summary, combine_results(results)


def _read_round(run: Path, number: int) -> Checkpoint | None:
    """The checkpoint of a round; None if the run has deleted it."""
    if number not in committed_rounds(run):
        return None
    try:
        state, store, _ = read_checkpoint(run, number)
    except UNREADABLE as error:
        problem = f"has an invalid checkpoint of round {number}: {error}"
        raise ConfigErrors([ConfigError("run", run, problem, HINT)]) from error
    return Checkpoint(state, store)


def _cohort(run: Path, records: Sequence[Mapping[str, Any]], number: int) -> list[int]:
    """The cohort of a round in the run's journal."""
    if 1 <= number <= len(records):
        return records[number - 1]["cohort"]
    problem = f"has no round {number} in {JOURNAL}, but {SUMMARY} names this round"
    raise ConfigErrors([ConfigError("run", run, problem, HINT)])


def load_run_config(run: Path, overrides: Sequence[str], allow: Sequence[str]) -> dict[str, Any]:
    """Load a run's configuration and change some of its values.

    The file's values are final, and nothing in them is interpolated. If the run is not this user's own, the configuration may
    call the names of the allow-list alone.

    Args:
        run: folder of the run.
        overrides: KEY=VALUE for each changed value.
        allow: modules that the configuration may name, besides those of the list.

    Raises:
        ConfigErrors: if the file is not a configuration, the configuration does not have a key, or names what it may not.
    """
    with user_errors(run, "run", "name the folder of a run"):
        values, is_own = read_config(run), is_own_run(run)
    errors = _override_errors(values, overrides) or ([] if is_own else interpolation_errors(values))
    if errors:
        raise ConfigErrors(errors)
    try:
        merged = OmegaConf.merge(OmegaConf.create(literal(values)), OmegaConf.from_dotlist(list(overrides)))
    except OmegaConfBaseException as error:
        raise ConfigErrors([ConfigError("", "", str(error).splitlines()[0])]) from error
    assert isinstance(merged, DictConfig)
    config = to_plain(merged)
    given = [text.partition("=")[2] for text in overrides]
    if untrusted := [] if is_own else untrusted_targets(config, allow, given):
        raise ConfigErrors(untrusted)
    return config


def _override_errors(values: Mapping[str, Any], overrides: Sequence[str]) -> list[ConfigError]:
    """Return the errors in KEY=VALUE for a run's configuration."""
    errors, keys = [], _keys(values)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or key not in keys:
            hint = _key_hint(values, key) if equals else "write KEY=VALUE"
            errors.append(ConfigError(key, value, "is not a key of the run's configuration", hint))
        elif isinstance(keys[key], Mapping) and not value.startswith("{"):
            hint = f"change values below it: {', '.join(f'{key}.{name}' for name in keys[key]) or 'it has none'}"
            errors.append(ConfigError(key, value, "has keys of its own, and cannot be changed as a whole", hint))
        elif key == "model.init_from":
            problem = "would change nothing: the weights are those of the run's own model"
            errors.append(ConfigError(key, value, problem, "leave it out"))
    return errors


def _key_hint(values: Mapping[str, Any], key: str) -> str:
    """Return the most similar keys, or the keys beside the unknown one."""
    if names := similar_keys(key, [*_keys(values)]):
        return f"did you mean {' or '.join(names)}?"
    parent = key.rpartition(".")[0]
    beside = [name.rpartition(".")[2] for name in _keys(values) if name.rpartition(".")[0] == parent]
    return f"{parent or 'it'} has the keys {', '.join(beside)}" if beside else ""


def _keys(node: Any, path: str = "") -> dict[str, Any]:
    """All dotted keys of nested mappings, with their values."""
    if not isinstance(node, Mapping):
        return {}
    items = {f"{path}.{key}" if path else str(key): value for key, value in node.items()}
    return items | {below: inner for name, value in items.items() for below, inner in _keys(value, name).items()}


def _table(summary: Mapping[str, Any], metrics: Mapping[str, float], checkpoint: str) -> Table:
    """The metrics of the summary beside the metrics of now."""
    entry = summary["best" if checkpoint == "best" else "last"]
    title = f"{CKPTS[checkpoint]}, round {entry['round']} of {summary['rounds']}"
    table = Table(title=title, title_justify="left")
    for name in ("metric", f"in {SUMMARY}", "now"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for name, value in metrics.items():
        old = entry["metrics"].get(name)  # null for a value that was not finite
        table.add_row(name, *("-" if number is None else format_number(number, 6) for number in (old, value)))
    return table
