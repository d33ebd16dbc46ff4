"""The examples run: the tutorial, and the notebook with the same code."""

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SCRIPT = (EXAMPLES / "tutorial.py").read_text()
NOTEBOOK = json.loads((EXAMPLES / "tutorial.ipynb").read_text())


@pytest.fixture(scope="module")
def notebook():
    """The script that writes the notebook."""
    spec = spec_from_file_location("notebook", ROOT / "scripts" / "notebook.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_is_that_of_the_tutorial(notebook):
    assert notebook.make_notebook(SCRIPT) == (EXAMPLES / "tutorial.ipynb").read_text()
    assert notebook.make_notebook(SCRIPT.replace("alpha=0.5", "alpha=0.6")) != (EXAMPLES / "tutorial.ipynb").read_text()


def test_the_cells_have_all_lines_of_the_tutorial_and_no_output():
    code = "".join("".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")
    lines = [line for line in SCRIPT.splitlines() if line and not line.startswith("#")]
    assert [line for line in code.splitlines() if line] != []
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", code)
    assert all(cell["outputs"] == [] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")


def test_the_tutorial_has_seven_steps():
    headings = [cell["source"][0] for cell in NOTEBOOK["cells"] if cell["source"][0].startswith("## ")]
    assert [heading[:5] for heading in headings] == [*(f"## {number}." for number in range(1, 8)), "## Ne"]


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_in_order(tmp_path, monkeypatch, capsys):
    """The tutorial's own FedAvg ends with the bits of the library's, and its figure is written."""
    import matplotlib as mpl

    monkeypatch.chdir(tmp_path)
    namespace = vars(ModuleType("tutorial"))
    with mpl.rc_context({"backend": "Agg"}):
        for cell in NOTEBOOK["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), namespace)
        namespace["plt"].close(namespace["figure"])
    printed = capsys.readouterr().out
    assert "same bits as fedlit.FedAvg: True" in printed
    accuracies = [float(match) for match in re.findall(r"test accuracy (0\.\d+) in round", printed)]
    assert len(accuracies) == 2
    assert min(accuracies) > 0.93
    assert (tmp_path / "tutorial.png").stat().st_size > 10_000
