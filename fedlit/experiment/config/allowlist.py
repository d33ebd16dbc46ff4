"""Whether what a configuration from elsewhere names may be imported and called.

A run's folder or a checkpoint may come from anybody, and `_target_` calls what it names. So such a configuration is made
only of known parts; the list is extended by whoever types the command, never by the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.utils import get_object

from fedlit.core.errors import ConfigError

ALLOWED = (
    "fedlit",
    "torch.nn",
    "torch.optim",
    "torchvision.transforms",
    "torchvision.models",
    "torchmetrics",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
)
ALLOW_VARIABLE = "FEDLIT_ALLOW"
"""Environment variable with more modules, separated by commas."""


def untrusted_targets(config: Mapping[str, Any], allow: Sequence[str] = ()) -> list[ConfigError]:
    """What a configuration names that is not on the list. Nothing outside the list is imported.

    Args:
        config: plain values.
        allow: modules that are trusted besides those of the list and of the environment variable FEDLIT_ALLOW.
    """
    trusted = (*ALLOWED, *allow, *filter(None, os.environ.get(ALLOW_VARIABLE, "").split(",")))
    remedy = f"if you trust it: --allow MODULE, or {ALLOW_VARIABLE}=MODULE"
    return [
        ConfigError(path, target, "is not on the list of what a configuration from elsewhere may name", remedy)
        for path, target in _targets(config)
        if not _trusted(target, trusted)
    ]


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every import path in the configuration: `_target_`, and the network that a Classifier imports."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            here = f"{path}.{key}" if path else str(key)
            if key in ("_target_", "network", "_args_", "_partial_"):  # arguments without names hide what they are
                yield here, value
            else:
                yield from _targets(value, here)
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _targets(value, f"{path}[{number}]")


def _trusted(target: Any, trusted: Sequence[str]) -> bool:
    """By its name, and by where what it names was defined: fedlit.cli.train.os.system is defined elsewhere."""
    if not isinstance(target, str) or not _below(target, trusted):
        return False
    try:
        found = get_object(target)
    except Exception:
        return True  # it cannot be called either; making it says what is wrong
    return callable(found) and _below(f"{getattr(found, '__module__', None)}.", trusted)


def _below(name: str, trusted: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in trusted)
