"""The console of all commands: values are printed as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from fedlit.core.text.escape import printable


class PlainConsole(Console):
    """A Rich console without markup in texts, and with control characters escaped.

    Styles come from code alone: a folder may be called `[red]x`.

    Args:
        **options: arguments of rich.console.Console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of an object, escaped."""
        for segment in super().render(renderable, options):
            is_plain = bool(segment.control) or segment.text.isprintable()
            yield segment if is_plain else Segment(printable(segment.text, keep="\n"), segment.style)
