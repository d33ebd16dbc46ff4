"""The run's folder: configuration, partition, a line for each round, weights, summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from fedlit.core.files import LocalDisk, json_line, replace_file
from fedlit.core.messages import Model
from fedlit.experiment.run import Run
from fedlit.experiment.summary import Standing
from fedlit.experiment.weights import checkpoint, safetensors
from fedlit.runs.record import Round


class RunFolder:
    """Writes config.yaml and partition.json at the start, best.ckpt when the validation metric is better than before, and
    model.ckpt, model.safetensors and summary.json at the end. The rounds themselves are committed by `checkpoint`."""

    def start(self, run: Run) -> None:
        self._run, self._standing = run, Standing(run.federation.monitor)
        run.folder.mkdir(parents=True, exist_ok=True)
        config = {**run.config, "resume": None}
        replace_file(run.folder / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())
        replace_file(run.folder / "partition.json", json_line(run.partition).encode())
        (run.folder / "summary.json").unlink(missing_ok=True)  # of a finished run that goes further
        for record in run.done:
            self.round(record)

    def round(self, record: Round) -> None:
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
            weights = safetensors(self._run.federation.worker.bench, last.model)
            replace_file(self._run.folder / "model.safetensors", weights)
        replace_file(self._run.folder / "summary.json", (json_line(summary, indent=2) + "\n").encode())

    def close(self) -> None: ...

    def _checkpoint(self, name: str, model: Model) -> None:
        worker = self._run.federation.worker
        path = self._run.folder / name
        checkpoint(worker.bench, worker.recipe, model, path.with_suffix(".tmp"))
        disk = LocalDisk()
        disk.sync(path.with_suffix(".tmp"))
        disk.rename(path.with_suffix(".tmp"), path)
        disk.sync(path.parent)
