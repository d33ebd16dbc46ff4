"""The configuration of the clients' Trainers, tested with one Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lightning.pytorch.accelerators import AcceleratorRegistry

from fedlit.client.trainer import TrainerConfig
from fedlit.core.errors import ConfigError, ConfigErrors, did_you_mean
from fedlit.experiment.config.trainer_values import ALLOWED_ARGS, check_trainer_values
from fedlit.server.schedule import Schedule


def make_trainer_config(trainer: Mapping[str, Any], callbacks: Callable[[], Any], schedule: Schedule) -> TrainerConfig:
    """Return the configuration of the clients' Trainers, tested with one Trainer.

    Args:
        trainer: the group `trainer`.
        callbacks: function that makes the callbacks of a fit.
        schedule: schedule of the run.

    Raises:
        ConfigError: if an argument is unknown, refused, wrong, or not available on this machine.
    """
    check_trainer_values(trainer)
    options = {key: value for key, value in trainer.items() if key in ALLOWED_ARGS}
    _check_accelerator(options.get("accelerator", "auto"), options.get("precision"))
    config = schedule.configure(TrainerConfig(options, callbacks))
    try:
        accelerator = type(config.make_trainer(*callbacks()).accelerator).__name__.removesuffix("Accelerator").lower()
    except (ConfigError, ConfigErrors):
        raise
    except Exception as error:  # Lightning raises various types
        key = next((key for key in options if key in str(error)), "")
        problem = f"is refused by lightning.Trainer: {str(error).splitlines()[0]}"
        raise ConfigError(key, options.get(key, options), problem) from error
    return replace(config, options={**options, "accelerator": accelerator})


def _check_accelerator(name: Any, precision: Any) -> None:
    """Raise ConfigError for an unavailable accelerator, or for its missing precision."""
    accelerators = ["auto", "gpu", *AcceleratorRegistry.available_accelerators()]
    if name not in accelerators:
        hint = did_you_mean(name, accelerators)
        raise ConfigError("accelerator", name, f"must be one of {', '.join(accelerators)}", hint)
    available = [known for known, entry in AcceleratorRegistry.items() if entry["accelerator"].is_available()]
    if name != "auto" and name not in available and not (name == "gpu" and {"cuda", "mps"} & set(available)):
        problem = f"is not on this machine, which has {', '.join(available)}"
        raise ConfigError("accelerator", name, problem, "trainer.accelerator=auto takes the best available one")
    is_cpu = name == "cpu" or (name == "auto" and set(available) <= {"cpu"})
    if is_cpu and str(precision) in ("16", "16-mixed"):
        problem = "is not available on a CPU, where Lightning uses bf16-mixed instead"
        raise ConfigError("precision", precision, problem, "set trainer.precision=bf16-mixed")
