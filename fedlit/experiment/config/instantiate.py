"""Objects from configuration nodes, with values checked against the target's signature."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from importlib import import_module
from inspect import ismodule
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from fedlit.core.errors import (
    ConfigError,
    ConfigErrors,
    describe_exception,
    did_you_mean,
    raise_errors,
    user_line,
)

SWITCHES = ("_target_", "_partial_", "_recursive_", "_convert_")
"""Keys of a node that are not arguments. Values are plain, so nothing is to be converted."""
TARGET_HINT = "it must be the import path of a class or function: my_file.MyClass for my_file.py in the current folder"


def instantiate_checked(node: Mapping[str, Any], **more: Any) -> Any:
    """Return the object that a node's `_target_` makes of its values.

    The values are final: an interpolation in them is an ordinary text. Their types are checked against the target's signature.

    Args:
        node: mapping with the key `_target_`.
        **more: further arguments of the target, not checked.

    Raises:
        ConfigError: if the target does not exist, an argument is unknown, missing or of a wrong type, or the target raises one.
        ConfigErrors: if there are several errors.
    """
    check_types(import_target(node), {key: value for key, value in node.items() if not key.startswith("_")})
    try:
        return _instantiate({**node, **more})
    except (ConfigError, ConfigErrors):
        raise
    except Exception as error:  # of the target, of a nested one, or of Hydra
        cause = (error.__cause__ if isinstance(error, InstantiationException) else None) or error
        raise ConfigError("", node["_target_"], f"cannot be created: {describe_exception(cause)}") from error


def _instantiate(node: Any) -> Any:
    """The object of a node, of the nodes in its values first.

    Hydra finds and calls each target, but gets no values: it would resolve each of them twice, and an escaped interpolation
    would become a value of its own.
    """
    if isinstance(node, list | tuple):
        return [_instantiate(part) for part in node]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {key: _instantiate(value) for key, value in node.items()}
    is_partial, is_recursive = (_switch(node, *switch) for switch in (("_partial_", False), ("_recursive_", True)))
    parts = {key: _instantiate(value) if is_recursive else value for key, value in node.items() if key not in SWITCHES}
    arguments = parts.pop("_args_", ())
    target = instantiate({"_target_": node["_target_"], "_partial_": True})
    return partial(target, *arguments, **parts) if is_partial else target(*arguments, **parts)


def _switch(node: Mapping[str, Any], key: str, default: bool) -> bool:
    """The value of one of Hydra's switches in a node.

    Raises:
        ConfigError: if it is neither true nor false.
    """
    if isinstance(value := node.get(key, default), bool):
        return value
    raise ConfigError(key, value, "must be true or false")


def import_target(node: Any, key: str = "_target_") -> Callable[..., Any]:
    """Return the class or function of a node's import path.

    Args:
        node: mapping with the path.
        key: key of the path.

    Raises:
        ConfigError: if the node has no such key, the path cannot be imported, or it names neither a class nor a function.
    """
    if not isinstance(node, Mapping) or not isinstance(path := node.get(key), str):
        raise ConfigError("", node, f"must be a mapping with the key {key}")
    try:
        target = import_object(path)
    except Exception as error:  # importing user code may raise anything
        raise import_error(key, path, error) from error
    if callable(target):
        return target
    classes = [name for name, value in vars(target).items() if is_own_class(value, path)] if ismodule(target) else []
    hint = f"name a class in it, such as {path}.{classes[0]}" if classes else TARGET_HINT
    raise ConfigError(key, path, f"is a {type(target).__name__}, not a class or function", hint)


def import_object(path: str) -> Any:
    """Return the object of an import path.

    It is Hydra's rule, without its log: an attribute hides a submodule of the same name.
    """
    first, *names = path.split(".")
    value: Any = import_module(first)
    for number, name in enumerate(names, 1):
        try:
            value = getattr(value, name)
        except AttributeError:
            if not ismodule(value):
                raise
            value = import_module(".".join([first, *names[:number]]))
    return value


def is_own_class(value: Any, module: str) -> bool:
    """Return True if the value is a class that the module defines."""
    return inspect.isclass(value) and value.__module__ == module


def import_error(key: str, path: str, error: BaseException) -> ConfigError:
    """Return the error of an import path that cannot be imported.

    Args:
        key: key of the path.
        path: the import path.
        error: the exception of the import.
    """
    problem = f"cannot be imported: {describe_exception(error)}"
    if isinstance(error, ModuleNotFoundError) and error.name and f"{path}.".startswith(f"{error.name}."):
        parent, _, name = error.name.rpartition(".")
        if (module := sys.modules.get(parent)) is None:
            return ConfigError(key, path, problem, TARGET_HINT)
        hint = did_you_mean(name, [other for other in vars(module) if not other.startswith("_")]) or TARGET_HINT
        return ConfigError(key, path, f"cannot be imported: the module {parent} has no {name}", hint)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return ConfigError(key, path, problem, f"install {error.name}, or correct the import")
    return ConfigError(key, path, problem, "traceback=true shows where" if user_line(error) else TARGET_HINT)


def has_argument(target: Callable[..., Any], name: str) -> bool:
    """Return True if the target's signature has an argument of this name."""
    try:
        return name in inspect.signature(target).parameters
    except (TypeError, ValueError):  # some built-in types have no signature
        return False


