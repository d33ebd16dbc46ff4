"""Callbacks that a client's Trainer refuses, wherever they come from."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Checkpoint,
    DeviceStatsMonitor,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    ThroughputMonitor,
)

from fedlit.core.errors import ConfigError

OBSERVED = "leave it out: the observers log rounds, not single fits"
PRINTED = "leave it out: observers.terminal prints the progress"

REFUSED: dict[type[Callback], str] = {
    Checkpoint: "leave it out: a run writes model.ckpt and best.ckpt",
    ProgressBar: PRINTED,
    ModelSummary: PRINTED,
    LearningRateMonitor: OBSERVED,
    DeviceStatsMonitor: OBSERVED,
    ThroughputMonitor: OBSERVED,
}
"""Classes of refused callbacks, with the remedy. Each would write, print or log in every fit of every client."""


def refuse_callbacks(callbacks: Iterable[Callback], module: LightningModule | None = None) -> None:
    """Raise ConfigError for the first callback that a client's Trainer refuses.

    Args:
        callbacks: callbacks of a Trainer.
        module: the module whose `configure_callbacks` makes them; None if they are those of `trainer.callbacks`.
    """
    for callback in callbacks:
        for kind, remedy in REFUSED.items():
            if isinstance(callback, kind):
                name = type(callback).__name__
                if module is None:
                    raise ConfigError("callbacks", name, "is not allowed for a client's Trainer", remedy)
                problem = f"makes a {name} in configure_callbacks, which is not allowed for a client's Trainer"
                raise ConfigError("model", type(module).__name__, problem, remedy)


class RefuseModuleCallbacks(Callback):
    """Refuses callbacks of a module that `trainer.callbacks` may not have either.

    It leaves the Trainer after the check, since Lightning calls each hook of each callback.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check all callbacks, before the first of them acts."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        try:
            refuse_callbacks(callbacks, pl_module)
        except ConfigError:
            callbacks.clear()  # some of them would write a file on the exception
            raise
        trainer.callbacks = [callback for callback in callbacks if callback is not self]  # type: ignore[attr-defined]
