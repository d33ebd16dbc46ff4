"""Every row of scripts/fault_matrix.py holds, and the rows can fail."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import fault_matrix
from matrix import checkpoint_rows, run_rows

pytestmark = pytest.mark.slow  # whole runs

ELSEWHERE = "SIGTERM to the real command, elsewhere"
"""A row that runs only in the script, because its own process takes ten seconds.

Another row checks the signal and the printed command in a fork. test_wheel.py checks that a process with another hash seed,
locale and time zone is bit-identical.
"""


@pytest.fixture(autouse=True, scope="module")
def short_rows():
    """Shorten the soak, which takes minutes, and the kills at each step, which take seconds; the script runs both in full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_rows, "SOAK", (40, 4, 15))
        patch.setattr(checkpoint_rows, "EVERY", 3)  # the power cut is at each step here too
        yield


@pytest.mark.parametrize("row", [row for row in fault_matrix.ROWS if row.name != ELSEWHERE], ids=lambda row: row.name)
def test_row(row):
    problem, _ = fault_matrix.check_row(row)
    assert not problem, problem


@pytest.mark.parametrize("part", fault_matrix.BREAKS)
def test_row_does_not_hold_without_a_part_of_fedlit(part):
    name, leave_out = fault_matrix.BREAKS[part]
    (row,) = [row for row in fault_matrix.ROWS if row.name == name]
    with leave_out():
        problem, _ = fault_matrix.check_row(row)
    assert problem
    assert "Traceback" not in problem


def test_script_prints_the_row_that_does_not_hold_and_exits_with_status_1(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fault_matrix.py", "--break", "arrival", "--row", "another order"])
    with pytest.raises(SystemExit) as end:
        fault_matrix.main()
    assert end.value.code
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    row = "NOT HELD | workers that finish in another order | same bits of the sum | "
    assert " ".join(output.split()).startswith(row)
    assert output.endswith("0 of 1 rows held\n")


def test_there_are_at_least_25_rows_and_no_name_twice():
    names = [row.name for row in fault_matrix.ROWS]
    assert len(names) == len(set(names)) >= 25
    assert ELSEWHERE in names
