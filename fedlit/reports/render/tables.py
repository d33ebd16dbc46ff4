"""The report's tables, once for the terminal and for Markdown; and a row a run as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Found = Mapping[str, Any]


@dataclass(frozen=True)
class ReportTable:
    """A table.

    Args:
        title: what it shows.
        columns: their names, the first of them of words, the others of numbers.
        rows: cells.
        notes: what has to be known.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def make_tables(found: Found, ends: bool) -> Iterator[ReportTable]:
    """The tables of a report, those that have something to show.

    Args:
        found: the report.
        ends: whether an interval is shown by its ends, or by half its width.
    """
    groups = found["groups"]
    yield _results(found, groups, ends)
    if found["paired"]:
        yield _paired(found, ends)
    if found["target"] is not None:
        yield _target(found, groups, ends)
    yield _costs(groups, ends)
    if any(one["spread"] for one in groups):
        yield _spread(found, groups, ends)
    if any(one["failures"] or one["lost_rounds"] or one["failed_jobs"] for one in groups):
        yield _failures(groups)


def _results(found: Found, groups: Sequence[Found], ends: bool) -> ReportTable:
    rows = [
        [one["group"], str(one["n"]), *(format_cell(one[name], ends) for name in ("best", "last"))] for one in groups
    ]
    notes = [f"An interval is Student's of {100 * found['level']:g} % over seeds; one seed has none."]
    for one in groups:
        for name, seeds in one["no_number"].items():
            if seeds:
                said = f"{one['group']}: no number at the {name} round with seed {join_values(seeds)}, which the mean leaves out"
                notes.append(said)
    return ReportTable(
        f"{found['metric']}, mean over seeds", ["group", "seeds", "best round", "last round"], rows, notes
    )


def _paired(found: Found, ends: bool) -> ReportTable:
    rows, notes = [], []
    for one in found["paired"]:
        for name in ("best", "last"):
            pairs = one[name]
            both = (
                [str(pairs["n"]), format_cell(pairs, ends, True), format_cell(pairs["unpaired"], ends, True)]
                if pairs
                else ["0", "-", "-"]
            )
            rows.append([one["group"], name, *both])
        if apart := [f"{join_values(seeds)} of {one[who]}" for who, seeds in one["left_out_seeds"].items() if seeds]:
            notes.append(f"{one['group']}: left out, for they have no pair: seeds {'; '.join(apart)}")
        if one["digests_that_differ"]:
            notes.append(f"{one['group']}: not the same with the same seed: {', '.join(one['digests_that_differ'])}")
    notes += [f"not compared, for no baseline has its other settings: {label}" for label in found["not_compared"]]
    if found["mode"]:
        notes.append(f"{'Above' if found['mode'] == 'max' else 'Below'} 0 is better than the baseline.")
    notes.append("paired: seed by seed; unpaired: Welch's. Each interval is for itself, not for all at once.")
    if not found["baseline_was_typed"]:
        notes.append("--baseline KEY=VALUE takes another.")
    title = f"{found['metric']} less that of {found['baseline']}"
    return ReportTable(title, ["group", "round", "pairs", "paired", "unpaired"], rows, notes)


def _target(found: Found, groups: Sequence[Found], ends: bool) -> ReportTable:
    simulated = any(one["target"]["simulated_s"] for one in groups)
    names = ["rounds", "bytes", *(["simulated_s"] if simulated else []), "wall_s"]
    rows = []
    for one in groups:
        target = one["target"]
        cells = [format_cell(target[name], ends, unit=UNITS.get(name, "")) for name in names]
        rows.append([one["group"], f"{len(target['reached'])} of {target['of']}", *cells])
    titles = ["group", "reached by", *(HEADINGS[name] for name in names)]
    some = any(len(one["target"]["reached"]) < one["target"]["of"] for one in groups)
    notes = ["A mean is over the seeds that reached it, which is fewer than all: it flatters."] if some else []
    better = "at least" if found["mode"] == "max" else "at most"
    return ReportTable(f"until {found['metric']} was first {better} {found['target']:g}", titles, rows, notes)


def _costs(groups: Sequence[Found], ends: bool) -> ReportTable:
    simulated = any(one["simulated_s"] for one in groups)
    names = ["area", "rounds", "bytes", *(["simulated_s"] if simulated else []), "wall_s"]
    rows = [
        [one["group"], *(format_cell(one[name], ends, unit=UNITS.get(name, "")) for name in names)] for one in groups
    ]
    notes = ["area: under the curve over rounds, divided by its length. wall: in rounds, without start and imports."]
    return ReportTable("whole runs", ["group", *(HEADINGS[name] for name in names)], rows, notes)


