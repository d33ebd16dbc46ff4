"""The check of the names that a configuration from elsewhere calls.

Anybody may have written a run's folder, and `_target_` calls whatever it names. Such a configuration may call exactly the names
of `public_names`. Only the user's command and environment extend the list, never the file.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from fedlit.core.errors import ConfigError
from fedlit.experiment.config.instantiate import import_object
from fedlit.experiment.config.trust.public_names import ARGUMENT_RULES, NETWORKS, PUBLIC_NAMES

ALLOW_VARIABLE = "FEDLIT_ALLOW"
"""Environment variable with further modules, separated by commas."""

PROBLEM = "is not on the list of names that a configuration from elsewhere may call"
HINT = f"if you trust it: --allow MODULE, or {ALLOW_VARIABLE}=MODULE"


def untrusted_targets(
    config: Mapping[str, Any], allow: Sequence[str] = (), names: Sequence[str] = ()
) -> list[ConfigError]:
    """Return an error for each forbidden name or argument of a configuration.

    The values must be those that are instantiated: resolved, and never resolved again. Nothing outside the allowed modules is
    imported.

    Args:
        config: plain values.
        allow: the user's own modules, besides those of the environment variable FEDLIT_ALLOW. No module of fedlit is among
            them: of fedlit, the names on the list alone may be called.
        names: names that the user gave in the command itself.
    """
    modules = [*allow, *filter(None, os.environ.get(ALLOW_VARIABLE, "").split(","))]
    modules = [module for module in modules if not _is_below(module, ["fedlit"])]
    return [*_node_errors(config, "", modules, names)]


def repeat_hint(error: ConfigError) -> str:
    """Return the advice about an untrusted name or argument on resume.

    A module that is allowed allows its names, and no argument that a rule forbids.
    """
    return "if you trust it: repeat it in the command" + (f", or set {ALLOW_VARIABLE}=MODULE" if error.hint else "")


def _node_errors(node: Any, path: str, modules: Sequence[str], names: Sequence[str]) -> Iterator[ConfigError]:
    """Yield the errors of a node and of all nodes below."""
    if isinstance(node, Mapping):
        rules = ARGUMENT_RULES.get(str(node.get("_target_")), {})
        for key, value in node.items():
            key_path = f"{path}.{key}" if path else str(key)
            yield from _node_errors(value, key_path, modules, names)
            if key == "_target_" and not (value in names or _may_call(value, PUBLIC_NAMES, modules)):
                yield ConfigError(key_path, value, PROBLEM, HINT)
            elif key == "network" and isinstance(value, str) and "." in value:  # a Classifier imports it
                if not (value in names or _may_call(value, NETWORKS, modules)):
                    yield ConfigError(key_path, value, PROBLEM, HINT)
            elif key == "_args_" and "_target_" in node:  # a rule finds an argument by its key
                yield ConfigError(key_path, value, "has positional arguments in a configuration from elsewhere")
            elif key in rules and not rules[key][0](value):
                yield ConfigError(key_path, value, f"{rules[key][1]} in a configuration from elsewhere")
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _node_errors(value, f"{path}[{number}]", modules, names)


def _may_call(name: Any, listed: Collection[str], modules: Sequence[str]) -> bool:
    """True if a name is listed, or public in an allowed module."""
    if not isinstance(name, str):
        return False
    if name in listed:
        return True
    if not _is_below(name, modules) or any(part.startswith("_") for part in name.split(".")):
        return False
    try:
        instance = import_object(name)
    except Exception:
        return True  # it cannot be called either; instantiation reports the error
    # my_module.os.system has an allowed path, but its object is defined elsewhere
    is_plain = inspect.isclass(instance) or inspect.isfunction(instance)
    return is_plain and _is_below(str(getattr(instance, "__module__", "")), modules)


def _is_below(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)
