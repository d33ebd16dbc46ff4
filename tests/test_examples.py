"""The examples run: the tutorial, the notebook with the same code, an algorithm in a package of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from fedlit.cli import train
from fedlit.experiment.config.trust.allowlist import untrusted_targets

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
OWN = EXAMPLES / "own_algorithm"
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


@pytest.mark.slow
def test_the_own_algorithm_passes_its_tests_and_is_found_by_hydra():
    """Its tests run in a process of their own: Hydra looks for plugins once."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-c",
        OWN / "pyproject.toml",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=OWN, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


@pytest.mark.slow
def test_the_own_algorithm_is_found_by_a_folder_of_configurations(tmp_path, monkeypatch):
    """Without the plugin, `--config-dir` names the folder."""
    shutil.copytree(OWN / "fedlit_fedexp", tmp_path / "fedlit_fedexp")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    flags = ["--config-dir", "fedlit_fedexp/conf", "algorithm=fedexp", "algorithm.epsilon=0.1"]
    settings = ["schedule.rounds=1", "schedule.local_steps=2", "executor=inline", "observers=none", "hydra.run.dir=run"]
    monkeypatch.setattr(sys, "argv", ["fedlit", *flags, *settings])
    train.main()
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["algorithm"] == {"_target_": "fedlit_fedexp.FedExP", "epsilon": 0.1}
    (record,) = (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()
    assert json.loads(record)["fedexp/step"] >= 1
    sys.modules.pop("fedlit_fedexp")


@pytest.fixture
def own_package(monkeypatch):
    """Make the package importable, and forget it afterwards."""
    monkeypatch.syspath_prepend(OWN)
    yield
    sys.modules.pop("fedlit_fedexp", None)


def test_a_run_from_elsewhere_may_not_call_the_own_algorithm(own_package):
    config = {"algorithm": {"_target_": "fedlit_fedexp.FedExP"}}
    assert [error.key for error in untrusted_targets(config)] == ["algorithm._target_"]
    assert untrusted_targets(config, allow=["fedlit_fedexp"]) == []


@pytest.fixture
def estimation():
    """The script with Ditto's point estimation."""
    spec = spec_from_file_location("point_estimation", EXAMPLES / "point_estimation.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("pull", [None, 0.0, 2.0])
def test_the_models_of_the_point_estimation_are_those_of_the_closed_form(estimation, pull):
    """A client's model is (its mean + pull * the mean of all) / (1 + pull), so the error follows from the data."""
    data = estimation.make_data(seed=3)
    means = data.train.x.reshape(estimation.CLIENTS, estimation.SAMPLES, -1).mean(1)
    own = 0.0 if pull is None else 1 / (1 + pull)
    models = own * means + (1 - own) * means.mean(0)
    truth = data.client_tests.samples.x
    assert estimation.measure(pull, seed=3) == pytest.approx(float(((models - truth) ** 2).mean()), rel=1e-4)


def test_the_best_pull_is_that_of_the_paper(estimation):
    """The authors' notebook: optimal_lambda = sigma^2 / (n tau^2), and sigma_w_square is the error there."""
    noise, tau, clients = estimation.NOISE, estimation.TAU, estimation.CLIENTS
    smallest = 1 / (1 / noise + (clients - 1) / (clients * tau**2 + noise))
    assert estimation.expected(estimation.BEST) == pytest.approx(smallest, rel=1e-12)
    for pull in (0.9 * estimation.BEST, 1.1 * estimation.BEST):
        assert estimation.expected(pull) > smallest
