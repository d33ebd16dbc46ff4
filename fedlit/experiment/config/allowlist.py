"""The list of modules that a configuration from elsewhere may import.

Anybody may have written a run's folder or a checkpoint, and `_target_` calls whatever it names. Such a configuration may name
only modules on the list. Only the user's command and environment extend the list, never the file.
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
"""Environment variable with further modules, separated by commas."""


def untrusted_targets(config: Mapping[str, Any], allow: Sequence[str] = ()) -> list[ConfigError]:
    """Return an error for each forbidden import path in a configuration.

    Nothing outside the allowed modules is imported.

    Args:
        config: plain values.
        allow: modules allowed besides the list and the environment variable FEDLIT_ALLOW.
    """
    allowed = (*ALLOWED, *allow, *filter(None, os.environ.get(ALLOW_VARIABLE, "").split(",")))
    problem = "is not on the list of modules that a configuration from elsewhere may import"
    hint = f"if you trust it: --allow MODULE, or {ALLOW_VARIABLE}=MODULE"
    return [
        ConfigError(path, target, problem, hint)
        for path, target in _targets(config)
        if not _is_allowed(target, allowed)
    ]


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the key and the value of each import path."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            key_path = f"{path}.{key}" if path else str(key)
            # positional arguments are refused too: a network among them has no key
            if key in ("_target_", "network", "_args_", "_partial_"):
                yield key_path, value
            else:
                yield from _targets(value, key_path)
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _targets(value, f"{path}[{number}]")


def _is_allowed(target: Any, allowed: Sequence[str]) -> bool:
    """True if an import path and its object's own module are allowed.

    fedlit.cli.train.os.system has an allowed path, but its object is defined elsewhere.
    """
    if not isinstance(target, str) or not _is_below(target, allowed):
        return False
    try:
        instance = get_object(target)
    except Exception:
        return True  # it cannot be called either; instantiation reports the error
    return callable(instance) and _is_below(f"{getattr(instance, '__module__', None)}.", allowed)


def _is_below(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)
