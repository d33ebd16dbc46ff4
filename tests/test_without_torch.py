"""The parts of a configuration that are checked before torch and Lightning are imported, which takes seconds."""

import os
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
