"""CSV with one row for each run, round and metric."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from fedlit.core.text.escape import spreadsheet_cell
from fedlit.reports.result import Report
from fedlit.runs.layout import OTHER_RECORD_KEYS


def rounds_to_csv(report: Report) -> str:
    """Return CSV with a row for each value.

    The columns are folder, group, settings, seed, round, metric and value.
    A value that is not a number is empty.
    """
    settings = [*dict.fromkeys(key for group in report.groups for key in group.settings)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(spreadsheet_cell, ["folder", "group", *settings, "seed", "round", "metric", "value"]))
    for folder, label, values, seed, round, metric, value in _rows(report):
        texts = (folder, label, *(values.get(key) for key in settings))
        writer.writerow([*map(spreadsheet_cell, texts), seed, round, spreadsheet_cell(metric), value])
    return text.getvalue()


def _rows(report: Report) -> Iterator[tuple]:
    for group in report.groups:
        for seed, run in group.runs.items():
            for record in run.records:
                for metric, value in record.items():
                    if metric not in OTHER_RECORD_KEYS:
                        is_number = isinstance(value, int | float) and not isinstance(value, bool)
                        number = value if is_number else None
                        yield str(run.folder), group.label, group.settings, seed, record["round"], metric, number
