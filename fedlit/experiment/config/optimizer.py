"""A choice of another optimizer on the command line.

The default's optimizer brings its own arguments. The new one may lack some of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fedlit.experiment.config.plain import to_plain

log = logging.getLogger("fedlit")

LACKING = {
    **dict.fromkeys(("adam", "adamw", "adagrad"), ("momentum",)),
    **dict.fromkeys(("adafactor", "adadelta", "adamax", "asgd", "nadam", "radam"), ("momentum", "fused")),
    **dict.fromkeys(("rmsprop", "muon"), ("fused",)),
    **dict.fromkeys(("lbfgs", "rprop", "sparseadam"), ("momentum", "weight_decay", "fused")),
}
"""Arguments of the models' default optimizer that another optimizer of torch lacks, by its name in lower case."""


def run_values(config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The plain values of a run, for the chosen optimizer.

    Arguments of the default optimizer that it lacks are left out.

    An argument that an override gives stays, and is refused later.

    Args:
        config: the composed configuration.
        overrides: the overrides that it was composed with.

    Raises:
        ConfigErrors: see `to_plain`.
    """
    values, given = to_plain(config), _given_keys(overrides)
    optimizer = values["model"].get("optimizer")
    if not isinstance(optimizer, Mapping) or "name" not in given:
        return values
    lacking = LACKING.get(str(optimizer.get("name")).lower(), ())
    dropped = {key: optimizer[key] for key in lacking if key in optimizer and key not in given}
    if not dropped:
        return values
    rest = {key: value for key, value in optimizer.items() if key not in dropped}
    return {**values, "model": {**values["model"], "optimizer": rest}}


def log_dropped_arguments(config: DictConfig, values: Mapping[str, Any]) -> None:
    """Log the arguments that `run_values` has left out, and the rate."""
    before, after = OmegaConf.select(config, "model.optimizer"), values["model"].get("optimizer")
    if not isinstance(before, DictConfig) or not isinstance(after, Mapping):
        return
    if dropped := [f"model.optimizer.{key}={before[key]}" for key in before if key not in after]:
        log.warning(
            "left out: %s, which %s does not take; the learning rate is model.optimizer.lr=%s",
            ", ".join(dropped),
            after["name"],
            after.get("lr"),
        )


def _given_keys(overrides: Sequence[str]) -> set[str]:
    """The keys below `model.optimizer` that overrides give."""
    given = set()
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key.startswith("model.optimizer."):
            given.add(key.removeprefix("model.optimizer."))
        elif key == "model.optimizer":
            node = OmegaConf.create(value)
            given |= {str(name) for name in node} if isinstance(node, DictConfig) else set()
    return given
