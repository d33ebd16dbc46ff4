"""TensorBoard: scalars over rounds, the partition, the configuration, and a row for the HPARAMS tab."""

from __future__ import annotations

import math
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from fedlit.core.files import flatten
from fedlit.experiment.observers.partition_figure import partition_figure
from fedlit.experiment.run import Run
from fedlit.runs.record import RoundRecord


class TensorBoard:
    """Writes events into the run's folder, under `tensorboard`. A SummaryWriter would do so in a thread, where a folder that is
    gone is nobody's to catch."""

    def start(self, run: Run) -> None:
        from torch.utils.tensorboard.summary import image, text  # here, for it takes time and not every run has it

        self._run, folder = run, run.folder / "tensorboard"
        for old in folder.glob("events*"):  # of a run that goes on: every round is written again
            old.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.0"
        self._write({"file_version": "brain.Event:2"})
        config = yaml.safe_dump(dict(run.config), sort_keys=False)
        indented = "".join(f"    {line}\n" for line in config.splitlines())
        self._write(
            {"summary": text("config", indented), "step": 0},
            {"summary": image("partition", _pixels(run), dataformats="HWC"), "step": 0},
        )
        for record in run.finished_rounds:
            self.round(record)

    def round(self, record: RoundRecord) -> None:
        failures = Counter(f"failures/{failure.outcome}" for failure in record.failures)
        self._scalars({**record.metrics, **failures}, record.number)

    def end(self, summary: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard.summary import hparams

        best = {f"best/{name}": float(value) for name, value in summary["best"]["metrics"].items()}
        final = {f"last/{name}": float(value) for name, value in summary["last"]["metrics"].items()}
        figures = {
            name: value
            for name, value in {**best, **final}.items()
            if "val/" in name or "test/" in name or "train/" in name
        }
        parts = hparams(hparam_values(self._run.config), dict.fromkeys(figures, 0.0))
        self._write(*({"summary": part} for part in parts))
        self._scalars(figures, summary["rounds"])

    def close(self) -> None:
        """Nothing: all is written."""

    def _scalars(self, values: Mapping[str, float], round: int) -> None:
        from torch.utils.tensorboard.summary import scalar

        self._write(*({"summary": scalar(name, value), "step": round} for name, value in values.items()))

    def _write(self, *events: Mapping[str, Any]) -> None:
        """Appends events of these fields, which are on their way to the disk when this returns.

        Raises:
            OSError: as the disk does, and if the folder is not there any more.
        """
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
        from tensorboard.summary.writer.record_writer import RecordWriter

        with self._file.open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(Event(wall_time=time.time(), **event).SerializeToString())


def hparam_values(config: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """The configuration as dotted keys and values that the HPARAMS tab can show."""
    values = {key: value for key, value in flatten(config).items() if not isinstance(value, Mapping)}
    return {
        key: value if isinstance(value, bool | int | float) and math.isfinite(value) else str(value)
        for key, value in values.items()
    }


def _pixels(run: Run) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(partition_figure(run.partition, run.data.classes))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
