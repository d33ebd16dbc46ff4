"""The import of Opacus: an optional library that leaves the logging of a program as it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent.parent

SCRIPT = """
import logging, sys
from fedlit.core.errors import ConfigError

sys.modules["opacus"] = None
try:
    import fedlit.client.dp_sgd.independence
except ConfigError as error:
    print(error)
del sys.modules["opacus"]
import fedlit.client.dp_sgd.independence
print(logging.getLogger().handlers, logging.getLogger().level == logging.WARNING)
"""


@pytest.mark.slow
def test_its_absence_names_the_extra_and_its_import_adds_no_handler():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    missing, imported = done.stdout.splitlines()
    assert missing == "privacy=example: needs Opacus; pip install 'fedlit[dp]'"
    assert imported == "[] True"
