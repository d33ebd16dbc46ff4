"""Tables of the report, and CSV with one row per run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedlit.core.text.escape import spreadsheet_cell
from fedlit.reports.labels import MAX_SETTINGS
from fedlit.reports.render.cells import (
    ReportValues,
    format_cell,
    format_mean,
    format_statistics,
    join_values,
    pluralize,
)

HEADINGS = {"area": "area", "rounds": "rounds", "bytes": "bytes", "simulated_s": "simulated", "wall_s": "wall"}
UNITS = {"bytes": "B", "simulated_s": "s", "wall_s": "s"}


@dataclass(frozen=True)
class ReportTable:
    """A table of the report.

    Args:
        title: title of the table.
        columns: column names; the first column has text, the others have numbers.
        rows: text of the cells.
        notes: remarks below the table.
        part: part of the report: `results`, `costs`, `spread` or `failures`.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    part: str = "results"


def make_tables(result: ReportValues, with_ends: bool) -> Iterator[ReportTable]:
    """Yield the tables of a report, without empty tables.

    Args:
        result: the report.
        with_ends: True to write an interval as its two ends, False to write half its width; True also repeats the label of a
            group in each of its rows.
    """
    groups = result["groups"]
    if result["search"]:
        yield _search_table(result)
    if not result["search"] or any(group["n"] > 1 for group in groups):
        yield _metric_table(result, groups, with_ends)
    if result["paired"]:
        yield _difference_table(result, with_ends)
    if result["target"] is not None:
        yield _target_table(result, groups, with_ends)
    yield _cost_table(groups, with_ends)
    if any(group["ratio"] or group["epsilon"] for group in groups):
        yield _message_table(groups, with_ends)
    if any(group["spread"] for group in groups):
        yield _spread_table(groups, with_ends)
    if any(group["failures"] or group["lost_rounds"] or group["failed_jobs"] for group in groups):
        yield _failure_table(groups)


def _search_table(result: ReportValues) -> ReportTable:
    search, groups = result["search"], result["groups"]
    rows = []
    for trial in search["ranking"]:
        group = groups[trial["index"]]
        rows.append(
            [group["group"], *(format_mean(part) for part in (trial["objective"], group["best"], group["last"]))]
        )
    trials = pluralize(len(rows), "trial")
    title = f"search for the {search['mode']}imum of {search['objective']}, {trials}, best first"
    notes = ["The search optimised the first column, at the best round. The best of many trials is optimistic there."]
    columns = ["trial", search["objective"], f"{result['metric']}, best round", "last round"]
    return ReportTable(title, columns, rows, notes)


def _metric_table(result: ReportValues, groups: Sequence[ReportValues], repeat: bool) -> ReportTable:
    rows = [
        [
            group["group"] if repeat or name == "best" else "",
            name,
            str(group[name]["n"] if group[name] else 0),
            *format_statistics(group[name]),
        ]
        for group in groups
        for name in ("best", "last")
    ]
    notes = ["n: seeds. std: sample standard deviation over seeds. One seed has no std and no interval."]
    notes.append(f"Intervals are {100 * result['level']:g} % Student-t intervals of the mean.")
    if any(len(group["settings"]) > MAX_SETTINGS for group in groups):
        notes.append("Labels leave out the settings that most groups have in common; report.csv has all of them.")
    for group in groups:
        for name, seeds in group["no_number"].items():
            if seeds:
                values = f"no finite value at the {name} round for seed {join_values(seeds)}"
                notes.append(f"{group['group']}: {values}; the mean is over the other seeds")
    columns = ["group", "round", "n", "mean", "std", f"{100 * result['level']:g} % interval"]
    return ReportTable(f"{result['metric']}, mean over seeds", columns, rows, notes)


def _difference_table(result: ReportValues, with_ends: bool) -> ReportTable:
    rows, notes = [], []
    for one in result["paired"]:
        for name in ("best", "last"):
            pairs = one[name]
            cells = ["0", "-", "-"]
            if pairs:
                intervals = (format_cell(part, with_ends, signed=True) for part in (pairs, pairs["unpaired"]))
                cells = [str(pairs["n"]), *intervals]
            rows.append([one["group"] if with_ends or name == "best" else "", name, *cells])
        if unpaired := [
            f"{join_values(seeds)} of {one[side]}" for side, seeds in one["left_out_seeds"].items() if seeds
        ]:
            notes.append(f"{one['group']}: seeds without a pair are skipped: {'; '.join(unpaired)}")
        if one["digests_that_differ"]:
            notes.append(f"{one['group']}: different for the same seed: {', '.join(one['digests_that_differ'])}")
    notes += [f"not compared, because no baseline has the same other settings: {g}" for g in result["not_compared"]]
    if result["mode"]:
        notes.append(f"Values {'above' if result['mode'] == 'max' else 'below'} 0 are better than the baseline.")
    notes.append("paired: differences seed by seed. unpaired: Welch intervals. Each interval holds alone, not jointly.")
    if not result["baseline_was_typed"]:
        notes.append(f"The baseline is the first group, {result['baseline']}; --baseline KEY=VALUE takes another.")
    title = f"{result['metric']}, difference from {result['baseline']}"
    return ReportTable(title, ["group", "round", "pairs", "paired", "unpaired"], rows, notes)


