"""The steps of a command before its first result."""

from __future__ import annotations

import logging

from fedlit.core.text.escape import printable

steps = logging.getLogger("fedlit.steps")
"""Log of the steps. A command prints it; a program that imports fedlit does not see it."""
steps.propagate = False
steps.addHandler(logging.NullHandler())


class _Printer(logging.Handler):
    """Prints each record on the standard output at once."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        print(f"fedlit: {printable(record.getMessage())}", flush=True)


def show_steps(is_shown: bool = True) -> None:
    """Print the steps from now on, or print none of them."""
    steps.handlers = [_Printer() if is_shown else logging.NullHandler()]
    steps.setLevel(logging.INFO)
