"""The report as one HTML file, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from fedlit import __version__
from fedlit.reports.page.config_differences import config_differences
from fedlit.reports.page.elements import Element, element, script_json, to_html
from fedlit.reports.page.page_data import page_data
from fedlit.reports.render.cells import cell_number, pluralize
from fedlit.reports.render.tables import ReportTable, headline, make_tables
from fedlit.reports.result import Report
from fedlit.runs.commands import command_of_folder

SCRIPTS = (
    *("numbers.js", "chart.js", "tables.js", "state.js"),
    *("curves.js", "tradeoff.js", "ranges.js", "main.js"),
)
"""Files of the script, in their order."""
MAX_LISTED_FAILURES = 500
"""Skipped runs with a row each; report.md lists all of them."""


def to_page(report: Report, command: str, refresh_s: float | None = None) -> str:
    """Return the page.

    Args:
        report: the report.
        command: command line that made the report, or an empty string.
        refresh_s: seconds between two reloads of a page that is watched; None for a page that stays.
    """
    folder = files("fedlit.reports.page") / "files"
    style = (folder / "page.css").read_text("utf-8")
    code = "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    script = f"(() => {{\n{code}}})();\n"
    data = page_data(report)
    policy = f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; img-src data:"
    head = element(
        "head",
        None,
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"http-equiv": "refresh", "content": f"{refresh_s:g}"}) if refresh_s else None,
        element("link", {"rel": "icon", "href": "data:,"}),
        element("title", None, f"Report: {report.values['metric']}"),
        Element("style", {}, raw=style),
    )
    body = element("body", None, *_body(report, command, data["partitions"]))
    scripts = [
        Element("script", {"type": "application/json", "id": "data"}, raw=script_json(data)),
        Element("script", {}, raw=script),
    ]
    document = element("html", {"lang": "en"}, head, element("body", None, *body.children, *scripts))
    return f"<!doctype html>\n{to_html(document)}\n"


def _digest(content: str) -> str:
    """Return the digest by which a content security policy allows a content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _body(report: Report, command: str, partitions: Sequence[Mapping[str, Any]]) -> list[Element]:
    values = report.values
    has_spread = any(group["spread"] for group in values["groups"])
    parts = {
        "results": ("Results", _tables(values, "results")),
        "curves": ("Learning curves", [_needs_script("legend"), _needs_script("curves-chart")]),
        "trade-off": ("Trade-off", [_needs_script("trade-off-chart")]),
        "costs": ("Costs", _tables(values, "costs")),
        "spread": (
            "Spread over clients",
            [*_tables(values, "spread"), *([_needs_script("spread-chart")] if has_spread else [])],
        ),
        "failures": ("Failures", [*_tables(values, "failures"), *_failures(report)]),
        "partitions": ("Partitions", _partitions(partitions)),
        "configuration": ("Configuration", [*_differences(report)]),
        "runs": ("Runs", [_runs(values)]),
    }
    shown = {name: part for name, part in parts.items() if part[1]}
    links = [element("li", None, element("a", {"href": f"#{name}"}, title)) for name, (title, _) in shown.items()]
    skipped = pluralize(len(values["left_out"]), "skipped run")
    header = element(
        "header",
        None,
        element("h1", None, f"Report on {values['metric']}"),
        element("p", None, f"{headline(values)}; {skipped}."),
        element("p", {"class": "faint"}, "Created by ", element("code", None, command)) if command else None,
        element("nav", {"aria-label": "parts of the page"}, element("ul", None, *links)),
    )
    sections = [
        element("section", {"aria-labelledby": name}, element("h2", {"id": name}, title), *content)
        for name, (title, content) in shown.items()
    ]
    footer = element("footer", None, element("p", {"class": "faint"}, f"fedlit {__version__}"))
    skip = element("a", {"class": "skip", "href": "#results"}, "skip to the results")
    return [skip, header, element("main", None, _filter_bar(), *sections), footer]


def _filter_bar() -> Element:
    filter_input = element("input", {"id": "filter", "type": "search", "placeholder": "words of a label"})
    theme = element("button", {"id": "theme", "type": "button"}, "dark / light")
    count = element("span", {"id": "count", "class": "faint", "role": "status"})
    bar = {"class": "bar", "data-needs-script": True, "hidden": True}
    return element("div", bar, element("label", None, "filter groups ", filter_input), count, theme)


