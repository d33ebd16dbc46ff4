"""Displacement of a parameter under a gradient of 1.

A client's own optimizer causes the displacement; FedNova and SCAFFOLD divide by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from inspect import unwrap
from typing import NamedTuple

import torch
from torch import nn

from fedlit.core.errors import ConfigError
from fedlit.core.model import GradientTerm

OPTIMIZER = "model.optimizer"


class SGDStep(NamedTuple):
    """Settings of torch's SGD in one step.

    Weight decay counts as part of the gradient.

    Args:
        scale: factor on the gradient and on the terms; below 1 if fewer batches than usual are accumulated.
    """

    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    maximize: bool = False
    scale: float = 1.0


def displacement(steps: Iterable[SGDStep], mu: float = 0.0) -> float:
    """Return x - y of a number moving from x to y.

    The number takes these steps of torch's SGD with a fresh state, under a gradient of 1 + mu * (y - x). For plain steps and
    mu = 0 the result is the sum of the learning rates, and a client's x - y divided by it is the mean of the client's
    gradients. The result is lr * ||a||_1 of Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous
    Federated Optimization", NeurIPS 2020, https://arxiv.org/abs/2007.07481.
    """
    moved, buffer = 0.0, None
    for lr, momentum, dampening, nesterov, maximize, scale in steps:
        gradient = step = (-1.0 if maximize else 1.0) * scale * (1.0 - mu * moved)
        if momentum:
            buffer = gradient if buffer is None else momentum * buffer + (1 - dampening) * gradient
            step = gradient + momentum * buffer if nesterov else buffer
        moved += lr * step
    return moved


SGD_KEYS = SGDStep._fields[:-1]


class DisplacementTracker:
    """Records the steps of a fit's optimizers.

    Args:
        terms: gradient terms of the fit.
        keep: True if an optimizer starts with its state of an earlier round.
    """

    def __init__(self, terms: Sequence[GradientTerm] = (), keep: bool = False) -> None:
        self._terms, self._keep = terms, keep
        self._steps: dict[torch.optim.Optimizer, list[list[SGDStep]]] = {}
        self._refusal: ConfigError | None = None

    def refuse(self, error: ConfigError) -> None:
        """Make `read` raise an error: something besides steps moves the weights.

        The first error counts.
        """
        self._refusal = self._refusal or error

    def step(self, optimizer: torch.optim.Optimizer, scale: float = 1.0) -> None:
        """Record one step of an optimizer."""
        if not _is_sgd(type(optimizer)):
            self._steps.setdefault(optimizer, [])
            return
        groups = self._steps.setdefault(optimizer, [])
        groups += [[] for _ in optimizer.param_groups[len(groups) :]]
        for steps, group in zip(groups, optimizer.param_groups, strict=True):
            settings = {key: group[key] for key in SGD_KEYS}
            settings["lr"] = float(group["lr"])  # a scheduler changes a tensor in place
            steps.append(SGDStep(**settings, scale=scale))

    def read(
        self,
        parameters: Mapping[str, nn.Parameter],
        count: int | None = None,
        terms: Sequence[GradientTerm] | None = None,
    ) -> dict[str, float]:
        """Return the displacement of each parameter under a gradient of 1.

        Parameters without an optimizer are left out.

        Args:
            parameters: parameters by name.
            count: number of steps of each optimizer, from the first one; None for all.
            terms: gradient terms of the fit; None for those of the tracker.

        Raises:
            ConfigError: if an optimizer is not torch's SGD, if two optimizers share a parameter, or if an optimizer starts
                with the momentum of an earlier round; the error of `refuse`.
        """
        if self._refusal is not None:
            raise self._refusal
        steps_of: dict[int, list[SGDStep]] = {}
        for optimizer, groups in self._steps.items():
            name = type(optimizer).__name__
            if not _is_sgd(type(optimizer)):
                problem = "has no known step length, and the algorithm divides by the length of the client's steps"
                raise ConfigError(OPTIMIZER, name, problem, "use SGD, or another algorithm")
            for steps, group in zip(groups, optimizer.param_groups, strict=True):
                if any(id(parameter) in steps_of for parameter in group["params"]):
                    problem = (
                        "shares a parameter with a second optimizer: the algorithm cannot tell how far a step moves it"
                    )
                    raise ConfigError(OPTIMIZER, name, problem, "give each parameter one optimizer")
                if self._keep and any(step.momentum for step in steps):
                    problem = (
                        "keeps momentum between rounds: the algorithm cannot tell how far a step moves a parameter"
                    )
                    raise ConfigError(
                        "schedule.client_state", "keep", problem, "use reset, or an optimizer without momentum"
                    )
                steps_of |= dict.fromkeys((id(parameter) for parameter in group["params"]), steps[:count])
        return self._displacements(parameters, steps_of, self._terms if terms is None else terms)

    def _displacements(
        self,
        parameters: Mapping[str, nn.Parameter],
        steps_of: Mapping[int, list[SGDStep]],
        terms: Sequence[GradientTerm],
    ) -> dict[str, float]:
        cache: dict[tuple[int, float], float] = {}  # most parameters share steps and mu
        by_name = {}
        for name, parameter in parameters.items():
            if (steps := steps_of.get(id(parameter))) is not None:
                mu = sum(term.mu for term in terms if term.center is not None and name in term.center)
                if (key := (id(steps), mu)) not in cache:
                    cache[key] = displacement(steps, mu)
                by_name[name] = cache[key]
        return by_name


@cache
def _is_sgd(kind: type[torch.optim.Optimizer]) -> bool:
    """Return True if optimizers of a class step as torch's SGD does.

    A subclass may have another step.
    """
    return issubclass(kind, torch.optim.SGD) and unwrap(kind.step) is unwrap(torch.optim.SGD.step)
