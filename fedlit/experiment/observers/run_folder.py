"""The run's folder: configuration, partition, a line for each round, weights, summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from fedlit.core.files import LocalFilesystem, to_json, write_atomic
from fedlit.core.messages import Model
from fedlit.experiment.run import Run
from fedlit.experiment.summary import RunTracker
from fedlit.experiment.weights import safetensors_bytes, save_ckpt
from fedlit.runs.record import RoundRecord


class RunFolder:
    """Writes config.yaml and partition.json at the start, best.ckpt when the validation metric is better than before, and
    model.ckpt, model.safetensors and summary.json at the end. The rounds themselves are committed by `checkpoint`."""

    def start(self, run: Run) -> None:
        self._run, self._standing = run, RunTracker(run.federation.monitor)
        run.folder.mkdir(parents=True, exist_ok=True)
        config = {**run.config, "resume": None}
        write_atomic(run.folder / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())
        write_atomic(run.folder / "partition.json", to_json(run.partition).encode())
        (run.folder / "summary.json").unlink(missing_ok=True)  # of a finished run that goes further
        for record in run.finished_rounds:
            self.round(record)

    def round(self, record: RoundRecord) -> None:
        before = self._standing.best
        self._standing.add(record)
        if self._standing.monitor.name is not None and self._standing.best is not before and record.model is not None:
            self._checkpoint("best.ckpt", record.model)

    def end(self, summary: Mapping[str, Any]) -> None:
        last = self._standing.last
        if last is not None and last.model is not None:
            self._checkpoint("model.ckpt", last.model)
            if self._standing.monitor.name is None:
                self._checkpoint("best.ckpt", last.model)
            weights = safetensors_bytes(self._run.federation.worker.replica, last.model)
            write_atomic(self._run.folder / "model.safetensors", weights)
        write_atomic(self._run.folder / "summary.json", (to_json(summary, indent=2) + "\n").encode())

    def close(self) -> None: ...

    def _checkpoint(self, name: str, model: Model) -> None:
        worker = self._run.federation.worker
        path = self._run.folder / name
        save_ckpt(worker.replica, worker.trainer_config, model, path.with_suffix(".tmp"))
        disk = LocalFilesystem()
        disk.sync(path.with_suffix(".tmp"))
        disk.rename(path.with_suffix(".tmp"), path)
        disk.sync(path.parent)
