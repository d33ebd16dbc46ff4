"""The arguments of lightning.Trainer that a client's Trainer takes.

The other arguments are refused, with the reasons.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry

from fedlit.client.trainer import TrainerConfig
from fedlit.core.errors import ConfigError, ConfigErrors, did_you_mean
from fedlit.server.schedule import Schedule

ALLOWED_ARGS = (
    *("accelerator", "precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches"),
    *("deterministic", "benchmark", "inference_mode", "detect_anomaly", "limit_train_batches"),
)
"""Arguments that have their usual meaning in a client's Trainer. `callbacks` is taken too."""

LOCAL_WORK = "schedule.local_epochs and schedule.local_steps set the local work of a client"
ONE_DEVICE = "leave it out: each client trains on one device; executor=processes trains several clients at a time"
OBSERVED = "leave it out: the observers log rounds, not single fits"
FULL_EVALUATION = "leave it out: each split is evaluated completely, every schedule.eval_every rounds"

REFUSED_ARGS = {
    **dict.fromkeys(("max_epochs", "max_steps", "min_epochs", "min_steps", "overfit_batches"), LOCAL_WORK),
    "max_time": f"{LOCAL_WORK}; a time limit would make each run different",
    "fast_dev_run": "debug=quick makes a small and quick run",
    **dict.fromkeys(("devices", "num_nodes", "strategy", "use_distributed_sampler", "sync_batchnorm"), ONE_DEVICE),
    **dict.fromkeys(("limit_val_batches", "limit_test_batches", "limit_predict_batches"), FULL_EVALUATION),
    **dict.fromkeys(("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps"), FULL_EVALUATION),
    **dict.fromkeys(("logger", "log_every_n_steps", "enable_autolog_hparams", "profiler"), OBSERVED),
    **dict.fromkeys(
        ("enable_progress_bar", "enable_model_summary"), "leave it out: observers.terminal prints the progress"
    ),
    **dict.fromkeys(("enable_checkpointing", "model_registry"), "leave it out: a run writes model.ckpt and best.ckpt"),
    "default_root_dir": "hydra.run.dir=FOLDER sets the folder of the run's files",
    "plugins": "leave it out: the federation sets its own plugins",
}


def make_trainer_config(trainer: Mapping[str, Any], callbacks: Callable[[], Any], schedule: Schedule) -> TrainerConfig:
    """Return the configuration of the clients' Trainers, tested with one Trainer.

    Args:
        trainer: the group `trainer`.
        callbacks: function that makes the callbacks of a fit.
        schedule: schedule of the run.

    Raises:
        ConfigError: if an argument is unknown, refused, wrong, or not available on this machine.
    """
    known = inspect.signature(Trainer.__init__).parameters
    options = {}
    for key, value in trainer.items():
        if key not in known or key == "self":
            raise ConfigError(key, value, "is not an argument of lightning.Trainer", did_you_mean(key, ALLOWED_ARGS))
        if key in ALLOWED_ARGS:
            options[key] = value
        elif key != "callbacks" and value != known[key].default and (key, value) != ("devices", 1):
            problem = "is not allowed for a client's Trainer"
            raise ConfigError(key, value, problem, REFUSED_ARGS.get(key, "leave it out"))
    _check_values(options)
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


def _check_values(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for a value that Lightning would silently misunderstand."""
    _check_switches(options)
    accumulate = options.get("accumulate_grad_batches", 1)
    if accumulate != 1 and (not isinstance(accumulate, int) or accumulate < 1):
        raise ConfigError("accumulate_grad_batches", accumulate, "must be a whole number of at least 1")
    limit = options.get("limit_train_batches")
    is_fraction = isinstance(limit, float) and 0 < limit <= 1
    is_count = isinstance(limit, int) and limit >= 1
    if limit is not None and (isinstance(limit, bool) or not (is_fraction or is_count)):
        problem = "must be a number of batches of at least 1, or a fraction of them greater than 0 and up to 1.0"
        raise ConfigError("limit_train_batches", limit, problem)
    clip, algorithm = options.get("gradient_clip_val"), options.get("gradient_clip_algorithm")
    is_number = isinstance(clip, int | float) and not isinstance(clip, bool)
    if clip is not None and not (is_number and 0 < clip < math.inf):
        raise ConfigError("gradient_clip_val", clip, "must be a number greater than 0", "null clips nothing")
    if clip is None and algorithm is not None:
        problem = "clips nothing without trainer.gradient_clip_val"
        raise ConfigError("gradient_clip_algorithm", algorithm, problem, "set trainer.gradient_clip_val, such as 1.0")


def _check_switches(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for a switch with a wrong value, such as 1."""
    booleans = (True, False)
    for key, allowed in (
        ("deterministic", (*booleans, "warn", None)),
        ("benchmark", (*booleans, None)),
        ("inference_mode", booleans),
        ("detect_anomaly", booleans),
    ):
        if key in options and not any(options[key] is one or options[key] == one == "warn" for one in allowed):
            words = {True: "true", False: "false", None: "null"}
            names = ", ".join(words.get(one, str(one)) for one in allowed)
            raise ConfigError(key, options[key], f"must be one of {names}")


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
