"""Neither an import nor a run changes a user's own Trainers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SCRIPT = """
import importlib, logging, pkgutil, random, signal, warnings

import lightning.pytorch.trainer.connectors.callback_connector as callback_connector
import numpy as np
import torch

THIRD_PARTIES = (
    "lightning.pytorch.loggers", "torchmetrics", "hydra", "matplotlib.pyplot", "sklearn.model_selection", "scipy.stats",
    "torchvision.transforms", "PIL.Image", "safetensors.torch", "rich.progress", "torch.utils.tensorboard", "filelock",
    "ray",
)
for name in THIRD_PARTIES:  # some of them add filters for warnings
    importlib.import_module(name)


def state():
    return {
        "Lightning's search for callbacks": callback_connector._load_external_callbacks,
        "level of Lightning's logger": logging.getLogger("lightning.pytorch").level,
        "torch.cuda._cached_device_count": torch.cuda._cached_device_count,
        "random numbers of torch": torch.get_rng_state().tolist(),
        "random numbers of NumPy": repr(np.random.get_state(legacy=False)["state"]),
        "random numbers of Python": random.getstate(),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "default dtype of torch": torch.get_default_dtype(),
        "filters for warnings": list(warnings.filters),
        "signal handlers": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)],
    }


def check(step):
    for name, value in state().items():
        assert value == before[name], f"{step} changes: {name}"


before = state()
assert callback_connector._load_external_callbacks.__module__.startswith("lightning."), "not Lightning's own"
import fedlit

for module in pkgutil.walk_packages(fedlit.__path__, "fedlit."):
    importlib.import_module(module.name)
    check(f"import {module.name}")

from small import federation

check("import small")
records = list(federation(rounds=1, samples=40).run())
assert records[-1].metrics and not records[-1].failures, records
check("a round of a federation")
print("unchanged")
"""


@pytest.mark.slow
def test_importing_every_module_and_running_a_federation_changes_nothing_for_a_users_own_trainers(tmp_path):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "unchanged"