def _needs_script(id: str) -> Element:
    return element("div", {"id": id}, element("noscript", None, "This chart needs JavaScript."))


def _tables(values: Mapping[str, Any], part: str) -> list[Element]:
    """Return the tables of a part, with notes and pictures of differences."""
    numbers = {group["group"]: i for i, group in enumerate(values["groups"])}
    parts = []
    for table in (table for table in make_tables(values, with_ends=True) if table.part == part):
        parts += [_table(table, numbers), *(element("p", {"class": "faint"}, note) for note in table.notes)]
        if values["paired"] and table.columns[-1] == "unpaired":
            for name in ("best", "last"):
                if any(one[name] for one in values["paired"]):
                    caption = element("h3", None, f"Paired differences, {name} round")
                    parts += [caption, _needs_script(f"differences-{name}")]
    return parts


def _table(table: ReportTable, numbers: Mapping[str, int], has_texts: bool = False) -> Element:
    """Return a sortable table; one whose rows are groups can be filtered."""
    header = element("tr", None, *(element("th", {"scope": "col"}, name) for name in table.columns))
    rows = []
    for row in table.rows:
        cells = [element("th", {"scope": "row"}, row[0])]
        for text in row[1:]:
            number = None if has_texts else cell_number(text)
            is_word = has_texts or (number is None and text != "-")
            value = None if is_word else "" if number is None else repr(number)
            cells.append(element("td", {"data-value": value}, text))
        rows.append(element("tr", {"data-group": numbers.get(row[0]), "data-text": row[0]}, *cells))
    is_filtered = any(row[0] in numbers for row in table.rows)
    classes = ["sortable", *(["filtered"] if is_filtered else []), *(["texts"] if has_texts else [])]
    content = (element("caption", None, table.title), element("thead", None, header), element("tbody", None, *rows))
    region = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": table.title}
    return element("div", region, element("table", {"class": " ".join(classes)}, *content))


def _partitions(pictures: Sequence[Mapping[str, Any]]) -> list[Element]:
    note = element("p", {"class": "faint"}, "A column is a client, a row a class; more samples are a stronger colour.")
    return [note, element("div", {"class": "panels"}, *map(_partition, pictures))] if pictures else []


def _partition(picture: Mapping[str, Any]) -> Element:
    groups = "; ".join(picture["groups"])
    caption = element("figcaption", None, f"{picture['title']}. Groups: {groups}.")
    return element("figure", {"id": picture["id"], "class": "chart"}, caption)


def _failures(report: Report) -> list[Element]:
    """Return the table of skipped runs with their commands."""
    rows = []
    for run in report.skipped[:MAX_LISTED_FAILURES]:
        command = command_of_folder(run.folder) if run.kind in ("failed", "unfinished") else None
        rows.append([str(run.folder), run.kind, run.reason, command or "-"])
    if not rows:
        return []
    columns = ["folder", "kind", "reason", "command that runs or resumes it alone"]
    parts = [_table(ReportTable("skipped runs", columns, rows), {}, has_texts=True)]
    if len(report.skipped) > len(rows):
        parts.append(element("p", None, f"and {len(report.skipped) - len(rows)} more, listed in report.md"))
    return parts


def _differences(report: Report) -> list[Element]:
    """Return the differences of each group from its baseline."""
    parts = []
    for i, j, rows in config_differences(report):
        labels = [report.groups[k].label for k in (i, j)]
        title = element("summary", None, f"{labels[0]}: {pluralize(len(rows), 'key')} differ")
        table = ReportTable(f"differences from {labels[1]}", ["key", "baseline", "group"], rows)
        parts.append(element("details", {"data-group": i}, title, _table(table, {}, has_texts=True)))
    return parts


def _runs(values: Mapping[str, Any]) -> Element:
    numbers = {group["group"]: i for i, group in enumerate(values["groups"])}
    names = ("seed", "best_round", "best", "last", "rounds", "lost_rounds")
    rows = [[run["group"], *(_number_text(run[name]) for name in names), run["folder"]] for run in values["runs"]]
    return _table(ReportTable("runs", ["group", *(name.replace("_", " ") for name in names), "folder"], rows), numbers)


def _number_text(value: float | None) -> str:
    """Return a whole number with all digits, others with six."""
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"
