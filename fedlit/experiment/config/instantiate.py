"""Makes what a configuration's nodes name, with their values checked against its signature."""

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
    """What the node's `_target_` makes of its other values, whose types are checked against its signature.

    Raises:
        Mistake: if there is no such target, an argument is unknown, missing or of the wrong type, or the target raises one.
        Mistakes: if there are several of them.
    """
    check_types(import_target(node), {key: value for key, value in node.items() if not key.startswith("_")})
    try:
        return instantiate({**node, "_convert_": "all"}, **more)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ConfigError | ConfigErrors):
            raise cause from error
        why = str(cause or error) or type(cause).__name__  # a bare assert says nothing
        raise ConfigError("", node["_target_"], f"cannot be made: {why.splitlines()[0]}") from error


def import_target(node: Any) -> Callable[..., Any]:
    """What the node's `_target_` names. Raises Mistake if there is no such target."""
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise ConfigError("", node, "must be keys with values, _target_ among them")
    try:
        return get_object(node["_target_"])
    except Exception as error:  # whatever importing foreign code may raise
        raise ConfigError(
            "_target_",
            node["_target_"],
            f"cannot be imported: {error}".splitlines()[0],
            "it must be the import path of a class or function",
        ) from error


def has_argument(target: Callable[..., Any], name: str) -> bool:
    """Whether the target's signature has an argument of this name."""
    try:
        return name in inspect.signature(target).parameters
    except (TypeError, ValueError):  # some built-in types have none
        return False


def call_checked(target: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """target(**values) with checked types. Where some are wrong, the target, whose arguments all have defaults, judges the
    others too. Raises Mistake or Mistakes as `create` does."""
    odd = signature_errors(target, values)
    sound = {key: value for key, value in values.items() if key not in [mistake.key for mistake in odd]}
    try:
        made = target(**sound)
    except (ConfigError, ConfigErrors) as wrong:
        if not odd:
            raise
        odd += [mistake for mistake in wrong.errors if mistake.key in sound]
        made = None
    raise_errors(*odd)
    return made


def check_types(target: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Raises Mistake, or Mistakes, if values have names or types that the target's signature does not have."""
    raise_errors(*signature_errors(target, values))


def signature_errors(target: Callable[..., Any], values: Mapping[str, Any]) -> list[ConfigError]:
    """Values whose names or types the target's signature does not have.

    Only what plain configuration values can be is judged: numbers, truth values, strings, literals and sequences of them.
    """
    if not isinstance(values, Mapping):
        raise ConfigError("", values, "must be keys with values")
    try:
        signature = inspect.signature(target)
    except ValueError:  # some built-in types have none
        return []
    try:
        hints = get_type_hints(target.__init__ if inspect.isclass(target) and not is_dataclass(target) else target)
    except NameError:  # annotations that only a type checker can see
        hints = {}
    odd = (_odd(target, signature, hints, key, value) for key, value in values.items())
    return [mistake for mistake in odd if mistake is not None]


def _odd(
    target: Callable[..., Any], signature: inspect.Signature, hints: Mapping[str, Any], key: str, value: Any
) -> ConfigError | None:
    """What is wrong with an argument's name or type."""
    if key in signature.parameters:
        right = key not in hints or matches_type(value, hints[key])
        return None if right else ConfigError(key, value, f"must be {type_name(hints[key])}")
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return None
    return ConfigError(
        key, value, f"is not an argument of {target.__name__}", f"it takes {', '.join(signature.parameters)}"
    )


def matches_type(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type; types that are not plain are not judged."""
    if get_origin(hint) in (Union, UnionType):
        return any(matches_type(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) or value in get_args(
            hint
        )  # the constructor names what is allowed, with the nearest
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
    """A type in words."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(type_name(option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Sequence, list, tuple):
        return "a list"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a word", NoneType: "null"}.get(
        hint, str(hint)
    )
