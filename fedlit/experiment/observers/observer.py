"""All who watch a run, and cannot disturb it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from fedlit.runs.record import RoundRecord

log = logging.getLogger("fedlit")


class ObserverGroup:
    """Observers who are told of a run and cannot disturb it: one that raises is warned of and told no more.

    Args:
        observers: in the order in which they are told.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = list(observers)
        self.failed: dict[str, str] = {}

    def notify(self, what: Callable[[Observer], None]) -> None:
        """Tells each of those that are left."""
        for observer in list(self._observers):
            try:
                what(observer)
            except Exception as error:
                name = type(observer).__name__
                self.failed[name] = f"{type(error).__name__}: {error}"
                log.warning("%s failed and is told no more; the run goes on: %s", name, self.failed[name])
                self._observers.remove(observer)

    def close(self) -> None:
        """Tells those that are left that it is over, once."""
        self.notify(lambda observer: observer.close())
        self._observers.clear()

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.close()


class Observer(Protocol):
    """Sees every round; never changes the run. One that raises is told no more."""

    def start(self, run: Any) -> None: ...

    def round(self, record: RoundRecord) -> None: ...

    def end(self, summary: Mapping[str, Any]) -> None:
        """The run has come to its end."""
        ...

    def close(self) -> None:
        """Always told last, also of a run that was stopped."""
        ...
