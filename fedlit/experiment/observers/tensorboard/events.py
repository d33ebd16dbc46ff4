"""TensorBoard: scalars over rounds, partition, configuration, a row of the HPARAMS tab."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedlit.experiment.observers.observer import Observer
from fedlit.experiment.observers.partition_figure import partition_figure
from fedlit.experiment.observers.tensorboard.hparams import hparams_summaries, hparams_table
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

        self._run, self._varied = run, varied_overrides(run.folder)
        folder = run.folder / (run_name(self._varied) if (run.folder / JOB).is_file() else TENSORBOARD)
        for old in {*folder.glob("events*"), *run.folder.glob(f"*/{EVENTS}")}:  # a resumed run writes each round again
            old.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = folder / EVENTS.replace("*", name)
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
        from torch.utils.tensorboard.summary import scalar

        values = {**record.metrics, **failure_counts(record.failures)}
        self._write(*({"summary": scalar(name, value), "step": record.number} for name, value in values.items()))

    def end(self, summary: Mapping[str, Any]) -> None:
        """Write the HPARAMS row: configuration, best round, last values."""
        table = hparams_table(self._run, self._varied, summary)
        self._write(*({"summary": part} for part in hparams_summaries(table)))

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


def _pixels(run: Run) -> np.ndarray:
    """Return the partition's figure as RGB pixels, shape (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(partition_figure(run.partition, run.data.classes))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
