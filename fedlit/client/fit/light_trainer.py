"""A Trainer that does less between the hooks of a run.

The classes use public parts of Lightning alone: a profiler, a strategy, and a property of the Trainer. Each behaves as
Lightning's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.nn import Module
from torchmetrics import Metric

from fedlit.client.fit.lightning_run import LightTrainer, use_light_loops
from fedlit.client.fit.lightning_signals import use_light_signals
from fedlit.client.lightning_logging import use_light_results
from fedlit.core.torch_internals import moves_as

ENVIRONMENT = "PL_TRAINER_"
"""Prefix of the environment variables that set arguments of Trainers."""

NO_PROFILE = nullcontext()
MOVES = frozenset(("to", "cpu", "_apply"))
"""Methods that move a module."""


class SilentProfiler(PassThroughProfiler):
    """A profiler that measures nothing: one context for all actions of Lightning."""

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        """Return a context that does nothing; the user's actions have Lightning's own."""
        return NO_PROFILE if action_name.startswith(("[", "run_")) else super().profile(action_name)


class HostStrategy(SingleDeviceStrategy):
    """Runs on the CPU, where the module always is.

    Lightning's own strategy moves all tensors to the CPU, twice in each run. That changes nothing of most modules, but a move
    gives new lists to a metric whose states are lists, and a module may have a move of its own: these are moved.
    """

    def model_to_device(self) -> None:
        """Leave the module where it is, if a move changes nothing."""
        assert self.model is not None
        if not _stays_by_a_move(self.model):
            super().model_to_device()

    def teardown(self) -> None:
        """End the run; leave the module, if a move changes nothing."""
        assert self.lightning_module is not None
        if not _stays_by_a_move(self.lightning_module):
            super().teardown()
            return
        assert self.accelerator is not None
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()


def new_trainer(**options: Any) -> Trainer:
    """Return a Trainer for one run of a module.

    The module is on the CPU. The Trainer ignores the environment of a cluster, in which it would install a handler of signals.

    Args:
        options: arguments of a Trainer, with one device, no profiler and no plugins.
    """
    options["plugins"] = [LightningEnvironment()]
    if _has_environment_arguments():
        trainer = Trainer(**options)
    else:
        if _runs_on_host(options):
            options["strategy"] = HostStrategy()
        trainer = LightTrainer(**options, profiler=SilentProfiler())
        use_light_loops(trainer)
    use_light_results(trainer)
    use_light_signals(trainer)
    return trainer


def _runs_on_host(options: Mapping[str, Any]) -> bool:
    accelerator = options.get("accelerator", "auto")
    return options.get("strategy", "auto") == "auto" and (
        accelerator == "cpu" or (accelerator == "auto" and _automatic_device() == "cpu")
    )


@cache
def _has_environment_arguments() -> bool:
    """Return True if an environment variable sets an argument."""
    return any(name.startswith(ENVIRONMENT) for name in os.environ)


@cache
def _automatic_device() -> str:
    """Return the type of the device that Lightning chooses."""
    return Trainer(accelerator="auto", devices=1, logger=False, enable_checkpointing=False).strategy.root_device.type


def _stays_by_a_move(module: Module) -> bool:
    """Return True if a move from CPU to CPU changes nothing."""
    if not _has_usual_moves(type(module)):
        return False
    if any(not MOVES.isdisjoint(vars(part)) for part in module.modules()):
        return False
    kinds = [(_usual_move(type(part)), part) for part in module.modules()]
    return all(base is Module or (base is Metric and not _has_lists(part)) for base, part in kinds)  # type: ignore[arg-type]


@cache
def _usual_move(kind: type[Module]) -> type[Module] | None:
    """Return the class of torch or torchmetrics whose move a class has.

    None if it has a move of its own.
    """
    base = Metric if issubclass(kind, Metric) else Module
    return next((usual for usual in (Module, base) if moves_as(kind, usual)), None)


@cache
def _has_usual_moves(kind: type) -> bool:
    return all(getattr(kind, method, None) is getattr(LightningModule, method) for method in ("to", "cpu"))


def _has_lists(metric: Metric) -> bool:
    return any(isinstance(state, list) for state in metric.metric_state.values())
