"""TensorBoard: scalars over rounds, partition, configuration, a row of the HPARAMS tab."""

from __future__ import annotations

import math
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure

from fedlit.experiment.observers.observer import Observer
from fedlit.experiment.observers.partition_figure import partition_figure
from fedlit.experiment.observers.tensorboard.confusion import confusion_figure, confusion_matrix
from fedlit.experiment.observers.tensorboard.hparams import hparams_summaries, hparams_table
from fedlit.experiment.observers.tensorboard.layout import custom_layout
from fedlit.experiment.run import Run
from fedlit.runs.folder import InvalidRun, read_command, read_job
from fedlit.runs.layout import JOB, TENSORBOARD
from fedlit.runs.record import RoundRecord, failure_counts

EVENTS = "events.out.tfevents.*.fedlit"
"""Names of the files that this observer writes."""
MAX_NAME = 100
"""Largest number of characters in the name of a run."""


class TensorBoard(Observer):
    """Writes events into the run's folder.

    TensorBoard calls a run by the folder of its events. That is `tensorboard`, or for a sweep's job the overrides that differ
    between the jobs, such as `algorithm=fedavg,seed=1`.

    Events are written in this thread. A SummaryWriter writes them in a thread of its own, where nothing catches the error of a
    folder that was removed.
    """

    def start(self, run: Run) -> None:
        """Write the configuration, the partition and the finished rounds."""
        from torch.utils.tensorboard.summary import image, text  # here: slow to import, and not every run needs it

        self._run, self._varied, self._best = run, varied_overrides(run.folder), None
        folder = run.folder / (run_name(self._varied) if (run.folder / JOB).is_file() else TENSORBOARD)
        for old in {*folder.glob("events*"), *run.folder.glob(f"*/{EVENTS}")}:  # a resumed run writes each round again
            old.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = folder / EVENTS.replace("*", name)
        partition = partition_figure(run.partition, run.data.classes)
        self._write({"file_version": "brain.Event:2"})
        config = yaml.safe_dump(dict(run.config), sort_keys=False)
        indented = "".join(f"    {line}\n" for line in config.splitlines())
        self._write(
            {"summary": text("config", indented), "step": 0},
            {
                "summary": image("partition", _pixels(partition), dataformats="HWC"),
                "step": 0,
            },
            {"summary": custom_layout(run.monitored)},
        )
        for record in run.finished_rounds:
            self.round(record)

    def round(self, record: RoundRecord) -> None:
        """Write metrics, failures by outcome, and histograms over clients."""
        from torch.utils.tensorboard.summary import histogram_raw, scalar

        if self._run.federation.monitor.name is None or self._run.federation.monitor.is_better(record, self._best):
            self._best = record
        values = {**record.metrics, **failure_counts(record.failures)}
        self._write(*({"summary": scalar(name, value), "step": record.number} for name, value in values.items()))
        for name, clients in record.clients.items():
            if finite := [value for value in clients.values() if math.isfinite(value)]:
                self._write({"summary": histogram_raw(f"clients/{name}", **_bins(finite)), "step": record.number})

    def end(self, summary: Mapping[str, Any]) -> None:
        """Write the HPARAMS row and the best round's confusion matrix."""
        self._write_confusion()
        table = hparams_table(self._run, self._varied, summary)
        self._write(*({"summary": part} for part in hparams_summaries(table)))

    def _write_confusion(self) -> None:
        from torch.utils.tensorboard.summary import image

        best = self._best
        if best is None or best.model is None:  # the best round was before a resume
            return
        counts = confusion_matrix(self._run, best.model)
        if counts is not None:
            figure = confusion_figure(counts, tuple(self._run.data.classes), f"round {best.number}, the best one")
            self._write({"summary": image("confusion", _pixels(figure), dataformats="HWC"), "step": best.number})

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


def varied_overrides(folder: Path) -> list[str]:
    """Return the overrides that tell a run from others.

    They are those of a sweep's job that differ between the jobs, or all of a single run.
    """
    try:
        texts = read_job(folder)["swept"] if (folder / JOB).is_file() else read_command(folder)["overrides"]
        return [str(text).lstrip("+") for text in texts]
    except (InvalidRun, KeyError, TypeError):
        return []  # they are only names: a federation that was made in Python has none


def run_name(overrides: Sequence[str]) -> str:
    """Return the name of a folder for overrides: `algorithm=fedavg,seed=1`."""
    return re.sub(r"[^\w.=,+@-]+", "_", ",".join(overrides))[:MAX_NAME].strip("._") or TENSORBOARD


def _bins(values: Sequence[float]) -> dict[str, Any]:
    """Return the arguments of a histogram with bins of equal width."""
    counts, edges = np.histogram(values, bins=min(30, max(5, len(values))))
    array = np.asarray(values, dtype=np.float64)
    return {
        "min": float(array.min()),
        "max": float(array.max()),
        "num": len(array),
        "sum": float(array.sum()),
        "sum_squares": float(array.dot(array)),
        "bucket_limits": edges[1:].tolist(),
        "bucket_counts": counts.tolist(),
    }


def _pixels(figure: Figure) -> np.ndarray:
    """Return a figure as RGB pixels, shape (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
