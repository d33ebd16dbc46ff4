"""Fixtures for all tests, and the names of `small`.

A name of `small` is imported at its first use: the process that only distributes tests need not import torch and Lightning.
"""

import gc
import sys
from contextlib import redirect_stderr, suppress
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import pytest

gc.disable()  # until the tests are imported: there is no garbage

with redirect_stderr(sys.__stderr__), suppress(ImportError):
    # A log handler that absl makes at import closes its stream when Hydra configures logging: it must not be pytest's.
    import absl.logging  # noqa: F401

SMALL = ("Quadratic", "composed", "federation", "holdings", "images", "pairs")


def __getattr__(name):
    if name in SMALL:
        return getattr(import_module("small"), name)
    raise AttributeError(f"module 'conftest' has no attribute {name!r}")


def pytest_collection_finish():
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def cache_config_files():
    """Read each file of a configuration once, and again after a change.

    Hydra reads about 25 files for each configuration, and the tests compose hundreds. The cache saves a third of the time.
    """
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource

    def cached(read, stamp):
        contents = {}

        def load(source, config_path):
            key = (source.path, source.provider, config_path, stamp(source, config_path))
            if key not in contents:
                contents[key] = read(source, config_path)
            return deepcopy(contents[key])

        return load

    def file_stamp(source, config_path):
        path = Path(source.path, source._normalize_file_name(config_path))
        return (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None

    with pytest.MonkeyPatch.context() as patched:
        for kind, stamp in ((FileConfigSource, file_stamp), (ImportlibResourcesConfigSource, lambda *_: None)):
            patched.setattr(kind, "load_config", cached(kind.load_config, stamp))
        yield


@pytest.fixture(autouse=True, scope="session")
def state_home(tmp_path_factory):
    """A state folder of the tests, in which runs are remembered."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def one_thread():
    """Use one torch thread: results depend on the number of threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def freeze_imported_objects():
    """Exclude imported objects from garbage collection, to save time."""
    gc.freeze()
