"""The Trainer as a module sees it while several clients train."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from fedlit.client.fit.call import FitCall
from fedlit.core.errors import ConfigError


class DifferentClients(Exception):
    """A value that is not the same for all clients."""


class UnreadableBatch(Exception):
    """A client whose batches cannot be read.

    Args:
        call: the client's fit.
        error: the exception.
    """

    def __init__(self, call: FitCall, error: Exception) -> None:
        super().__init__(f"client {call.client}: {error}")
        self.call, self.error = call, error


class ClientClock:
    """The progress of clients that have the same number of batches.

    Args:
        num_batches: batches in an epoch.
        epochs: passes over the shard; ignored if there is a number of steps.
        steps: optimizer steps of a whole fit; None for all steps of the epochs.
        accumulate: batches whose gradients one step accumulates, >= 1.
    """

    def __init__(self, num_batches: int, epochs: int, steps: int | None, accumulate: int) -> None:
        self.num_batches, self.accumulate, self.batch_idx, self.epoch, self.global_step = (
            num_batches,
            accumulate,
            0,
            0,
            0,
        )
        self._steps_per_epoch = ceil(num_batches / accumulate)
        self._epochs, self._steps = epochs, steps

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of a whole fit."""
        if not self.num_batches:
            return 0
        return self._epochs * self._steps_per_epoch if self._steps is None else self._steps

    def batches_until(self, steps: int) -> int:
        """Return the number of batches until an optimizer step, counted from 1."""
        epochs, rest = divmod(steps, max(1, self._steps_per_epoch))
        return epochs * self.num_batches + min(rest * self.accumulate, self.num_batches)

    @property
    def is_last_batch(self) -> bool:
        """True at the last batch of an epoch."""
        return self.batch_idx + 1 == self.num_batches

    @property
    def is_step_due(self) -> bool:
        """True if the optimizer steps after the current batch."""
        return self.is_last_batch or (self.batch_idx + 1) % self.accumulate == 0

    def advance(self) -> None:
        """Move to the next batch."""
        self.batch_idx, self.epoch = (0, self.epoch + 1) if self.is_last_batch else (self.batch_idx + 1, self.epoch)

    def values(self) -> dict[str, Any]:
        """Return what `lightning.Trainer` says of the fit, by attribute."""
        is_endless = self._steps is not None
        return {
            "current_epoch": self.epoch,
            "global_step": self.global_step,
            "num_training_batches": self.num_batches,
            "accumulate_grad_batches": self.accumulate,
            "is_last_batch": self.is_last_batch,
            "max_epochs": -1 if is_endless else self._epochs,
            "max_steps": self._steps if is_endless else -1,
            "estimated_stepping_batches": self.planned_steps,
        }


CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("training", "is_global_zero"), True),
    **dict.fromkeys(("validating", "testing", "predicting", "sanity_checking", "evaluating", "barebones"), False),
    **dict.fromkeys(("logger", "log_dir", "progress_bar_callback"), None),
    "loggers": [],
    "callbacks": [],
    "world_size": 1,
    "global_rank": 0,
    "local_rank": 0,
    "num_devices": 1,
}
"""Attributes of a client's Trainer that never change."""


class TrainerView:
    """Stands for the Trainer of each client while several train together.

    It offers the numbers of a fit. Each other attribute of a Trainer belongs to one client alone, and is refused.

    Args:
        module: class name of the module, for errors.
        constants: further attributes that never change.
    """

    def __init__(self, module: str, **constants: Any) -> None:
        self._module, self._constants = module, constants
        self.num_reads = 0  # of values that are not the same in all fits
        self._clocks: Sequence[ClientClock] = ()

    def show(self, clocks: Sequence[ClientClock]) -> None:
        """Set the clocks of the clients whose step runs."""
        self._clocks = clocks

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of a client's Trainer.

        Raises:
            DifferentClients: if it is not the same for all clients whose step runs.
            ConfigError: if the attribute is not offered.
        """
        if name.startswith("__"):
            raise AttributeError(name)
        if name in CONSTANTS:
            return CONSTANTS[name]
        self.num_reads += 1
        if name in self._constants:
            return self._constants[name]
        values = [clock.values() for clock in self._clocks]
        if not values or name not in values[0]:
            problem = f"uses trainer.{name}, which clients that train as one stacked model do not have"
            raise ConfigError("model", self._module, problem, "use executor=processes")
        if any(other[name] != values[0][name] for other in values):
            raise DifferentClients(name)
        return values[0][name]
