"""The parts of a configuration that are checked before torch and Lightning are imported, which takes seconds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SCRIPT = """
import re, sys
from pathlib import Path

from hydra.utils import get_object

for group in ("algorithm", "partition", "sampler", "executor", "faults"):
    for file in sorted(Path("conf", group).glob("*.yaml")):
        for target in re.findall(r"_target_: (fedlit[\\w.]+)", file.read_text()):
            get_object(target)
            assert not {"torch", "lightning"} & sys.modules.keys(), f"{target} in {file}"
for name in ("Schedule", "Loading", "Monitor", "Evaluations", "Retention"):
    get_object(f"fedlit.{name}")
    assert not {"torch", "lightning"} & sys.modules.keys(), name
print("imported")
"""


@pytest.mark.slow
def test_the_classes_of_plain_settings_are_imported_without_torch():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "imported\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["seeed=1", "partition.alpha=0", "algorithm.weights=x"], ["did you mean seed?", "greater than 0", "uniform"]),
        (["schedule.rounds=abc", "trainer.gradient_clip_val=-1"], ["must be a whole number", "null clips nothing"]),
        (
            ["model=custom", "model._target_=nowhere.Net", "faults.retries=0", "executor.workers=0"],
            ["faults", "workers"],
        ),
        (["trainer.devices=2"], ["one device"]),
        (["-m", "seed=1,2", "schedule.rounds=2,abc"], ["must be a whole number"]),
        (["seed=${sead}"], ["seed=${sead}", "did you mean seed?"]),
        (["resume=nowhere"], ["has no command.json"]),
    ],
)
def test_wrong_names_and_values_are_refused_before_torch_is_imported(arguments, expected, tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fedlit.train", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 2, done.stderr
    errors = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    assert all(part in errors for part in expected), errors
    imported = set(re.findall(r"^import time:.*\| +(\w+)$", done.stderr, re.MULTILINE))
    assert "omegaconf" in imported
    assert not imported & {"torch", "lightning", "torchmetrics", "torchvision"}
    assert not list(tmp_path.rglob("config.yaml"))
