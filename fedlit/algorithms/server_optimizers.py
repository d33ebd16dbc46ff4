"""Server optimizers: momentum and adaptive methods that act on the mean update.

The mean update D points to where the model should go. So these are torch's and the papers' rules with -D as the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fedlit.core.errors import ConfigError, raise_errors, require, require_positive
from fedlit.core.tensors import Tensors, float64_zeros

if TYPE_CHECKING:
    from torch import Tensor

Slots = Mapping[str, Tensors]


class ServerOptimizer(Protocol):
    """Make the server's step of the parameters' mean update.

    Buffers do not pass through it.
    """

    def init(self, parameters: Tensors) -> Slots:
        """The optimizer's state before round 1."""
        ...

    def step(self, mean: Tensors, slots: Slots) -> tuple[Tensors, Slots]:
        """Make one step.

        Returns:
            The step to add to the parameters, and the new state.
        """
        ...


@dataclass(frozen=True)
class Momentum:
    """Momentum on the server.

    v <- momentum * v + D, x <- x + lr * v; the first v is the first D.

    Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019,
    https://arxiv.org/abs/1909.06335 (FedAvgM).

    Args:
        lr: the server's learning rate, > 0.
        momentum: decay of v, in [0, 1).
    """

    lr: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        raise_errors(require_positive("lr", self.lr), _decay("momentum", self.momentum))

    def init(self, parameters: Tensors) -> Slots:
        """A velocity of 0."""
        return {"velocity": float64_zeros(parameters)}

    def step(self, mean: Tensors, slots: Slots) -> tuple[Tensors, Slots]:
        """Return lr * v and the new velocity."""
        velocity = {name: self.momentum * slots["velocity"][name] + delta for name, delta in mean.items()}
        return {name: self.lr * v for name, v in velocity.items()}, {"velocity": velocity}


@dataclass(frozen=True)
class AdaptiveOptimizer:
    """An adaptive method on the server.

    m <- beta1 * m + (1 - beta1) * D, then v by the method's rule, then x <- x + lr * m / (sqrt(v) + tau).

    Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, "Adaptive Federated Optimization", ICLR 2021, Algorithm 2,
    https://arxiv.org/abs/2003.00295. There is no bias correction, and v starts at tau^2.

    Args:
        rule: update rule of v: `Adam`, `Yogi` or `Adagrad`.
        lr: the server's learning rate, > 0.
        beta1: decay of m, in [0, 1).
        tau: degree of adaptivity, > 0; smaller is more adaptive.
    """

    rule: SecondMoment
    lr: float = 0.01
    beta1: float = 0.9
    tau: float = 1e-3

    def __post_init__(self) -> None:
        raise_errors(require_positive("lr", self.lr), _decay("beta1", self.beta1), require_positive("tau", self.tau))

    def init(self, parameters: Tensors) -> Slots:
        """Moments m = 0 and v = tau^2."""
        zeros = float64_zeros(parameters)
        return {"m": zeros, "v": {name: zero + self.tau**2 for name, zero in zeros.items()}}

    def step(self, mean: Tensors, slots: Slots) -> tuple[Tensors, Slots]:
        """Return lr * m / (sqrt(v) + tau) and the new moments."""
        m = {name: self.beta1 * slots["m"][name] + (1 - self.beta1) * delta for name, delta in mean.items()}
        v = {name: self.rule(slots["v"][name], delta.square()) for name, delta in mean.items()}
        return {name: self.lr * m[name] / (v[name].sqrt() + self.tau) for name in mean}, {"m": m, "v": v}


class SecondMoment(Protocol):
    """Update rule of the second moment."""

    def __call__(self, v: Tensor, square: Tensor) -> Tensor:
        """Return the next v, given the square of the mean update."""
        ...


@dataclass(frozen=True)
class Adam:
    """The rule of Adam.

    v <- beta2 * v + (1 - beta2) * D^2, beta2 in [0, 1).
    """

    beta2: float = 0.99

    def __post_init__(self) -> None:
        raise_errors(_decay("beta2", self.beta2))

    def __call__(self, v: Tensor, square: Tensor) -> Tensor:
        """Return the next v, given the square of the mean update."""
        return self.beta2 * v + (1 - self.beta2) * square


@dataclass(frozen=True)
class Yogi:
    """The rule of Yogi.

    v <- v - (1 - beta2) * D^2 * sign(v - D^2), beta2 in [0, 1).
    """

    beta2: float = 0.99

    def __post_init__(self) -> None:
        raise_errors(_decay("beta2", self.beta2))

    def __call__(self, v: Tensor, square: Tensor) -> Tensor:
        """Return the next v, given the square of the mean update."""
        return v - (1 - self.beta2) * square * (v - square).sign()


@dataclass(frozen=True)
class Adagrad:
    """The rule of Adagrad: v <- v + D^2."""

    def __call__(self, v: Tensor, square: Tensor) -> Tensor:
        """Return the next v, given the square of the mean update."""
        return v + square


def _decay(key: str, value: float) -> ConfigError | None:
    return require(0 <= value < 1, key, value, "must be at least 0 and below 1")
