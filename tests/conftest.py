"""What several tests need is in `small`. It is imported when it is asked for: the process that only deals tests to others need
not wait for torch and Lightning, which take seconds."""

import gc
from importlib import import_module

import pytest

SMALL = ("Quadratic", "composed", "federation", "holdings", "images", "pairs")


def __getattr__(name):
    if name in SMALL:
        return getattr(import_module("small"), name)
    raise AttributeError(f"module 'conftest' has no attribute {name!r}")


@pytest.fixture(autouse=True)
def one_thread():
    """Tests share two cores with others, and bits depend on the number of threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def what_is_there_stays():
    """What was imported is not looked through by the collector again and again, which takes a tenth of the time."""
    gc.freeze()
