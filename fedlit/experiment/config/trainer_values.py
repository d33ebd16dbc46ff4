"""The values of the group `trainer`, checked without Lightning.

A client's Trainer takes some arguments of lightning.Trainer. The other arguments are refused, with the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from fedlit.core.errors import ConfigError

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
    "barebones": "leave it out",
    "reload_dataloaders_every_n_epochs": "leave it out",
}

REFUSED_DEFAULTS = {
    "devices": "auto",
    "num_nodes": 1,
    "strategy": "auto",
    "use_distributed_sampler": True,
    "sync_batchnorm": False,
    "max_steps": -1,
    "overfit_batches": 0.0,
    "fast_dev_run": False,
    "check_val_every_n_epoch": 1,
    "enable_autolog_hparams": True,
    "barebones": False,
    "reload_dataloaders_every_n_epochs": 0,
}
"""Default values of refused arguments other than null, which a configuration may repeat."""


def check_trainer_values(trainer: Mapping[str, Any]) -> None:
    """Raise ConfigError for an argument that is unknown, refused or wrong.

    A refused argument may have its default value.

    Args:
        trainer: the group `trainer`.
    """
    for key, value in trainer.items():
        if key not in (*ALLOWED_ARGS, *REFUSED_ARGS, "callbacks"):
            names = get_close_matches(key, (*ALLOWED_ARGS, *REFUSED_ARGS), n=1)
            hint = REFUSED_ARGS.get(names[0], f"did you mean {names[0]}?") if names else ""
            raise ConfigError(key, value, "is not an argument of lightning.Trainer", hint)
        if key in REFUSED_ARGS and value != REFUSED_DEFAULTS.get(key) and (key, value) != ("devices", 1):
            raise ConfigError(key, value, "is not allowed for a client's Trainer", REFUSED_ARGS[key])
    _check_options({key: value for key, value in trainer.items() if key in ALLOWED_ARGS})


def _check_options(options: Mapping[str, Any]) -> None:
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
