"""Which arguments of lightning.Trainer a client's Trainer takes, and why it does not take the others."""

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
"""Arguments that mean in a client's Trainer what they mean anywhere; with them `callbacks`."""

WORK = "schedule.local_epochs and schedule.local_steps say how much a client trains"
ONE = "leave it out: one client at a time has one device; executor=processes trains several at a time"
WATCHED = "leave it out: the observers watch the rounds, and nobody a single fit"
WHOLE = "leave it out: splits are evaluated as a whole, every schedule.eval_every rounds"

REFUSED_ARGS = {
    **dict.fromkeys(("max_epochs", "max_steps", "min_epochs", "min_steps", "overfit_batches"), WORK),
    "max_time": f"{WORK}; by the clock no two runs are the same",
    "fast_dev_run": "debug=quick makes a small and quick run",
    **dict.fromkeys(("devices", "num_nodes", "strategy", "use_distributed_sampler", "sync_batchnorm"), ONE),
    **dict.fromkeys(("limit_val_batches", "limit_test_batches", "limit_predict_batches"), WHOLE),
    **dict.fromkeys(("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps"), WHOLE),
    **dict.fromkeys(("logger", "log_every_n_steps", "enable_autolog_hparams", "profiler"), f"see observers; {WATCHED}"),
    **dict.fromkeys(("enable_progress_bar", "enable_model_summary"), "see observers.terminal"),
    **dict.fromkeys(("enable_checkpointing", "model_registry"), "leave it out: a run leaves model.ckpt and best.ckpt"),
    "default_root_dir": "hydra.run.dir=FOLDER says where a run leaves its files",
    "plugins": "leave it out: they are the federation's own",
}


def make_trainer_config(trainer: Mapping[str, Any], callbacks: Callable[[], Any], schedule: Schedule) -> TrainerConfig:
    """How clients' Trainers are made, once one was made to try.

    Raises:
        Mistake: if an argument is unknown, or not a client's, or cannot be had on this machine.
    """
    known = inspect.signature(Trainer.__init__).parameters
    options = {}
    for key, value in trainer.items():
        if key not in known or key == "self":
            raise ConfigError(key, value, "is not an argument of lightning.Trainer", did_you_mean(key, ALLOWED_ARGS))
        if key in ALLOWED_ARGS:
            options[key] = value
        elif key != "callbacks" and value != known[key].default and (key, value) != ("devices", 1):
            why = "is not for a client's Trainer to say"
            raise ConfigError(key, value, why, REFUSED_ARGS.get(key, "leave it out"))
    _check_values(options)
    _check_accelerator(options.get("accelerator", "auto"), options.get("precision"))
    recipe = TrainerConfig(options, callbacks).with_schedule(schedule)
    try:
        accelerator = type(recipe.make_trainer(*callbacks()).accelerator).__name__.removesuffix("Accelerator").lower()
    except (ConfigError, ConfigErrors):
        raise
    except Exception as error:  # Lightning raises whatever it finds first
        given = next((key for key in options if key in str(error)), "")
        raise ConfigError(
            given, options.get(given, options), f"lightning.Trainer refuses it: {str(error).splitlines()[0]}"
        ) from error
    return replace(recipe, options={**options, "accelerator": accelerator})


def _check_values(options: Mapping[str, Any]) -> None:
    """Raises Mistake for values that Lightning takes for something else without a word."""
    switch = (True, False)
    for key, allowed in (
        ("deterministic", (*switch, "warn", None)),
        ("benchmark", (*switch, None)),
        ("inference_mode", switch),
        ("detect_anomaly", switch),
    ):
        if key in options and not any(options[key] is one or options[key] == one == "warn" for one in allowed):
            words = {True: "true", False: "false", None: "null"}
            raise ConfigError(
                key, options[key], f"must be one of {', '.join(words.get(one, str(one)) for one in allowed)}"
            )
    accumulated = options.get("accumulate_grad_batches", 1)
    if accumulated != 1 and (not isinstance(accumulated, int) or accumulated < 1):
        raise ConfigError("accumulate_grad_batches", accumulated, "must be a whole number of at least 1")
    limit = options.get("limit_train_batches")
    share, count = isinstance(limit, float) and 0 < limit <= 1, isinstance(limit, int) and limit >= 1
    if limit is not None and (isinstance(limit, bool) or not (share or count)):
        what = "must be a number of batches of at least 1, or a share of them above 0 and up to 1.0"
        raise ConfigError("limit_train_batches", limit, what)
    clip, algorithm = options.get("gradient_clip_val"), options.get("gradient_clip_algorithm")
    number = isinstance(clip, int | float) and not isinstance(clip, bool)
    if clip is not None and not (number and 0 < clip < math.inf):
        raise ConfigError("gradient_clip_val", clip, "must be a number above 0", "null clips nothing")
    if clip is None and algorithm is not None:
        why = "clips nothing without trainer.gradient_clip_val"
        raise ConfigError("gradient_clip_algorithm", algorithm, why, "trainer.gradient_clip_val=1.0 says at what")


def _check_accelerator(name: Any, precision: Any) -> None:
    accelerators = ["auto", "gpu", *AcceleratorRegistry.available_accelerators()]
    if name not in accelerators:
        raise ConfigError(
            "accelerator", name, f"must be one of {', '.join(accelerators)}", did_you_mean(name, accelerators)
        )
    there = [known for known, entry in AcceleratorRegistry.items() if entry["accelerator"].is_available()]
    if name != "auto" and name not in there and not (name == "gpu" and {"cuda", "mps"} & set(there)):
        raise ConfigError(
            "accelerator",
            name,
            f"is not on this machine, which has {', '.join(there)}",
            "trainer.accelerator=auto takes the best there is",
        )
    on_cpu = name == "cpu" or (name == "auto" and set(there) <= {"cpu"})
    if on_cpu and str(precision) in ("16", "16-mixed"):
        why = "is not for a CPU, where Lightning takes bf16-mixed in its place"
        raise ConfigError("precision", precision, why, "trainer.precision=bf16-mixed says so")
