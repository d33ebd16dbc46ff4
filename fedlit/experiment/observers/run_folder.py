"""The run's folder: configuration, partition, weights, summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from fedlit.core.files import to_json, write_atomic
from fedlit.core.model import Model
from fedlit.experiment.config.components import constructor_arguments
from fedlit.experiment.observers.observer import Observer
from fedlit.experiment.run import Run
from fedlit.experiment.summary import RunTracker
from fedlit.experiment.weights import ckpt_bytes, safetensors_bytes
from fedlit.runs.layout import BEST_CKPT, CONFIG, LAST_CKPT, PARTITION, SUMMARY, WEIGHTS
from fedlit.runs.record import RoundRecord


class RunFolder(Observer):
    """Writes the files of the run's folder.

    These are config.yaml and partition.json at the start, and best.ckpt after each round with a better validation metric. At
    the end it writes model.ckpt, model.safetensors and summary.json. The checkpointer writes the rounds.
    """

    def start(self, run: Run) -> None:
        """Write the configuration and the partition."""
        self._run, self._tracker = run, RunTracker(run.federation.monitor)
        run.folder.mkdir(parents=True, exist_ok=True)
        config = {**run.config, "resume": None}
        write_atomic(run.folder / CONFIG, yaml.safe_dump(config, sort_keys=False).encode())
        write_atomic(run.folder / PARTITION, to_json(run.partition).encode())
        (run.folder / SUMMARY).unlink(missing_ok=True)  # a finished run that is resumed is unfinished again
        for record in run.finished_rounds:
            self.round(record)

    def round(self, record: RoundRecord) -> None:
        """Write best.ckpt if the round is the best."""
        previous_best = self._tracker.best
        self._tracker.add(record)
        is_best = self._tracker.best is not previous_best
        if self._tracker.monitor.name is not None and is_best and record.model is not None:
            self._save(BEST_CKPT, record.model)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Write the weights of the last round and the summary."""
        last = self._tracker.last
        if last is not None and last.model is not None:
            self._save(LAST_CKPT, last.model)
            if self._tracker.monitor.name is None:
                self._save(BEST_CKPT, last.model)
            weights, _ = safetensors_bytes(self._run.federation.worker.replica, last.model)
            write_atomic(self._run.folder / WEIGHTS, weights)
        write_atomic(self._run.folder / SUMMARY, (to_json(summary, indent=2) + "\n").encode())

    def _save(self, name: str, model: Model) -> None:
        worker, node = self._run.federation.worker, self._run.config.get("model") or {}
        arguments = constructor_arguments(worker.replica.module, node, self._run.data)
        write_atomic(self._run.folder / name, ckpt_bytes(worker.replica, worker.trainer_config, model, arguments))
