"""`python -m fedlit.compare RUN_A RUN_B`: what differs in their configurations, and the first round whose state differs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlit.core.errors import ConfigError, ConfigErrors, print_errors
from fedlit.core.files import flatten
from fedlit.reports.grouping import ABSENT, format_value
from fedlit.reports.runs import BROKEN, read_config, read_records

ASIDE = ("platform", "versions", "digest")
"""Of the summary: what may be why two runs of one configuration differ."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Exit status 2 for a mistake in what was typed."""
    parser = argparse.ArgumentParser(prog="python -m fedlit.compare", description=__doc__)
    parser.add_argument("a", type=Path, metavar="RUN_A", help="folder of a run, finished or not")
    parser.add_argument("b", type=Path, metavar="RUN_B", help="that of the other")
    typed = parser.parse_args(arguments)
    try:
        found = compare_runs(typed.a, typed.b)
    except ConfigErrors as mistakes:
        print_errors(mistakes.errors, "; nothing was compared")
        sys.exit(2)
    _show(found, Console())


def compare_runs(a: Path, b: Path) -> dict[str, Any]:
    """What differs between two runs.

    Returns:
        `configuration` and `summary` (versions, platform, digests): pairs of values by key, of those that differ; `rounds` of
        each, and how many both have, `common`; `state`, `cohort` and `failures`: the first common round in which it differs,
        None if there is none; `cut`: which runs end in a line that was cut off.

    Raises:
        Mistakes: if a folder is not a run's.
    """
    wrong: list[ConfigError] = []
    configs, rounds, cut, summaries = [], [], [], []
    for name, folder in (("RUN_A", a), ("RUN_B", b)):
        read = "config.yaml"
        try:
            configs.append(read_config(folder / read))
            read = "rounds.jsonl"
            done, torn = read_records(folder)
            rounds.append([(one["state_sha256"], one["cohort"], one["failures"]) for one in done])
            cut += [name] if torn else []
            read = "summary.json"
            there = (folder / read).is_file()
            summary = json.loads((folder / read).read_bytes()) if there else {}
            summaries.append(flatten({key: summary[key] for key in ASIDE if key in summary}))
        except BROKEN as error:
            text = "is not there" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
            wrong.append(ConfigError(name, folder, f"{read}: {text}", "name the folder of a run that has done a round"))
    if wrong:
        raise ConfigErrors(wrong)
    common = min(map(len, rounds))
    first = [
        next((i + 1 for i in range(common) if rounds[0][i][part] != rounds[1][i][part]), None) for part in range(3)
    ]
    return {
        "configuration": _differing(*configs),
        "summary": {key: pair for key, pair in _differing(*summaries).items() if ABSENT not in pair},
        "rounds": [len(done) for done in rounds],
        "common": common,
        **dict(zip(("state", "cohort", "failures"), first, strict=True)),
        "cut": cut,
    }


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The keys whose values differ, with both, as they are typed."""
    pairs = {key: (_shown(a, key), _shown(b, key)) for key in [*a, *(key for key in b if key not in a)]}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _shown(values: Mapping[str, Any], key: str) -> str:
    return format_value(values[key]) if key in values else ABSENT


def _show(found: Mapping[str, Any], console: Console) -> None:
    for part in ("configuration", "summary"):
        if not found[part]:
            continue
        table = Table(title=Text(f"what differs in the {part}", style="bold"), title_justify="left", box=SIMPLE_HEAD)
        for name in ("key", "RUN_A", "RUN_B"):
            table.add_column(name, overflow="fold")
        for key, (a, b) in found[part].items():
            table.add_row(Text(key), Text(a), Text(b))
        console.print(table)
    if not found["configuration"]:
        console.print("the configurations are the same")
    for line in difference_lines(found):
        console.print(Text(line))


def difference_lines(found: Mapping[str, Any]) -> list[str]:
    """What is to be said of the rounds."""
    common = found["common"]
    lines = [f"RUN_A has {found['rounds'][0]} rounds, RUN_B {found['rounds'][1]}"]
    lines += [f"the last line of {name}'s rounds.jsonl was cut off and is not read" for name in found["cut"]]
    if not common:
        return [*lines, "no round is in both"]
    for name, many in (("state", "states"), ("cohort", "cohorts"), ("failures", "failures")):
        first = found[name]
        same = f"all {common} common rounds are the same" if common > 1 else "the only common round is the same"
        lines.append(f"{many}: " + (same if first is None else f"round {first} is the first that differs"))
    return lines
