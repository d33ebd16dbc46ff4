"""Interpolations in values: their refusal, and their escape.

A resolver such as `${oc.env:NAME}` or `${oc.create:...}` computes a value while a configuration is resolved, and an escaped one
does so when the result is resolved a second time. The `config.yaml` of a run has resolved values, and needs none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fedlit.core.errors import ConfigError

REFERENCE = re.compile(r"\$\{\.*\w+(\.\w+|\[\w+\])*\}")
"""A plain reference to another key."""


def interpolation_errors(config: Any, allow_references: bool = False) -> list[ConfigError]:
    """Return an error for each interpolation in keys and values.

    Args:
        config: plain values, not resolved.
        allow_references: True allows plain references to other keys, without a resolver.
    """
    problem = "has an interpolation, which a configuration from elsewhere may not have"
    return [
        ConfigError(key, text, problem, "if you trust it: give the value in the command")
        for key, text in _texts(config, "")
        if "${" in (REFERENCE.sub("", text) if allow_references else text)
    ]


def literal(value: Any) -> Any:
    """The plain values, each text escaped so that it resolves to itself."""
    if isinstance(value, Mapping):
        return {key: literal(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [literal(part) for part in value]
    # backslashes directly before ${ are escapes themselves
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _texts(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield each text with its dotted key, keys included."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            key_path = f"{path}.{key}" if path else str(key)
            yield from [(path, key)] if isinstance(key, str) else []
            yield from _texts(value, key_path)
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _texts(value, f"{path}[{number}]")
    elif isinstance(node, str):
        yield path, node
