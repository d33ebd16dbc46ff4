"""Observation of the optimizer steps on a module's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from fedlit.client.steps.rates import ParamGroup, ScaledRates

Closure = Callable[..., Any]


@dataclass
class OpenStep:
    """A step that has begun.

    Args:
        optimizer: the optimizer that takes the step.
        scaled: parameter groups whose rates are scaled until the step ends.
        has_gradients: True if a parameter has a gradient; a step without one moves nothing. It is False
            for a step inside another one.
        has_begun: True if a closure has computed gradients.
    """

    optimizer: Optimizer
    scaled: list[ParamGroup] = field(default_factory=list)
    has_gradients: bool = False
    has_begun: bool = False


class StepObserver:
    """Scales the learning rates of optimizer steps, and reports each step.

    All optimizers that step on the module's parameters are observed, also those that the module does not return from
    `configure_optimizers`. A step inside another step is part of it: an optimizer may call another one, or its base class.
    A step that a closure takes is a step of its own.

    Args:
        rates: factor on the learning rates; None for the module's own rates.
        on_begin: is called before the weights of a step change, when its gradients are known.
        on_closure: is called with an optimizer and the loss that a closure returned, and returns the loss for the optimizer.
        on_step: is called with the optimizer after each step that had gradients, while the rates are those of the step.
    """

    def __init__(
        self,
        rates: ScaledRates | None,
        on_begin: Callable[[], None],
        on_closure: Callable[[Optimizer, Tensor], Tensor],
        on_step: Callable[[Optimizer], None],
    ) -> None:
        self._rates, self._on_begin, self._on_closure, self._on_step = rates, on_begin, on_closure, on_step
        self._parameters: set[int] = set()
        self._known: WeakKeyDictionary[Optimizer, bool] = WeakKeyDictionary()  # True if it has parameters of the module
        self._open: list[OpenStep] = []
        self._handles: list[Any] = []

    @contextmanager
    def observe(self) -> Iterator[None]:
        """Observe the steps inside the block."""
        self._handles = [register_optimizer_step_pre_hook(self._meet), register_optimizer_step_post_hook(self._end)]
        try:
            yield
        finally:
            for handle in self._handles:
                handle.remove()

    def set_parameters(self, parameters: Iterable[nn.Parameter]) -> None:
        """Set the parameters that are observed."""
        self._parameters = {id(parameter) for parameter in parameters}

    def _meet(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Hook into an optimizer before its first step.

        Its other hooks are older and run before: they may set its rates.
        """
        if optimizer not in self._known:
            parameters = (p for group in optimizer.param_groups for p in group["params"])
            self._known[optimizer] = any(id(parameter) in self._parameters for parameter in parameters)
            if self._known[optimizer]:
                self._handles.append(optimizer.register_step_pre_hook(self._begin))

    def _begin(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        step = OpenStep(optimizer, [] if self._rates is None else self._rates.scale(optimizer))
        self._open.append(step)
        if len(self._open) > 1:
            return None
        if len(args) > 1 and args[1] is not None:
            return (args[0], self._observed(args[1], step), *args[2:]), kwargs
        if kwargs.get("closure") is not None:
            return args, {**kwargs, "closure": self._observed(kwargs["closure"], step)}
        step.has_gradients = has_gradients(optimizer)
        self._on_begin()
        return None

    def _observed(self, closure: Closure, step: OpenStep) -> Closure:
        """Return the closure, which then sees the module's own rates."""

        def observed(*args: Any, **kwargs: Any) -> Any:
            paused = [] if self._rates is None else self._rates.pause()
            outer, self._open = self._open, []  # a step that user code takes in the closure is one of its own
            try:
                loss = closure(*args, **kwargs)
            finally:
                self._open = outer
            if self._rates is not None:
                self._rates.resume(paused)
            if not step.has_begun:
                step.has_begun = True
                self._on_begin()
            step.has_gradients |= has_gradients(step.optimizer)
            return self._on_closure(step.optimizer, loss) if isinstance(loss, Tensor) else loss

        return observed

    def _end(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if all(step.optimizer is not optimizer for step in self._open):
            return
        while (step := self._open.pop()).optimizer is not optimizer:
            self._close(step)  # it raised an exception, and the optimizer around it caught the exception
        if step.has_gradients:
            self._on_step(optimizer)
        self._close(step)

    def close_all(self) -> None:
        """Close steps that did not end.

        Between two batches these are steps that raised an exception which user code caught.
        """
        while self._open:
            self._close(self._open.pop())

    def _close(self, step: OpenStep) -> None:
        if self._rates is not None:
            self._rates.restore(step.scaled)


def has_gradients(optimizer: Optimizer) -> bool:
    """Return True if a parameter of the optimizer has a gradient."""
    return any(parameter.grad is not None for group in optimizer.param_groups for parameter in group["params"])
