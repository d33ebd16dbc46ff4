"""Observers of a federation in a script, without a configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedlit.core.errors import ConfigError, raise_errors
from fedlit.experiment.observers.observer import Observer, ObserverGroup
from fedlit.experiment.run import Run, read_finished_rounds
from fedlit.experiment.summary import RunTracker, protections
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Checkpoint
from fedlit.server.checks.fingerprint import fingerprint
from fedlit.server.rounds import run_rounds

if TYPE_CHECKING:
    from fedlit.server.setup import Federation


@dataclass(frozen=True)
class Observers:
    """The observers of a federation in a script.

    Give them as `Federation.of(..., observers=Observers([...]))`.

    Args:
        observers: the observers, in the order of their calls.
        folder: folder for their files.
    """

    observers: Sequence[Observer]
    folder: Path | str = "."

    def __post_init__(self) -> None:
        hint, problem = "give a list of instances of fedlit.Observer", "is not a fedlit.Observer"
        if isinstance(self.observers, Observer):
            raise ConfigError(
                "observers", type(self.observers).__name__, "is an observer, not a list of observers", hint
            )
        names = (type(one).__name__ for one in self.observers if not isinstance(one, Observer))
        raise_errors(*(ConfigError("observers", name, problem, hint) for name in names))

    def watch(self, federation: Federation, start: Checkpoint | None = None) -> Iterator[RoundRecord]:
        """Yield the record of each round, after the observers have seen it.

        Args:
            federation: the federation, with its data.
            start: checkpoint to resume from; None for the newest of the checkpointer, or the beginning.
        """
        began, group = time.time(), ObserverGroup(self.observers)
        tracker = RunTracker(federation.monitor, protections(federation))
        with group, federation.checkpointer.open(fingerprint(federation)):
            checkpoint = start or federation.checkpointer.load()
            run = _make_run(federation, Path(self.folder), read_finished_rounds(federation, checkpoint))
            run.folder.mkdir(parents=True, exist_ok=True)
            for record in run.finished_rounds:
                tracker.add(record)
            group.notify(lambda observer: observer.start(run))
            for record in run_rounds(federation, checkpoint):
                tracker.add(record)
                group.notify(lambda observer, record=record: observer.round(record))
                yield record
            if tracker.last is not None:
                summary = {**tracker.summary(time.time() - began, federation.seed), "observers_failed": group.failed}
                group.notify(lambda observer: observer.end(summary))


def _make_run(federation: Federation, folder: Path, finished: tuple[RoundRecord, ...]) -> Run:
    """Return the run that the observers see.

    Its configuration is the fingerprint of the federation.
    """
    assert federation.data is not None
    parts = {"model": federation.worker.replica.module, "algorithm": federation.algorithm}
    names = {key: type(part).__name__ for key, part in parts.items()}
    return Run(folder, fingerprint(federation), federation, federation.data, names, finished_rounds=finished)
