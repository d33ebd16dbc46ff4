"""Values from anywhere are shown as they are, and do nothing."""

import csv
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlit.core.errors import ConfigError, print_config_errors
from fedlit.core.text.console import PlainConsole
from fedlit.core.text.escape import (
    PrintableFormatter,
    escape_tracebacks,
    printable,
    shell_command,
    short_path,
    spreadsheet_cell,
)

ESCAPES = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b2J",
    "\x1b]8;;http://x\x1b\\link",
    "a\rb",
    "\u202egnp",
    "a\x00",
    "\udc80",
]


@pytest.mark.parametrize("text", ESCAPES)
def test_control_characters_become_visible(text):
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


def test_printable_text_stays():
    for text in ("a b", "é 漢字 [red]x[/red] =1+1", ""):
        assert printable(text) == text
    assert printable("a\nb\tc\x1b", keep="\n\t") == "a\nb\tc\\x1b"
    assert printable("\x1b\u202e\U000e0001") == "\\x1b\\u202e\\U000e0001"
    assert printable(0.5) == "0.5"


def shown(value, **options):
    console = PlainConsole(file=io.StringIO(), width=100, **options)
    table = Table(title=value)
    table.add_column(value)
    table.add_row(value)
    table.add_row(Text(value))
    console.print(value)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize(
    "value", ["we ird=dir,[x]", "outputs/a[/b]c", "[red]x", ":smile:", "[link=http://x]y", "a\\[b]"]
)
def test_markup_is_shown_as_it_is(value):
    assert shown(value).count(value) == 5


@pytest.mark.parametrize("value", ESCAPES[:-1])
def test_no_escape_reaches_the_terminal_even_with_colours(value):
    text = shown(value, force_terminal=True, no_color=True, legacy_windows=False)
    plain = shown("x", force_terminal=True, no_color=True, legacy_windows=False)
    assert text.count("\x1b") == plain.count("\x1b")  # those of Rich alone
    assert not set("\x07\x9b\r\u202e\x00") & set(text)


def test_styles_of_code_stay():
    console = PlainConsole(file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(Text("red", style="red"))
    assert "\x1b[31mred" in console.file.getvalue()


def test_every_console_of_the_package_is_a_plain_one():
    for path in (Path(__file__).parents[3] / "fedlit").rglob("*.py"):
        if path.name != "console.py":
            lines = [line for line in path.read_text().splitlines() if "Console(" in line.replace("PlainConsole(", "")]
            assert lines == [], path
    assert issubclass(PlainConsole, Console)


def test_errors_and_log_records_are_escaped(capsys):
    print_config_errors([ConfigError("model.\x1b[2J", "\x1b[2J\nb", "problem \x07\nsecond line", "hint \x1b")])
    text = capsys.readouterr().err
    assert text.splitlines()[1:] == [
        "  model.\\x1b[2J=\\x1b[2J\\nb",
        "      problem \\x07",
        "      second line",
        "      hint \\x1b",
    ]
    record = logging.LogRecord("a", logging.INFO, "", 0, "%s", ("\x1b[2J\nb",), None)
    assert PrintableFormatter("%(message)s").format(record) == "\\x1b[2J\nb"


def test_a_traceback_is_escaped(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    escape_tracebacks()
    try:
        raise ValueError("\x1b[2J\nsecond line")
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    text = capsys.readouterr().err
    assert text.endswith("ValueError: \\x1b[2J\nsecond line\n")
    assert text.startswith("Traceback")


WORDS = [
    "",
    "a b",
    "it's",
    '"',
    "$HOME `x` \\ !",
    "we ird=dir,[x]",
    "k='a b,[x]'",
    "k=",
    "~/x",
    "\x1b[2J",
    "a\nb'\\",
    "é\udc80",
    "*",
]


def test_a_command_can_be_pasted():
    output = subprocess.run(["bash", "-c", f"printf '%s\\0' {shell_command(WORDS)}"], capture_output=True, check=True)
    assert [os.fsdecode(word) for word in output.stdout.split(b"\0")[:-1]] == WORDS
    assert printable(shell_command(WORDS)) == shell_command(WORDS)
    assert shell_command(["resume='a b,[x]'", Path("c d")]) == "resume=\"'a b,[x]'\" 'c d'"


def test_a_path_below_the_current_folder_is_shown_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    paths = {"here/runs/a": "runs/a", "here": ".", "there/a": f"{tmp_path}/there/a", "here/-x": f"{tmp_path}/here/-x"}
    assert {name: str(short_path(tmp_path / name)) for name in paths} == paths


@pytest.mark.parametrize(
    "value", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "=cmd|' /C calc'!A0", "-"]
)
def test_a_formula_is_a_text_in_a_spreadsheet(value):
    assert spreadsheet_cell(value) == f"'{value}"


@pytest.mark.parametrize("value", [-0.5, 3, None, True, "-0.5", "+1e-3", "-inf", "", "a=1", "fedavg", "1-2"])
def test_numbers_and_other_texts_stay(value):
    assert spreadsheet_cell(value) == value


def test_cells_and_columns_of_a_report_are_escaped():
    from fedlit.reports.render.tables import runs_to_csv

    run = {
        "run": "=1+1",
        "seed": 1,
        "best": -0.5,
        "settings": {"=cmd": "-0.5", "b": "@x\x1b"},
        "spread": None,
        "failures": {},
    }
    (row,) = csv.DictReader(io.StringIO(runs_to_csv({"runs": [run]})))
    assert row == {"run": "'=1+1", "seed": "1", "best": "-0.5", "'=cmd": "-0.5", "b": "'@x\\x1b"}