def call_checked(target: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Return `target(**values)` after a check of names and types.

    If some values have a wrong type, the target checks the others too. All its arguments must have defaults.

    Raises:
        ConfigError: if a value is wrong.
        ConfigErrors: if several values are wrong.
    """
    errors = signature_errors(target, values)
    wrong_keys = {error.key for error in errors}
    rest = {key: value for key, value in values.items() if key not in wrong_keys}
    result = None
    try:
        result = target(**rest)
    except (ConfigError, ConfigErrors) as raised:
        if not errors:
            raise
        errors += [error for error in raised.errors if error.key in rest]
    raise_errors(*errors)
    return result


def check_types(target: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Raise ConfigError or ConfigErrors if values do not match the target's signature."""
    raise_errors(*signature_errors(target, values))


def signature_errors(target: Callable[..., Any], values: Mapping[str, Any]) -> list[ConfigError]:
    """Return an error for each value that the target's signature refuses.

    Only plain values are checked: numbers, booleans, strings, literals and sequences.
    """
    if not isinstance(values, Mapping):
        raise ConfigError("", values, "must be a mapping of keys to values")
    try:
        signature = inspect.signature(target)
    except ValueError:  # some built-in types have no signature
        return []
    try:
        hints = get_type_hints(target.__init__ if inspect.isclass(target) and not is_dataclass(target) else target)
    except NameError:  # the annotation is imported for type checkers only
        hints = {}
    errors = (_argument_error(target, signature, hints, key, value) for key, value in values.items())
    return [error for error in errors if error is not None]


def _argument_error(
    target: Callable[..., Any], signature: inspect.Signature, hints: Mapping[str, Any], key: str, value: Any
) -> ConfigError | None:
    """Return the error in an argument's name or type, if any."""
    if key in signature.parameters:
        is_right = key not in hints or matches_type(value, hints[key])
        return None if is_right else ConfigError(key, value, f"must be {type_name(hints[key])}")
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return None
    return ConfigError(
        key, value, f"is not an argument of {target.__name__}", f"it takes {', '.join(signature.parameters)}"
    )


def matches_type(value: Any, hint: Any) -> bool:
    """Return True if a plain value is of a type.

    Other types than plain ones are not checked: then the result is True.
    """
    if get_origin(hint) in (Union, UnionType):
        return any(matches_type(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:  # the constructor refuses other strings, and names the nearest one
        return isinstance(value, str) or value in get_args(hint)
    if get_origin(hint) in (Sequence, list, tuple):
        return isinstance(value, list | tuple)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, NoneType):
        return isinstance(value, hint)
    return True


def type_name(hint: Any) -> str:
    """Return a type in words, such as `a whole number or null`."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(type_name(option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Sequence, list, tuple):
        return "a list"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a string", NoneType: "null"}.get(
        hint, str(hint)
    )
