"""TensorBoard: scalars over rounds, partition, configuration, a row of the HPARAMS tab."""

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
from fedlit.experiment.observers.observer import Observer
from fedlit.experiment.observers.partition_figure import partition_figure
from fedlit.experiment.run import Run
from fedlit.experiment.summary import evaluation_metrics
from fedlit.runs.layout import TENSORBOARD
from fedlit.runs.metric_names import split_of
from fedlit.runs.record import RoundRecord


class TensorBoard(Observer):
    """Writes events into the folder `tensorboard` of the run.

    Events are written in this thread. A SummaryWriter writes them in a thread of its own, where nothing catches the error of a
    folder that was removed.
    """

    def start(self, run: Run) -> None:
        """Write the configuration, the partition and the finished rounds."""
        from torch.utils.tensorboard.summary import image, text  # here: slow to import, and not every run needs it

        self._run, folder = run, run.folder / TENSORBOARD
        for old in folder.glob("events*"):  # of a resumed run: each round is written again
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
        """Write the round's metrics and its number of failures by outcome."""
        failures = Counter(f"failures/{failure.outcome}" for failure in record.failures)
        self._scalars({**record.metrics, **failures}, record.number)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Write the HPARAMS row: metrics of the best and the last round."""
        from torch.utils.tensorboard.summary import hparams

        figures = {
            f"{title}/{name}": float(value)
            for title in ("best", "last")
            for name, value in _hparam_metrics(summary[title]["metrics"]).items()
        }
        parts = hparams(hparam_values(self._run.config), dict.fromkeys(figures, 0.0))
        self._write(*({"summary": part} for part in parts))
        self._scalars(figures, summary["rounds"])

    def _scalars(self, values: Mapping[str, float], round: int) -> None:
        from torch.utils.tensorboard.summary import scalar

        self._write(*({"summary": scalar(name, value), "step": round} for name, value in values.items()))

    def _write(self, *events: Mapping[str, Any]) -> None:
        """Append events, each a mapping of its fields, to the file.

        Raises:
            OSError: if the file cannot be written, also if its folder was removed.
        """
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
        from tensorboard.summary.writer.record_writer import RecordWriter

        with self._file.open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(Event(wall_time=time.time(), **event).SerializeToString())


def hparam_values(config: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """Return the configuration as dotted keys with values for the HPARAMS tab."""
    values = {key: value for key, value in flatten(config).items() if not isinstance(value, Mapping)}
    return {
        key: value if isinstance(value, bool | int | float) and math.isfinite(value) else str(value)
        for key, value in values.items()
    }


def _hparam_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of training and of evaluations."""
    evaluations = evaluation_metrics(metrics)
    return {name: value for name, value in metrics.items() if split_of(name) == "train" or name in evaluations}


def _pixels(run: Run) -> np.ndarray:
    """Return the partition's figure as RGB pixels, shape (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(partition_figure(run.partition, run.data.classes))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
