"""Private APIs of Hydra, each behind one small function.

No other module imports a private module of Hydra or OmegaConf. The code was checked with hydra-core 1.3.8 and omegaconf 2.3;
`tests/cli/test_hydra_internals.py` has a test for each function.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig

from fedlit.core.errors import ConfigError, ConfigErrors

MAIN_SOURCE = 1
"""Position after Hydra's own source of configurations, where Hydra puts the folder of `--config-dir`."""


def parse_arguments(arguments: Sequence[str]) -> Namespace:
    """Parse a command line as `hydra.main` does.

    Private in hydra-core 1.3.8 (omegaconf 2.3): `hydra._internal.utils.get_args_parser`.

    Raises:
        ConfigErrors: if an option does not exist.
    """
    with lazy_help_texts():
        parsed, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    options = [text for text in unknown if text.startswith("-")]
    if options:
        raise ConfigErrors([ConfigError(text, "", "is not an option", _option_hint(text)) for text in options])
    return parsed


@contextmanager
def lazy_help_texts() -> Iterator[None]:
    """Let argument parsers have help texts that are not strings.

    Python 3.14 checks a help text when its argument is added, and the one of `--shell-completion` is made when it is printed.

    Private in hydra-core 1.3.8 (omegaconf 2.3): the `LazyCompletionHelp` of `get_args_parser`.
    """
    name = "_check_help"
    had_own, check = name in vars(ArgumentParser), getattr(ArgumentParser, name, None)
    if check is None:  # before Python 3.14
        yield
        return
    setattr(ArgumentParser, name, lambda *_: None)
    try:
        yield
    finally:
        setattr(ArgumentParser, name, check) if had_own else delattr(ArgumentParser, name)


def _option_hint(option: str) -> str:
    key, equals, value = option.removeprefix("--").partition("=")
    is_short = key.startswith("-")
    return "--help lists the keys" if is_short else f"write {key}={value if equals else 'VALUE'}, without --"


def active_config_loader() -> ConfigLoader:
    """The loader of the current `initialize_config_dir` block.

    Private in hydra-core 1.3.8 (omegaconf 2.3): the loader is a `ConfigLoaderImpl`, and the functions below need one.
    """
    return _implementation(GlobalHydra.instance().config_loader())


def add_config_dir(loader: ConfigLoader, folder: str) -> None:
    """Add the user's folder of groups to a loader, as `--config-dir` does.

    Private in hydra-core 1.3.8 (omegaconf 2.3): `ConfigLoaderImpl.repository`, whose list of sources is changed, and
    `FileConfigSource`.
    """
    source = FileConfigSource("--config-dir", f"file://{Path(folder).absolute()}")
    _implementation(loader).repository.get_sources().insert(MAIN_SOURCE, source)


def list_subgroups(loader: ConfigLoader, parent: str) -> list[str]:
    """Names of the groups directly below a group ("": at the top).

    Private in hydra-core 1.3.8 (omegaconf 2.3): `ConfigLoaderImpl.repository`. The public `list_groups` copies the repository.
    """
    return _implementation(loader).repository.get_group_options(parent, ObjectType.GROUP)


def list_options(loader: ConfigLoader, group: str) -> list[str]:
    """The choices of a group; empty for an unknown group.

    Private in hydra-core 1.3.8 (omegaconf 2.3): `ConfigLoaderImpl.repository`. The public method copies the repository.
    """
    return _implementation(loader).repository.get_group_options(group, ObjectType.CONFIG)


def load_option(loader: ConfigLoader, group: str, option: str) -> DictConfig | None:
    """One choice's file without its defaults; None for an unknown choice.

    Private in hydra-core 1.3.8 (omegaconf 2.3): `ConfigLoaderImpl.repository`.
    """
    result = _implementation(loader).repository.load_config(f"{group}/{option}")
    return result.config if result is not None and isinstance(result.config, DictConfig) else None


def _implementation(loader: ConfigLoader | None) -> ConfigLoaderImpl:
    assert isinstance(loader, ConfigLoaderImpl)
    return loader
