"""Pauses of Python's garbage collector, which looks for reference cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Switch the garbage collector off in the block.

    Meant for imports: torch and Lightning create half a million objects and almost no cycles. Searching them for cycles took
    an eighth of the import time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def gc_frozen() -> Iterator[None]:
    """Let the garbage collector ignore the objects that exist before the block.

    A local fit leaves cycles. Python collects them when the new objects are a quarter of the old ones. With half a million old
    objects that is late: megabytes of cycles.
    """
    gc.freeze()
    gc.collect()  # almost nothing is left to collect, and the quarter counts from what is left
    try:
        yield
    finally:
        gc.unfreeze()
