"""The confusion matrix of a model on a split of the server."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fedlit.core.errors import describe_exception
from fedlit.core.model import Model
from fedlit.experiment.run import Run

log = logging.getLogger("fedlit")

MAX_CLASSES = 50
MAX_NUMBERS = 15
"""Classes up to which the cells have numbers."""


def confusion_matrix(run: Run, model: Model) -> np.ndarray | None:
    """Return the counts by label and prediction, shape (classes, classes).

    The prediction is the largest output of the module for the first tensor of a batch. The result is None if the data has no
    classes, too many classes, no split or a data module of its own, or if the module's output is not one number for each class.

    Args:
        run: the run.
        model: a global model.
    """
    worker, num_classes = run.federation.worker, len(run.data.classes)
    splits = [split for split in ("test", "val") if split in run.federation.registry.splits]
    if not 2 <= num_classes <= MAX_CLASSES or not splits or worker.data.datamodule is not None:
        return None
    worker.replica.load(model)
    module = worker.replica.module
    is_training, counts = module.training, torch.zeros(num_classes, num_classes, dtype=torch.int64)
    try:
        module.eval()
        with torch.inference_mode():
            for batch in worker.data.split_batches(splits[0]):
                inputs, labels = (part.to(module.device) for part in batch[:2])
                counts += _count(module(inputs), labels, num_classes)
    except Exception as error:  # a module of the user: its forward may want anything
        log.info("no confusion matrix: %s", describe_exception(error))
        return None
    finally:
        module.train(is_training)
    return counts.numpy()


def _count(outputs: Any, labels: Tensor, num_classes: int) -> Tensor:
    """Return the counts of one batch.

    Raises:
        ValueError: if there is not one number for each class and sample.
    """
    if not isinstance(outputs, Tensor) or outputs.shape != (len(labels), num_classes):
        raise ValueError("the module's output is not one number for each class and sample")
    pairs = labels.long() * num_classes + outputs.argmax(1)
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes).cpu()


def confusion_figure(counts: np.ndarray, classes: tuple[str, ...], title: str) -> Figure:
    """Return a picture of the matrix, with a row for each label.

    Colours are shares of the row."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    names = [name if len(name) <= 12 else f"{name[:11]}\u2026" for name in classes]
    step = -(-len(names) // 25)
    for axis, label in ((axes.xaxis, "prediction"), (axes.yaxis, "label")):
        axis.set_ticks(range(0, len(names), step), names[::step], parse_math=False, fontsize=8)
        axis.set_label_text(label)
    axes.tick_params(axis="x", rotation=90 if max(map(len, names)) > 3 else 0)
    if len(names) <= MAX_NUMBERS:
        for (i, j), count in np.ndenumerate(counts):
            colour = "black" if shares[i, j] > 0.5 else "white"
            axes.text(j, i, f"{count}", ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, label="share of the label's samples")
    axes.set_title(title, fontsize=10)
    return figure
