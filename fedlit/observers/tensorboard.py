"""TensorBoard: scalars over rounds, the partition, the configuration, and a row for the HPARAMS tab."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from fedlit.keys import flat
from fedlit.observers.partition import partition_figure
from fedlit.observers.run import Run
from fedlit.record import Round


class TensorBoard:
    """Writes events into the run's folder, under `tensorboard`."""

    def start(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here, for it takes time and not every run has it

        self._run = run
        for old in (run.folder / "tensorboard").glob("events*"):  # of a run that goes on: every round is written again
            old.unlink()
        self._writer = SummaryWriter(str(run.folder / "tensorboard"))
        text = yaml.safe_dump(dict(run.config), sort_keys=False)
        self._writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()), 0)
        self._writer.add_image("partition", _pixels(run), 0, dataformats="HWC")
        for record in run.done:
            self.round(record)

    def round(self, record: Round) -> None:
        failures = Counter(f"failures/{failure.outcome}" for failure in record.failures)
        for name, value in {**record.metrics, **failures}.items():
            self._writer.add_scalar(name, value, record.number)
        self._writer.flush()

    def end(self, summary: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard.summary import hparams

        best = {f"best/{name}": float(value) for name, value in summary["best"]["metrics"].items()}
        final = {f"last/{name}": float(value) for name, value in summary["last"]["metrics"].items()}
        figures = {
            name: value
            for name, value in {**best, **final}.items()
            if "val/" in name or "test/" in name or "train/" in name
        }
        for part in hparams(shown(self._run.config), dict.fromkeys(figures, 0.0)):
            self._writer._get_file_writer().add_summary(part)
        for name, value in figures.items():
            self._writer.add_scalar(name, value, summary["rounds"])

    def close(self) -> None:
        self._writer.close()


def shown(config: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """The configuration as dotted keys and values that the HPARAMS tab can show."""
    values = {key: value for key, value in flat(config).items() if not isinstance(value, Mapping)}
    return {
        key: value if isinstance(value, bool | int | float) and math.isfinite(value) else str(value)
        for key, value in values.items()
    }


def _pixels(run: Run) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(partition_figure(run.partition, run.data.classes))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
