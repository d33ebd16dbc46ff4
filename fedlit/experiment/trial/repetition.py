"""A trial of repeated fits: no fit may influence the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from fedlit.client.lightning_internals import mark_last_batch
from fedlit.core.errors import ConfigError
from fedlit.core.streams import Purpose, seeded
from fedlit.core.tensors import Layout
from fedlit.core.torch_internals import tree_leaves
from fedlit.data import Data
from fedlit.data.datamodule import apply_hooks
from fedlit.experiment.trial.causes import module_name
from fedlit.server.setup import Federation

NUM_BATCHES = 4
"""Batches of a client in a repeated fit: a warm-up of three steps is over by then."""

STATE_HINT = (
    "keep the state in numbers, tensors, containers or objects with attributes, which are restored before each fit, "
    "or create it in on_fit_start"
)


class StopAfterBatches(Callback):
    """Make an early batch the last of its fit and epoch.

    The module sees the Trainer of a whole fit. `callbacks` are those of the last fit.

    Args:
        limit: largest number of batches of a fit, >= 1.
    """

    callbacks: Sequence[Callback] = ()

    def __init__(self, limit: int = 1) -> None:
        self.limit, self.num_batches = limit, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the batches of a fit from 0."""
        self.num_batches, self.callbacks = 0, trainer.callbacks  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Stop before the step, to apply accumulated gradients and step epoch schedulers."""
        self.num_batches += 1
        if self.num_batches == self.limit:
            trainer.should_stop = True
            mark_last_batch(trainer)


def check_repeated_fits(federation: Federation, data: Data, client: int) -> list[ConfigError]:
    """Train a client several times, and compare the updates.

    The repeated fits have four batches together. An iterator that a fit advances is an error. So are other results. An object
    that changes, cannot be restored, and does not influence the results, gives a warning.
    """
    first, num_batches = _fit(federation, client)
    seen, are_equal = 0, True
    while seen < NUM_BATCHES and are_equal:
        again, _ = _fit(federation, client)
        are_equal = torch.equal(first.nan_to_num(), again.nan_to_num())
        seen += max(1, num_batches)
    if changes := federation.worker.replica.unrestored_changes():
        problem = (
            f"keeps state from one fit to the next, in objects that cannot be restored: {', '.join([*changes][:3])}"
        )
        is_harmless = are_equal and not any(isinstance(value, Iterator) for value in changes.values())
        return [ConfigError("model", module_name(federation), problem, STATE_HINT, warning=is_harmless)]
    return [] if are_equal else _explain_difference(federation, data, client)


def _fit(federation: Federation, client: int) -> tuple[Tensor, int]:
    """Train a client in round 1.

    Returns:
        its update as a vector, and the number of batches of its last fit.
    """
    stop = StopAfterBatches(NUM_BATCHES)
    _, update = federation.dry_run(client, callbacks=[stop])
    return Layout.of(update.groups).vector(update.groups), stop.num_batches


def _explain_difference(federation: Federation, data: Data, client: int) -> list[ConfigError]:
    """Explain why two fits of one client differ.

    The cause is the client's data, or state in the module.
    """
    config = federation.trainer_config
    if config.make_trainer().strategy.root_device.type != "cpu" and not config.options.get("deterministic"):
        return []  # a GPU adds in any order
    batches = []
    for _ in range(2):
        with seeded(federation.seed, Purpose.MODEL, 0, client):
            batches.append(tree_leaves(list(islice(federation.worker.data.train_batches(0, client), NUM_BATCHES))))
    tensors = [pair for pair in zip(*batches, strict=False) if isinstance(pair[0], torch.Tensor)]
    if not all(torch.equal(*pair) for pair in tensors):
        problem = "gives other examples when it is read again: the same command gives other results"
        hint = "draw from torch, numpy.random or random, which are seeded for each client"
        return [ConfigError("data", data.name, problem, hint, warning=True)]
    problem = "gives other results when the same client trains again: it keeps state from one fit to the next"
    if _hooks_keep_state(federation):
        hint = "let its hooks of batches depend on the batch alone, and draw from torch"
        return [ConfigError("data", data.name, problem, hint)]
    return [ConfigError("model", module_name(federation), problem, STATE_HINT)]


def _hooks_keep_state(federation: Federation) -> bool:
    """Return True if a data module changes a batch in two ways."""
    data, trainer = federation.worker.data, federation.trainer_config.make_trainer()
    if data.datamodule is None:
        return False
    batches = []
    for _ in range(2):
        with seeded(federation.seed, Purpose.MODEL, 0, 0):
            batch = next(iter(data.train.batches(np.zeros(2, dtype=np.int64), 2)))
            batches.append(tree_leaves(apply_hooks(data.datamodule, trainer, batch)))
    return not all(torch.equal(*pair) for pair in zip(*batches, strict=False) if isinstance(pair[0], torch.Tensor))
