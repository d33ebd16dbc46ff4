"""The wheel contains the configuration, and works from any folder."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from fedlit.cli import train
from fedlit.reports.page.page import SCRIPTS

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def call(*arguments, cwd, **environment):
    process = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the installed wheel, without its dependencies."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    call("-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--target", str(folder / "site")]
    call("-m", "pip", "install", *options, str(wheel), cwd=folder)
    return folder / "site"


def test_the_wheel_contains_the_configuration_and_the_data_files(site):
    ours = {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}
    assert ours == {
        str(path.relative_to(site / "fedlit" / "conf")) for path in (site / "fedlit" / "conf").rglob("*.yaml")
    }
    assert list(site.glob("fedlit-*.dist-info/licenses/LICENSE"))
    assert len(list((site / "fedlit" / "data" / "sources" / "files").rglob("*.data"))) == 4
    page = Path("fedlit") / "reports" / "page" / "files"
    names = sorted(path.name for path in (ROOT / page).iterdir())
    assert sorted(path.name for path in (site / page).iterdir()) == names
    assert {"page.css", *SCRIPTS} == {*names}


def test_training_from_another_folder_with_the_users_own_groups_and_locale_is_bit_identical(
    site, tmp_path, monkeypatch
):
    (tmp_path / "mine" / "schedule").mkdir(parents=True)
    (tmp_path / "mine" / "schedule" / "short.yaml").write_text(
        "defaults: [default, _self_]\nrounds: 2\nlocal_steps: 1\n"
    )
    arguments = ["--config-dir", "mine", "schedule=short", "data=heart_disease", "partition=natural", "model=logistic"]
    program = "import runpy, fedlit; print(fedlit.__file__); runpy.run_module('fedlit.train', run_name='__main__')"
    other = {"PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Kathmandu", "OMP_NUM_THREADS": "1"}
    no_figures = ["observers.tensorboard=null", "observers.partition=null"]  # they take time
    printed = call("-c", program, *arguments, *no_figures, cwd=tmp_path, PYTHONPATH=str(site), **other)
    assert Path(printed.splitlines()[0]).is_relative_to(site)
    assert "round 2/2" in printed
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["fedlit", *arguments, "observers=none", "hydra.run.dir=here"])
    train.main()
    (folder,) = (tmp_path / "outputs" / "runs").glob("*/*")
    expected, actual = (json.loads((path / "summary.json").read_text()) for path in (tmp_path / "here", folder))
    assert (actual["state_sha256"], actual["digest"]) == (expected["state_sha256"], expected["digest"])


def test_the_console_script_works_too(site, tmp_path):
    printed = call(
        str(site / "bin" / "fedlit"), "--cfg", "job", "experiment=tutorial", cwd=tmp_path, PYTHONPATH=str(site)
    )
    assert "client_fraction: 0.3" in printed


def test_the_source_distribution_has_the_documents(tmp_path):
    call("-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path), cwd=ROOT)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "tests/hostile_folders.py"} <= names
    assert "(SECURITY.md)" in (ROOT / "README.md").read_text()
