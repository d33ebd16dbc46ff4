"""Learning rates of a round: the module's own times a factor."""

from __future__ import annotations

from numbers import Real
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from fedlit.core.errors import ConfigError

ParamGroup = dict[str, Any]


class ScaledRates:
    """Multiplies learning rates by a factor, inside of optimizer steps alone.

    Outside of a step, and while a closure runs inside of it, `param_groups` has the module's own rates. So the factor holds for
    each way in which a module sets its rates: schedulers of all kinds, hooks, callbacks, assignments.

    Args:
        factor: the factor on the learning rates.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._scaled: dict[int, tuple[Optimizer, ParamGroup, Any, Any]] = {}  # optimizer, group, own rate, rate in use

    def scale(self, optimizer: Optimizer) -> list[ParamGroup]:
        """Scale an optimizer's groups that are not scaled yet.

        Returns:
            the groups that are scaled now and were not before.

        Raises:
            ConfigError: if a group has no learning rate.
        """
        groups = [group for group in optimizer.param_groups if id(group) not in self._scaled]
        for group in groups:
            self._scale(optimizer, group)
        return groups

    def restore(self, groups: list[ParamGroup]) -> None:
        """Give groups their own rates again.

        Raises:
            ConfigError: if a rate changed inside the step: then the step did not use the scaled one.
        """
        for group in groups:
            if id(group) in self._scaled:  # else a closure ended by an exception
                self._restore(*self._scaled.pop(id(group)))

    def pause(self) -> list[tuple[Optimizer, ParamGroup]]:
        """Restore all groups, and return them for `resume`."""
        paused = [(optimizer, group) for optimizer, group, _, _ in self._scaled.values()]
        self.restore([group for _, group in paused])
        return paused

    def resume(self, paused: list[tuple[Optimizer, ParamGroup]]) -> None:
        """Scale groups again, from the rates that they have now."""
        for optimizer, group in paused:
            self._scale(optimizer, group)

    def _scale(self, optimizer: Optimizer, group: ParamGroup) -> None:
        own = group.get("lr")
        if not isinstance(own, Real | Tensor):
            raise _error(optimizer, "has a parameter group without a number `lr`, so its rate cannot follow the rounds")
        group["lr"] = own * self._factor
        self._scaled[id(group)] = (optimizer, group, own, group["lr"])

    def _restore(self, optimizer: Optimizer, group: ParamGroup, own: Any, used: Any) -> None:
        current = group["lr"]
        if current is not used and (isinstance(current, Tensor) or current != used):
            raise _error(optimizer, "sets its learning rate inside of its step, where the round's factor is lost")
        group["lr"] = own


def _error(optimizer: Optimizer, problem: str) -> ConfigError:
    hint = "use schedule.lr=constant, or an optimizer that takes its rate from its parameter groups"
    return ConfigError("schedule.lr", "", f"{type(optimizer).__name__} {problem}", hint)
