"""How far a client's own optimizer moves a parameter whose gradient is 1: what FedNova and SCAFFOLD divide by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from fedlit.core.errors import ConfigError
from fedlit.core.messages import GradientTerm

OPTIMIZER = "model.optimizer"
UNIT = "its steps make of a gradient of 1"


class SGDStep(NamedTuple):
    """What torch's SGD made of a gradient in one step; weight decay counts as part of the gradient.

    Args:
        scale: of the gradient: below 1 in an epoch's last step if fewer batches are left than are accumulated.
    """

    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    maximize: bool = False
    scale: float = 1.0


def displacement(strides: Iterable[SGDStep], mu: float = 0.0) -> float:
    """x - y of one number x whose gradient at y is 1 + mu * (y - x), after these steps of torch's SGD from a fresh start.

    With plain steps and mu = 0 it is the sum of the rates, and a client's x - y divided by it is the mean of the gradients
    that it met. It is lr * ||a||_1 of Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
    Optimization", NeurIPS 2020, https://arxiv.org/abs/2007.07481.
    """
    moved, buffer = 0.0, None
    for lr, momentum, dampening, nesterov, maximize, scale in strides:
        gradient = step = (-1.0 if maximize else 1.0) * (scale - mu * moved)
        if momentum:
            buffer = gradient if buffer is None else momentum * buffer + (1 - dampening) * gradient
            step = gradient + momentum * buffer if nesterov else buffer
        moved += lr * step
    return moved


SGD_KEYS = SGDStep._fields[:-1]


class DisplacementTracker:
    """Notes the strides of a fit's optimizers.

    Args:
        terms: of the fit.
        keep: whether an optimizer goes on where it was in an earlier round.
    """

    def __init__(self, terms: Sequence[GradientTerm] = (), keep: bool = False) -> None:
        self._terms, self._keep = terms, keep
        self._strides: dict[torch.optim.Optimizer, list[list[SGDStep]]] = {}

    def step(self, optimizer: torch.optim.Optimizer, scale: float = 1.0) -> None:
        """Notes that an optimizer stepped."""
        if not isinstance(optimizer, torch.optim.SGD):
            self._strides.setdefault(optimizer, [])
            return
        groups = self._strides.setdefault(optimizer, [])
        groups += [[] for _ in optimizer.param_groups[len(groups) :]]
        for strides, group in zip(groups, optimizer.param_groups, strict=True):
            strides.append(SGDStep(**{key: group[key] for key in SGD_KEYS}, scale=scale))

    def read(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, float]:
        """How far each of the parameters would have moved; those that no optimizer has are left out.

        Raises:
            Mistake: if an optimizer is not torch's SGD, two have the same parameter, or one had momentum to begin with.
        """
        taken: dict[int, list[SGDStep]] = {}
        for optimizer, groups in self._strides.items():
            if not isinstance(optimizer, torch.optim.SGD):
                why = f"steps without a common measure, and the algorithm divides by what {UNIT}"
                raise ConfigError(OPTIMIZER, type(optimizer).__name__, why, "take SGD, or another algorithm")
            for strides, group in zip(groups, optimizer.param_groups, strict=True):
                if any(id(parameter) in taken for parameter in group["params"]):
                    why = f"steps a parameter by two optimizers, and the algorithm divides by what {UNIT}"
                    raise ConfigError(OPTIMIZER, type(optimizer).__name__, why, "give each parameter one optimizer")
                if self._keep and any(stride.momentum for stride in strides):
                    why = f"goes on with the momentum of an earlier round, and the algorithm divides by what {UNIT}"
                    raise ConfigError(
                        "schedule.client_state", "keep", why, "take reset, or an optimizer without momentum"
                    )
                taken |= {id(parameter): strides for parameter in group["params"]}
        return self._read(parameters, taken)

    def _read(self, parameters: Mapping[str, nn.Parameter], taken: Mapping[int, list[SGDStep]]) -> dict[str, float]:
        known: dict[tuple[int, float], float] = {}
        found = {}
        for name, parameter in parameters.items():
            if (strides := taken.get(id(parameter))) is not None:
                mu = sum(term.mu for term in self._terms if term.center is not None and name in term.center)
                if (key := (id(strides), mu)) not in known:
                    known[key] = displacement(strides, mu)
                found[name] = known[key]
        return found
