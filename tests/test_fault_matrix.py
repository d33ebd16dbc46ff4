"""Every row of scripts/fault_matrix.py holds, and the rows can fail."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import fault_matrix
from matrix import run_rows

pytestmark = pytest.mark.slow  # whole runs


@pytest.fixture(autouse=True, scope="module")
def short():
    """The soak in full takes minutes; the script does it."""
    before, run_rows.SOAK = run_rows.SOAK, (40, 4, 15)
    yield
    run_rows.SOAK = before


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.name, marks=[pytest.mark.slow] if row.slow else []) for row in fault_matrix.ROWS],
)
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
