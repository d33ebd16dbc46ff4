"""What several tests need is in `small`. It is imported when it is asked for: the process that only deals tests to others need
not wait for torch and Lightning, which take seconds."""

import gc
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import pytest

gc.disable()  # until the tests are imported: there is nothing to collect

SMALL = ("Quadratic", "composed", "federation", "holdings", "images", "pairs")


def __getattr__(name):
    if name in SMALL:
        return getattr(import_module("small"), name)
    raise AttributeError(f"module 'conftest' has no attribute {name!r}")


def pytest_collection_finish():
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def a_file_is_read_once():
    """Hydra reads some 25 files for each configuration that it composes, and hundreds are composed here: of one that has not
    changed it gets a copy of what it has read, in two thirds of the time."""
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource

    def once(read, stamp, had={}):  # noqa: B006
        def load(source, config_path):
            key = (source.path, source.provider, config_path, stamp(source, config_path))
            if key not in had:
                had[key] = read(source, config_path)
            return deepcopy(had[key])

        return load

    def changed(source, config_path):
        path = Path(source.path, source._normalize_file_name(config_path))
        return (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None

    with pytest.MonkeyPatch.context() as patched:
        for kind, stamp in ((FileConfigSource, changed), (ImportlibResourcesConfigSource, lambda *_: None)):
            patched.setattr(kind, "load_config", once(kind.load_config, stamp))
        yield


@pytest.fixture(autouse=True)
def one_thread():
    """Tests share two cores with others, and bits depend on the number of threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def what_is_there_stays():
    """What was imported is not looked through by the collector again and again, which takes a tenth of the time."""
    gc.freeze()
