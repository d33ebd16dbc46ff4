"""The base class of observers, and the group of a run's observers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedlit.experiment.run import Run
from fedlit.runs.record import RoundRecord

log = logging.getLogger("fedlit")


class Observer:
    """An observer of a run. Each method does nothing here.

    A subclass overrides only the methods that it needs. An observer never changes the run. If an observer raises, the error is
    logged, the summary counts it, and the observer is no longer called.
    """

    @property
    def name(self) -> str:
        """Name in messages and in the summary: that of the class."""
        return type(self).__name__

    def start(self, run: Run) -> None:
        """Prepare for the run. Called once, before its first round.

        A resumed run has `Run.finished_rounds`, which `round` does not see again.
        """

    def round(self, record: RoundRecord) -> None:
        """Observe a round. Called after its checkpoint is written."""

    def end(self, summary: Mapping[str, Any]) -> None:
        """Observe the end of a finished run.

        Args:
            summary: content of summary.json.
        """

    def close(self) -> None:
        """Release resources. Called last, also after a signal or an error."""


class ObserverGroup:
    """The observers of a run.

    The error of an observer that raises is logged; the observer is no longer called, and the run continues. Leaving the group's
    context closes the observers.

    Args:
        observers: observers, in the order of their calls.

    Attributes:
        failed: error of each observer that raised, by its name.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = list(observers)
        self.failed: dict[str, str] = {}

    def notify(self, call: Callable[[Observer], None]) -> None:
        """Apply `call` to each observer that has not failed."""
        for observer in list(self._observers):
            try:
                call(observer)
            except Exception as error:
                name = observer.name
                self.failed[name] = f"{type(error).__name__}: {error}"
                log.warning("%s failed and is no longer called; the run continues: %s", name, self.failed[name])
                self._observers.remove(observer)

    def close(self) -> None:
        """Close each observer once."""
        self.notify(lambda observer: observer.close())
        self._observers.clear()

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.close()
