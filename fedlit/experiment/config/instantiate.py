"""Objects from configuration nodes, with values checked against the target's signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from fedlit.core.errors import ConfigError, ConfigErrors, raise_errors


def instantiate_checked(node: Mapping[str, Any], **more: Any) -> Any:
    """Return the object that a node's `_target_` makes of its values.

    The types of the values are checked against the target's signature.

    Args:
        node: mapping with the key `_target_`.
        **more: further arguments of the target, not checked.

    Raises:
        ConfigError: if the target does not exist, an argument is unknown, missing or of a wrong type, or the target raises one.
        ConfigErrors: if there are several errors.
    """
    check_types(import_target(node), {key: value for key, value in node.items() if not key.startswith("_")})
    try:
        return instantiate({**node, "_convert_": "all"}, **more)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ConfigError | ConfigErrors):
            raise cause from error
        reason = str(cause or error) or type(cause).__name__  # an assert may have no message
        raise ConfigError("", node["_target_"], f"cannot be created: {reason.splitlines()[0]}") from error


def import_target(node: Any) -> Callable[..., Any]:
    """Return the class or function that the node's `_target_` names.

    Raises:
        ConfigError: if the node has no `_target_`, or it cannot be imported.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise ConfigError("", node, "must be a mapping with the key _target_")
    try:
        return get_object(node["_target_"])
    except Exception as error:  # importing user code may raise anything
        hint = "it must be the import path of a class or function"
        raise ConfigError("_target_", node["_target_"], import_problem(error), hint) from error


def import_problem(error: Exception) -> str:
    """Return an import path's problem, from the error of Hydra's `get_object`."""
    first, *rest = str(error).splitlines() or [type(error).__name__]
    return f"cannot be imported: {rest[0] if rest else first}"  # the first of several lines only repeats the path


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