def _target_table(result: ReportValues, groups: Sequence[ReportValues], with_ends: bool) -> ReportTable:
    is_simulated = any(group["target"]["simulated_s"] for group in groups)
    names = ["rounds", "bytes", *(["simulated_s"] if is_simulated else []), "wall_s"]
    rows = []
    for group in groups:
        target = group["target"]
        cells = [format_cell(target[name], with_ends, unit=UNITS.get(name, "")) for name in names]
        rows.append([group["group"], f"{len(target['reached'])} of {target['of']}", *cells])
    columns = ["group", "reached by", *(HEADINGS[name] for name in names)]
    is_partial = any(len(group["target"]["reached"]) < group["target"]["of"] for group in groups)
    notes = ["Means are over the seeds that reached the target: fewer than all, so they are optimistic."]
    bound = "at least" if result["mode"] == "max" else "at most"
    title = f"cost until {result['metric']} was first {bound} {result['target']:g}"
    return ReportTable(title, columns, rows, notes if is_partial else [])


def _cost_table(groups: Sequence[ReportValues], with_ends: bool) -> ReportTable:
    is_simulated = any(group["simulated_s"] for group in groups)
    names = ["area", "rounds", "bytes", *(["simulated_s"] if is_simulated else []), "wall_s"]
    rows = [
        [group["group"], *(format_cell(group[name], with_ends, unit=UNITS.get(name, "")) for name in names)]
        for group in groups
    ]
    notes = ["area: mean height of the curve over rounds. wall: time in rounds, without start and imports."]
    return ReportTable("whole runs", ["group", *(HEADINGS[name] for name in names)], rows, notes, "costs")


def _message_table(groups: Sequence[ReportValues], with_ends: bool) -> ReportTable:
    columns = {"up_bytes": "up", "down_bytes": "down", "ratio": "ratio", "epsilon": "epsilon", "clipped": "clipped"}
    names = [name for name in columns if any(group[name] for group in groups)]
    rows = [
        [group["group"], *(format_cell(group[name], with_ends, unit="B" if "bytes" in name else "") for name in names)]
        for group in groups
    ]
    notes = {
        "up_bytes": "up, down: bytes of a whole run.",
        "ratio": "ratio: bytes of all updates before compression, divided by up.",
        "epsilon": "epsilon: spent by all rounds.",
        "clipped": "clipped: fraction of the updates, mean over rounds.",
    }
    headings = ["group", *(columns[name] for name in names)]
    shown_notes = [notes[name] for name in names if name in notes]
    return ReportTable("what leaves the clients", headings, rows, shown_notes, "costs")


def _spread_table(groups: Sequence[ReportValues], with_ends: bool) -> ReportTable:
    names = {"std": "std", "lowest_tenth": "lowest tenth", "highest_tenth": "highest tenth", "gini": "Gini"}
    rows = [
        [group["group"], *(format_cell(group["spread"].get(name), with_ends) for name in names)]
        for group in groups
        if group["spread"]
    ]
    notes = ["On the clients' own test sets, at the best round. eval.clients chooses the clients."]
    return ReportTable("spread over clients", ["group", *names.values()], rows, notes, "spread")


def _failure_table(groups: Sequence[ReportValues]) -> ReportTable:
    rows = []
    for group in groups:
        outcomes = ", ".join(f"{count} {name}" for name, count in group["failures"].items()) or "none"
        rows.append([group["group"], outcomes, str(group["lost_rounds"]), str(len(group["failed_jobs"]))])
    columns = ["group", "client failures", "lost rounds", "failed jobs"]
    return ReportTable("failures, over all seeds", columns, rows, part="failures")


def headline(result: ReportValues) -> str:
    """Return the number of runs, the number of groups, and the seeds."""
    seeds = sorted({seed for group in result["groups"] for seed in group["seeds"]})
    unit = "trial" if result["search"] else "group"
    counts = f"{pluralize(len(result['runs']), 'run')} in {pluralize(len(result['groups']), unit)}"
    return f"{counts}, seed{'' if len(seeds) == 1 else 's'} {join_values(seeds)}"


def runs_to_csv(result: ReportValues) -> str:
    """Return CSV with one row per run."""
    keys = [*dict.fromkeys(key for run in result["runs"] for key in run["settings"])]
    rows = []
    for run in result["runs"]:
        row = {key: value for key, value in run.items() if not isinstance(value, Mapping) and key != "target"}
        row |= {key: run["settings"].get(key) for key in keys if key not in row}
        row |= {f"spread_{name}": value for name, value in (run["spread"] or {}).items()}
        row |= {f"{name}_to_target": value for name, value in (run.get("target") or {}).items()}
        row.pop("spread", None)
        rows.append(row | {f"failures_{name}": count for name, count in run["failures"].items()})
    text = io.StringIO()
    columns = [*dict.fromkeys(name for row in rows for name in row)]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerow({name: spreadsheet_cell(name) for name in columns})
    writer.writerows({name: spreadsheet_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()
