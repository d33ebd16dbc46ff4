"""The observer that feeds a logger of Lightning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from fedlit.experiment.observers.loggers.choices import LoggerChoice
from fedlit.experiment.observers.observer import Observer
from fedlit.experiment.observers.tensorboard.hparams import hparam_values
from fedlit.experiment.run import Run
from fedlit.experiment.summary import evaluation_metrics
from fedlit.runs.record import RoundRecord, failure_counts


class LoggerObserver(Observer):
    """Feeds a logger of Lightning from the records of the rounds.

    Steps are numbers of rounds. A resumed run logs its finished rounds again: a service such as MLflow has a new run then.

    Args:
        choice: makes the logger.
        key: key of the logger in the configuration, such as `loggers.csv`.
    """

    def __init__(self, choice: LoggerChoice, key: str) -> None:
        self._choice, self._key = choice, key
        self._logger, self._status = None, "aborted"

    @property
    def name(self) -> str:
        """Key of the logger in the configuration."""
        return self._key

    def start(self, run: Run) -> None:
        """Make the logger; log the configuration and the finished rounds."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the logger's own library, not of the run
            self._logger = self._choice.make(run.folder)
            self._logger.log_hyperparams(hparam_values(run.config))
        for record in run.finished_rounds:
            self.round(record)

    def round(self, record: RoundRecord) -> None:
        """Log the round's metrics and its number of failures by outcome."""
        self._log({**record.metrics, **failure_counts(record.failures)}, record.number)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Log the evaluation of the best round."""
        best = evaluation_metrics(summary["best"]["metrics"])
        self._log(
            {"best/round": summary["best"]["round"], **{f"best/{name}": x for name, x in best.items()}},
            summary["rounds"],
        )
        self._status = "success"

    def close(self) -> None:
        """Finish the logger."""
        if self._logger is not None:
            self._logger.finalize(self._status)
            self._choice.finish(self._logger)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        assert self._logger is not None
        self._logger.log_metrics(dict(values), step=step)
        self._logger.save()
