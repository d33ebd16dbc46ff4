"""Callbacks that average the weights of a fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor

from fedlit.client.lightning_internals import average_function, first_averaged_epoch
from fedlit.core.errors import ConfigError

MAX_SIMULATED_STEPS = 50_000
MIN_SHARE = 0.5
"""Share of the weights' way below which an average is reported: an average of all steps has half of it."""


def averaging_callbacks(callbacks: Iterable[Callback]) -> list[WeightAveraging | StochasticWeightAveraging]:
    """Return the callbacks that replace a fit's last weights by an average."""
    return [callback for callback in callbacks if isinstance(callback, WeightAveraging | StochasticWeightAveraging)]


def slow_averages(callbacks: Iterable[Callback], steps: int, epochs: int) -> list[ConfigError]:
    """Return warnings about averages that lag far behind a client's weights.

    An average that does not move at all is an error.

    Args:
        callbacks: new callbacks of a fit.
        steps: optimizer steps of the client.
        epochs: passes over its shard.
    """
    errors = []
    for callback in averaging_callbacks(callbacks):
        if (share := followed_share(callback, steps, epochs)) < MIN_SHARE:
            problem = (
                f"averages over more steps than a client takes: after {steps} steps in {epochs} epochs, "
                f"the average has moved {share:.0%} of the distance that the weights have moved"
            )
            hint = "average over fewer steps (a smaller decay), or train longer in a round"
            name = type(callback).__name__
            errors.append(ConfigError("trainer.callbacks", name, problem, hint, warning=share > 0))
    return errors


def followed_share(callback: WeightAveraging | StochasticWeightAveraging, steps: int, epochs: int) -> float:
    """Return the average of weights that move from 0 to 1.

    The weights move by 1 / steps in each step of a fit. The result is 1 for more than MAX_SIMULATED_STEPS steps.
    """
    if steps > MAX_SIMULATED_STEPS:
        return 1.0
    if isinstance(callback, StochasticWeightAveraging):
        first = first_averaged_epoch(callback, epochs)
        averaged = range(first, epochs)  # it averages the weights at the beginning of each epoch
        return sum(epoch / epochs for epoch in averaged) / max(1, len(averaged))
    update = average_function(callback)
    average, count, per_epoch = torch.zeros((), dtype=torch.float64), 0, max(1, steps // epochs)
    for step in range(steps):
        wants = [callback.should_update(step_idx=step)]
        if (step + 1) % per_epoch == 0:
            wants.append(callback.should_update(epoch_idx=(step + 1) // per_epoch - 1))
        for _ in filter(None, wants):
            weight = torch.tensor((step + 1) / steps, dtype=torch.float64)
            average = update(average, weight, count) if count else weight
            count += 1
    return float(average)


class WeightGuard:
    """Finds weights that change outside of optimizer steps.

    Args:
        parameters: the parameters by name.
    """

    def __init__(self, parameters: Sequence[tuple[str, Tensor]]) -> None:
        self._parameters = parameters
        self._recorded: list[Tensor] = []
        self.changed: list[str] = []

    def record(self) -> None:
        """Record the weights after a step."""
        self._recorded = [parameter.detach().clone() for _, parameter in self._parameters]

    def compare(self) -> None:
        """Compare the weights with those after the last step.

        `changed` has the names of those that differ.
        """
        if self._recorded and not self.changed:
            pairs = zip(self._parameters, self._recorded, strict=True)
            self.changed = [name for (name, new), old in pairs if not torch.equal(new.detach().to(old), old)]
