"""What is wrong with a configuration beyond single values: what does not go together, or not on this machine."""

from __future__ import annotations

from typing import Any

from fedlit.core.errors import ConfigError
from fedlit.data import Data, TensorSamples
from fedlit.data.custom import DatasetSamples


def check_num_clients(partition: Any, data: Data) -> list[ConfigError]:
    """Asked before the partition is made, which would fail."""
    clients = getattr(partition, "num_clients", None)  # a natural partition has none
    if clients is None or clients <= len(data.train):
        return []
    left = f"is more than the {len(data.train)} samples of {data.name} that are left for training"
    return [ConfigError("partition.num_clients", clients, left, "take fewer clients")]


def check_labels(data: Data) -> list[ConfigError]:
    """Labels that are not those of the classes. Asked before the partition is made, which may go by them."""
    found = []
    for split, samples in (("training", data.train), ("validation", data.val), ("test", data.test)):
        if not isinstance(samples, TensorSamples | DatasetSamples):  # others make all of theirs to say what they are
            continue
        labels = samples.labels()
        if labels is None or not labels.size:
            continue
        if labels.dtype.kind not in "biuf":
            why = f"has {split} labels that are no numbers, such as '{labels.flat[0]}'"
            found.append(ConfigError("data", data.name, why, "number the classes from 0"))
        elif labels.dtype.kind in "iu" and data.classes and not 0 <= labels.min() <= labels.max() < len(data.classes):
            why = f"has {split} labels from {labels.min()} to {labels.max()}, but training has classes 0 to "
            found.append(
                ConfigError(
                    "data",
                    data.name,
                    f"{why}{len(data.classes) - 1}",
                    "number the classes from 0; floats are no classes",
                )
            )
        elif labels.dtype.kind in "iu" and labels.ndim == 1 and not data.classes and labels.min() < 0:
            why = f"has {split} labels from {labels.min()} to {labels.max()}"
            found.append(ConfigError("data", data.name, why, "number the classes from 0; floats are no classes"))
    return found