def _spread(found: Found, groups: Sequence[Found], ends: bool) -> ReportTable:
    names = {"std": "std", "lowest_tenth": "lowest tenth", "highest_tenth": "highest tenth", "gini": "Gini"}
    rows = [[one["group"], *(format_cell((one["spread"] or {}).get(name), ends) for name in names)] for one in groups]
    notes = ["Of the clients' own test samples, at the best round; eval.clients says which clients."]
    return ReportTable("spread over clients", ["group", *names.values()], rows, notes)


def _failures(groups: Sequence[Found]) -> ReportTable:
    rows = []
    for one in groups:
        outcomes = ", ".join(f"{count} {name}" for name, count in one["failures"].items()) or "none"
        rows.append([one["group"], outcomes, str(one["lost_rounds"]), str(len(one["failed_jobs"]))])
    return ReportTable("failures, over all seeds", ["group", "updates left out", "lost rounds", "failed jobs"], rows)


HEADINGS = {"area": "area", "rounds": "rounds", "bytes": "bytes", "simulated_s": "simulated", "wall_s": "wall"}
UNITS = {"bytes": "B", "simulated_s": "s", "wall_s": "s"}


def format_cell(estimate: Found | None, ends: bool, signed: bool = False, unit: str = "") -> str:
    """A mean with its interval, if it has one, as text."""
    if estimate is None:
        return "-"
    size, unit = scale_unit(estimate["mean"], unit)
    mean, half, unit = estimate["mean"] / size, estimate["half"], f" {unit}" if unit else ""
    places = _places(half / size, 2) if half else 0 if mean == int(mean) else _places(abs(mean), 4)
    form = f",.{places}f"
    text = f"{mean:{'+' if signed else ''}{form}}"
    if half is None:
        return text + unit
    if not ends:
        return f"{text} ± {half / size:{form if half else ',.0f'}}{unit}"
    low, high = (f"{estimate[end] / size:{'+' if signed else ''}{form}}" for end in ("low", "high"))
    return f"{text} [{low}, {high}]{unit}"


def _places(value: float, digits: int) -> int:
    """Places behind the point that show so many digits of the value."""
    return min(max(digits - 1 - math.floor(math.log10(value)), 0), 6)


def scale_unit(value: float, unit: str) -> tuple[float, str]:
    """By what to divide bytes, and their unit then; other units stay."""
    if unit != "B":
        return 1.0, unit
    for size, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= size:
            return size, name
    return 1.0, "B"


def join_values(values: Sequence[Any]) -> str:
    """Values in one line."""
    return ", ".join(map(str, values))


def pluralize(count: int, noun: str) -> str:
    """The number and the noun, such as `1 run` and `2 runs`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def headline(found: Found) -> str:
    """How many runs there are, in how many groups, with which seeds."""
    seeds = sorted({seed for one in found["groups"] for seed in one["seeds"]})
    many = f"{pluralize(len(found['runs']), 'run')} in {pluralize(len(found['groups']), 'group')}"
    return f"{many}, seed{'' if len(seeds) == 1 else 's'} {join_values(seeds)}"


def rows_of_runs(found: Found) -> str:
    """A line a run, as CSV."""
    keys = [*dict.fromkeys(key for run in found["runs"] for key in run["settings"])]
    flat = []
    for run in found["runs"]:
        row = {key: value for key, value in run.items() if not isinstance(value, Mapping) and key != "target"}
        row |= {key: run["settings"].get(key) for key in keys if key not in row}
        row |= {f"spread_{name}": value for name, value in (run["spread"] or {}).items()}
        row |= {f"{name}_to_target": value for name, value in (run.get("target") or {}).items()}
        row.pop("spread", None)
        flat.append(row | {f"failures_{name}": count for name, count in run["failures"].items()})
    text = io.StringIO()
    columns = [*dict.fromkeys(name for row in flat for name in row)]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def markdown(found: Found, command: str, figures: Sequence[str]) -> str:
    """The whole report, to be read on its own."""
    lines = [
        "# Report",
        "",
        f"{headline(found)}; {len(found['left_out'])} left out.",
    ]
    lines += [f"Made by `{command}`."] if command else []
    for grid in make_tables(found, ends=True):
        lines += ["", f"## {_plain(grid.title)}", "", _row(grid.columns)]
        lines += [_row(["---", *("---:" for _ in grid.columns[1:])]), *(_row(row) for row in grid.rows)]
        lines += [part for note in grid.notes for part in ("", _plain(note))]
    lines += [part for name in figures for part in ("", f"![{name.rpartition('.')[0]}]({name})")]
    if found["left_out"]:
        lines += ["", "## left out", ""]
        lines += [f"- {_plain(one['folder'])}: {one['what']}: {_plain(one['why'])}" for one in found["left_out"]]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: what a run's folder names may be anything."""
    for sign in ("\\", "`", "*", "_", "|", "<", "]("):
        text = text.replace(sign, f"\\{sign}" if len(sign) == 1 else "]\\(")
    return " ".join(text.split())
