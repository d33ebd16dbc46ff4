"""`python -m fedlit.compare RUN_A RUN_B`: differences between two runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlit import __version__
from fedlit.core.errors import ConfigError, ConfigErrors, print_errors
from fedlit.core.files import flatten
from fedlit.core.text.console import PlainConsole
from fedlit.core.text.escape import escape_tracebacks
from fedlit.reports.labels import ABSENT, format_value
from fedlit.runs.folder import InvalidRun, is_finished, read_flat_config, read_records, read_summary
from fedlit.runs.layout import JOURNAL

CAUSES = ("platform", "processor", "versions", "digest")
"""Keys of the summary that can explain a difference between two runs of one configuration."""
RECORD_PARTS = {"state": "state_sha256", "cohort": "cohort", "failures": "failures"}
"""The compared parts of a round, and their keys in the record."""
WHOLE_RUN = ("digest.cohorts", "digest.batches")
"""Keys of the summary that cover all rounds of a run, so they differ between runs of different length."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    The exit status is 2 if the command line has errors.
    """
    escape_tracebacks()
    description = "List the differences between two runs: changed keys, and the first round whose state differs."
    parser = argparse.ArgumentParser(prog="python -m fedlit.compare", description=description)
    parser.add_argument("a", type=Path, metavar="RUN_A", help="folder of a run, finished or not")
    parser.add_argument("b", type=Path, metavar="RUN_B", help="folder of another run, finished or not")
    parser.add_argument("--version", action="version", version=f"fedlit {__version__}")
    options = parser.parse_intermixed_args(arguments)
    try:
        differences = compare_runs(options.a, options.b)
    except ConfigErrors as error:
        print_errors(error.errors, "; nothing was compared")
        sys.exit(2)
    _print_differences(differences, PlainConsole())


def compare_runs(a: Path, b: Path) -> dict[str, Any]:
    """Compare two runs.

    Returns:
        `configuration` and `summary` (processor, versions, platform, digests): pairs of values by key, where they differ;
        `rounds`, the number of rounds of each; `common`, the number of rounds that both have; `state`, `cohort` and
        `failures`: the first common round in which it differs, or None; `truncated`: names of the runs whose last record is
        truncated.

    Raises:
        ConfigErrors: if a folder is not a run's folder.
    """
    errors: list[ConfigError] = []
    configs, records, summaries, truncated = [], [], [], []
    for name, folder in (("RUN_A", a), ("RUN_B", b)):
        try:
            configs.append(read_flat_config(folder))
            run_records, is_truncated = read_records(folder)
            records.append([{part: record[key] for part, key in RECORD_PARTS.items()} for record in run_records])
            truncated += [name] if is_truncated else []
            summary = read_summary(folder) if is_finished(folder) else {}
            summaries.append(flatten({key: summary[key] for key in CAUSES if key in summary}))
        except (InvalidRun, KeyError) as error:
            problem = str(error) if isinstance(error, InvalidRun) else f"{JOURNAL}: a record has no {error}"
            hint = "name the folder of a run with at least one finished round"
            errors.append(ConfigError(name, folder, problem, hint))
    if errors:
        raise ConfigErrors(errors)
    common = min(map(len, records))
    first = {
        part: next((i + 1 for i in range(common) if records[0][i][part] != records[1][i][part]), None)
        for part in RECORD_PARTS
    }
    return {
        "configuration": _differing(*configs),
        "summary": _differing_causes(*summaries),
        "rounds": [len(run_records) for run_records in records],
        "common": common,
        **first,
        "truncated": truncated,
    }


def _differing_causes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The keys of two summaries whose values differ.

    A key that one summary lacks is not a difference, since an older version may have written it. Among the properties of the
    processor it is one: an environment variable that is not set, or a GPU that is not there.
    """
    have_processors = all(any(key.startswith("processor.") for key in summary) for summary in (a, b))
    return {
        key: pair
        for key, pair in _differing(a, b).items()
        if ABSENT not in pair or (have_processors and key.startswith("processor."))
    }


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The keys whose values differ, with both values as command-line text."""
    pairs = {key: (_format(a, key), _format(b, key)) for key in [*a, *(key for key in b if key not in a)]}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _format(values: Mapping[str, Any], key: str) -> str:
    return format_value(values[key]) if key in values else ABSENT


def _print_differences(differences: Mapping[str, Any], console: Console) -> None:
    for part in ("configuration", "summary"):
        if not differences[part]:
            continue
        title = Text(f"differences in the {part}", style="bold")
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for name in ("key", "RUN_A", "RUN_B"):
            table.add_column(name, overflow="fold")
        for key, (a, b) in differences[part].items():
            table.add_row(Text(key), Text(a), Text(b))
        console.print(table)
    if not differences["configuration"]:
        console.print("the configurations are identical")
    for line in difference_lines(differences):
        console.print(Text(line))


def difference_lines(differences: Mapping[str, Any]) -> list[str]:
    """Return the lines on the rounds of two runs.

    Args:
        differences: result of `compare_runs`.
    """
    common = differences["common"]
    a, b = differences["rounds"]
    lines = [f"RUN_A has {a} {'round' if a == 1 else 'rounds'}, RUN_B has {b}"]
    lines += [f"the last line of {name}'s {JOURNAL} is truncated and ignored" for name in differences["truncated"]]
    if not common:
        return [*lines, "the runs have no common round"]
    for name, plural in (("state", "states"), ("cohort", "cohorts"), ("failures", "failures")):
        first = differences[name]
        same = f"identical in all {common} common rounds" if common > 1 else "identical in the only common round"
        lines.append(f"{plural}: " + (same if first is None else f"the first difference is in round {first}"))
    return [*lines, *_length_lines(differences), *_cause_lines(differences)]


def _length_lines(differences: Mapping[str, Any]) -> list[str]:
    """Return a line on digests that depend on the number of rounds."""
    (a, b), found = differences["rounds"], [key for key in WHOLE_RUN if key in differences["summary"]]
    if a == b or not found:
        return []
    verbs = (
        "cover all rounds of a run, so they differ" if len(found) > 1 else "covers all rounds of a run, so it differs"
    )
    return [f"{' and '.join(found)} {verbs} between runs of {a} and {b} rounds"]


def _cause_lines(differences: Mapping[str, Any]) -> list[str]:
    """Return a line on processors and libraries that can explain differences."""
    parts = {"processor": "the processor", "versions": "the versions of libraries"}
    found = [text for part, text in parts.items() if any(key.startswith(f"{part}.") for key in differences["summary"])]
    if differences["state"] is None or not found:
        return []
    names = " and ".join(found)
    verb = "differs" if found == [parts["processor"]] else "differ"
    return [f"{names} {verb}, and results are bit-identical only where both are equal"]
