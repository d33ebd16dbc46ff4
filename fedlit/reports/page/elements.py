"""Elements of HTML, which escape every text."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlit.core.text.escape import printable

VOID = {"meta", "link", "input"}
"""Elements without content."""


@dataclass(frozen=True)
class Element:
    """An element of HTML.

    Args:
        name: name of the element.
        attributes: attributes; one with the value True has no value, one with None or False is left out.
        children: elements and texts.
        raw: content that is not escaped: our own style or script, or JSON of `script_json`.
    """

    name: str
    attributes: Mapping[str, Any]
    children: Sequence[Element | str] = ()
    raw: str = ""


def element(name: str, attributes: Mapping[str, Any] | None = None, *children: Element | str | None) -> Element:
    """Return an element; children that are None are left out."""
    return Element(name, attributes or {}, [child for child in children if child is not None])


def to_html(node: Element | str) -> str:
    """Return an element or a text as HTML."""
    if isinstance(node, str):
        return html.escape(printable(node, keep="\n"))
    values = {key: value for key, value in node.attributes.items() if value is not None and value is not False}
    attributes = "".join(
        f" {key}" if value is True else f' {key}="{html.escape(printable(value))}"' for key, value in values.items()
    )
    if node.name in VOID:
        return f"<{node.name}{attributes}>"
    return f"<{node.name}{attributes}>{node.raw}{''.join(map(to_html, node.children))}</{node.name}>"


def script_json(value: Any) -> str:
    """Return JSON that can stand within a script element.

    No text of the value can end the element or begin a comment.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
