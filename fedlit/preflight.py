"""What is wrong with a configuration beyond single values: what does not go together, or not on this machine."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlit.data import Data, TensorSamples
from fedlit.data.own import MapSamples
from fedlit.facts import Facts
from fedlit.federation import Federation
from fedlit.mistakes import Mistake
from fedlit.protocols import Sampler


def facts(federation: Federation, data: Data) -> Facts:
    """What the parts are told of each other."""
    holdings, labels = federation.worker.holdings, None if data.val is None else data.val.labels()
    are_classes = labels is not None and bool(data.classes) and labels.ndim == 1 and labels.dtype.kind in "iu"
    counts = np.bincount(labels, minlength=len(data.classes)) if are_classes and labels is not None else None
    size = federation.schedule.cohort(len(federation.population))
    return Facts(
        federation.population.sizes, size, federation.splits, holdings.own_test is not None, data.classes, counts
    )


def cross_rules(federation: Federation, data: Data) -> list[Mistake]:
    """What does not go together, as each part says, and warnings of what may not be meant."""
    told = facts(federation, data)
    holdings, recipe, found = federation.worker.holdings, federation.worker.recipe, []
    parts = (
        federation.schedule,
        holdings.loading,
        federation.evaluations,
        recipe,
        federation.algorithm,
        federation.sampler,
    )
    for part in parts:
        check = getattr(part, "check", None)  # a user's own algorithm need not have rules
        found += list(check(told)) if check is not None else []
    try:
        speaks(federation.sampler, Sampler, "sampler._target_", type(federation.sampler).__name__)
    except Mistake as mistake:
        found.append(mistake)
    empty = int((told.sizes == 0).sum())
    if empty:
        why = f"{empty} of {len(told.sizes)} clients have no sample: they are sampled, but weigh nothing"
        found.append(Mistake("partition", "", why, "take fewer clients, or partition.min_samples=1", warning=True))
    return found


def more_clients_than_samples(partition: Any, data: Data) -> list[Mistake]:
    """Asked before the partition is made, which would fail."""
    clients = getattr(partition, "num_clients", None)  # a natural partition has none
    if clients is None or clients <= len(data.train):
        return []
    left = f"is more than the {len(data.train)} samples of {data.name} that are left for training"
    return [Mistake("partition.num_clients", clients, left, "take fewer clients")]


def odd_labels(data: Data) -> list[Mistake]:
    """Labels that are not those of the classes. Asked before the partition is made, which may go by them."""
    found = []
    for split, samples in (("training", data.train), ("validation", data.val), ("test", data.test)):
        if not isinstance(samples, TensorSamples | MapSamples):  # others make all of theirs to say what they are
            continue
        labels = samples.labels()
        if labels is None or not labels.size:
            continue
        if labels.dtype.kind not in "biuf":
            why = f"has {split} labels that are no numbers, such as '{labels.flat[0]}'"
            found.append(Mistake("data", data.name, why, "number the classes from 0"))
        elif labels.dtype.kind in "iu" and data.classes and not 0 <= labels.min() <= labels.max() < len(data.classes):
            why = f"has {split} labels from {labels.min()} to {labels.max()}, but training has classes 0 to "
            found.append(
                Mistake(
                    "data",
                    data.name,
                    f"{why}{len(data.classes) - 1}",
                    "number the classes from 0; floats are no classes",
                )
            )
        elif labels.dtype.kind in "iu" and labels.ndim == 1 and not data.classes and labels.min() < 0:
            why = f"has {split} labels from {labels.min()} to {labels.max()}"
            found.append(Mistake("data", data.name, why, "number the classes from 0; floats are no classes"))
    return found


def speaks(made: Any, protocol: type, key: str, target: Any) -> Any:
    """What was made, if it has the protocol's methods.

    Raises:
        Mistake: if one of them is missing.
    """
    methods = [name for name in vars(protocol) if name == "__call__" or not name.startswith("_")]
    if missing := [name for name in methods if not callable(getattr(made, name, None))]:
        why = f"makes a {type(made).__name__}, which has no {' and no '.join(missing)}"
        raise Mistake(key, target, why, f"it needs {', '.join(methods)}: see {protocol.__name__} in fedlit.protocols")
    return made
