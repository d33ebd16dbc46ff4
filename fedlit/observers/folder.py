"""The run's folder: configuration, partition, a line for each round, weights, summary."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import yaml
from safetensors.torch import save

from fedlit.jsonl import json_line
from fedlit.messages import Model, Round
from fedlit.observers.run import Run
from fedlit.summary import Standing
from fedlit.weights import checkpoint


class RunFolder:
    """Writes config.yaml and partition.json at the start, a line of rounds.jsonl a round, best.ckpt when the validation
    metric is better than before, and model.ckpt, model.safetensors and summary.json at the end."""

    def start(self, run: Run) -> None:
        self._run, self._standing = run, Standing(run.federation.monitor)
        run.folder.mkdir(parents=True, exist_ok=True)
        replace_file(run.folder / "config.yaml", yaml.safe_dump(dict(run.config), sort_keys=False).encode())
        replace_file(run.folder / "partition.json", json_line(run.partition).encode())
        self._rounds: IO[str] = (run.folder / "rounds.jsonl").open("w", encoding="utf-8")

    def round(self, record: Round) -> None:
        self._rounds.write(json_line(record.record()) + "\n")
        self._rounds.flush()
        before = self._standing.best
        self._standing.add(record)
        if self._standing.monitor.name is not None and self._standing.best is not before:
            self._checkpoint("best.ckpt", record)

    def end(self, summary: Mapping[str, Any]) -> None:
        self._rounds.close()
        if (last := self._standing.last) is not None:
            self._checkpoint("model.ckpt", last)
            if self._standing.monitor.name is None:
                self._checkpoint("best.ckpt", last)
            replace_file(self._run.folder / "model.safetensors", safetensors(last.model))
        replace_file(self._run.folder / "summary.json", (json_line(summary, indent=2) + "\n").encode())

    def _checkpoint(self, name: str, record: Round) -> None:
        worker = self._run.federation.worker
        path = self._run.folder / name
        checkpoint(worker.bench, worker.recipe, record.model, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)


def safetensors(model: Model) -> bytes:
    """Parameters and buffers under their names in the module."""
    return save({name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()})


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file that is there as a whole or as it was."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_bytes(content)
    os.replace(partial, path)
