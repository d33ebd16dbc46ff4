"""Every row of scripts/fault_matrix.py holds, and the rows can fail."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import fault_matrix
from matrix import commit_rows, run_rows

pytestmark = pytest.mark.slow  # whole runs

ELSEWHERE = "SIGTERM to the real command, elsewhere"
"""For the script: a process of its own takes ten seconds. The signal and what it prints are a row in a fork too, and the
bits of a process with another hash seed, locale and time zone are in test_wheel.py."""


@pytest.fixture(autouse=True, scope="module")
def short():
    """The soak in full takes minutes, and a kill at each step seconds; the script does both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_rows, "SOAK", (40, 4, 15))
        patch.setattr(commit_rows, "EVERY", 3)  # a power cut is at each step here too
        yield


@pytest.mark.parametrize("row", [row for row in fault_matrix.ROWS if row.name != ELSEWHERE], ids=lambda row: row.name)
def test_row(row):
    wrong, _ = fault_matrix.held(row)
    assert not wrong, wrong


@pytest.mark.parametrize("part", fault_matrix.BREAKS)
def test_with_a_part_left_out_a_row_does_not_hold(part):
    name, broken = fault_matrix.BREAKS[part]
    (row,) = [row for row in fault_matrix.ROWS if row.name == name]
    with broken():
        wrong, _ = fault_matrix.held(row)
    assert wrong
    assert "Traceback" not in wrong


def test_the_script_says_what_did_not_hold_and_ends_with_status_1(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fault_matrix.py", "--break", "arrival", "--row", "another order"])
    with pytest.raises(SystemExit) as end:
        fault_matrix.main()
    assert end.value.code
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    row = "NOT HELD | workers that finish in another order | the sum's bits are the same | "
    assert " ".join(said.split()).startswith(row)
    assert said.endswith("0 of 1 rows held\n")


def test_there_are_rows_enough_and_none_twice():
    names = [row.name for row in fault_matrix.ROWS]
    assert len(names) == len(set(names)) >= 25
    assert ELSEWHERE in names
