"""Reports of a run: folder, log, observers, and the final summary."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from fedlit.core.files import write_atomic
from fedlit.core.text.numbers import format_number
from fedlit.experiment.digests import PairingDigests
from fedlit.experiment.observers import Observer, ObserverGroup, Run, RunFolder
from fedlit.experiment.summary import RunTracker, evaluation_metrics, protections
from fedlit.runs.layout import COMMAND
from fedlit.runs.metric_names import bare_name, split_of
from fedlit.runs.origin import is_own_run, remember_run
from fedlit.runs.record import RoundRecord

log = logging.getLogger("fedlit")


class RoundReporter:
    """Reports the rounds of a run to its folder, log and observers.

    Leaving the reporter's context closes the observers.

    Args:
        run: the run, with the rounds that are finished.
        observers: the configured observers.

    Attributes:
        tracker: the rounds so far.
    """

    def __init__(self, run: Run, observers: Sequence[Observer]) -> None:
        self._run, self._folder, self._observers = run, RunFolder(), ObserverGroup(observers)
        self.tracker = RunTracker(run.federation.monitor, protections(run.federation))
        self._digests = PairingDigests(run.federation)
        for record in run.finished_rounds:
            self._add(record)

    def open_folder(self, overrides: Sequence[str], flags: Sequence[str]) -> None:
        """Write the folder's first files, with the command's overrides and flags.

        A new run is remembered as this user's own. A resumed run is, if it was before.
        """
        folder = self._run.folder
        is_own = not self._run.config["resume"] or is_own_run(folder)
        self._folder.start(self._run)
        command = {"overrides": list(overrides), "flags": list(flags)}
        write_atomic(folder / COMMAND, (json.dumps(command) + "\n").encode())
        if is_own and not remember_run(folder):
            log.info(
                "the run is not remembered as your own: the state folder cannot be written, or others can write to it"
            )

    def start(self) -> None:
        """Start the observers."""
        self._observers.notify(lambda observer: observer.start(self._run))

    def report(self, record: RoundRecord) -> None:
        """Report a round."""
        self._add(record)
        log_round(record, self._run.federation.schedule.rounds)
        self._folder.round(record)
        self._observers.notify(lambda observer: observer.round(record))

    def finish(self, seconds: float) -> float | None:
        """Write the summary and return the monitored metric of the best round.

        Args:
            seconds: duration of this command, without the rounds that were finished before it.

        Returns:
            The metric; None without a validation split.
        """
        earlier = sum(record.metrics["time/round_s"] for record in self._run.finished_rounds)
        summary = self.tracker.summary(earlier + seconds, self._run.federation.seed)
        summary |= {"digest": self._digests.summary(), "observers_failed": self._observers.failed}
        self._observers.notify(lambda observer: observer.end(summary))
        self._observers.close()  # before the summary is written, which lists the observers that fail here
        self._folder.end(summary)  # last: a folder with a summary is of a finished run
        name, best = self.tracker.monitor.name, self.tracker.best
        return None if name is None or best is None else best.metrics.get(name)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._observers.close()

    def _add(self, record: RoundRecord) -> None:
        self.tracker.add(record)
        self._digests.add(record)


def log_round(record: RoundRecord, rounds: int) -> None:
    """Log a line for the round.

    A lost round and each failed client are logged as warnings.
    """
    evaluations = evaluation_metrics(record.metrics)
    figures = "  ".join(
        f"{name} {format_number(value)}"
        for name, value in record.metrics.items()
        if _is_train_loss(name) or name in evaluations
    )
    clients = f"{int(record.metrics['clients/trained'])} of {len(record.cohort)} clients"
    log.info("round %d/%d  %s  %s  %.1f s", record.number, rounds, clients, figures, record.metrics["time/round_s"])
    if record.lost:
        log.warning("round %d is lost: %s", record.number, record.lost)
    for failure in record.failures:
        if failure.outcome == "surplus":  # planned, by schedule.over_select
            continue
        log.warning(
            "round %d: client %d left out, %s: %s", record.number, failure.client, failure.outcome, failure.reason
        )


def _is_train_loss(name: str) -> bool:
    return split_of(name) == "train" and bare_name(name).startswith("loss")
