"""Checks of a configuration against the data, before the data is partitioned."""

from __future__ import annotations

from fedlit.core.errors import ConfigError
from fedlit.data import Data, TensorSamples
from fedlit.data.custom import DatasetSamples
from fedlit.data.protocols import Partitioner, Samples


def check_num_clients(partition: Partitioner | None, data: Data) -> list[ConfigError]:
    """Check that there is a training sample for each client.

    Args:
        partition: the partitioner; None if it could not be made.
        data: the data, after the validation set was held out.

    Returns:
        Errors, warnings included; empty if there are none.
    """
    clients = None if partition is None else partition.declared_clients
    if clients is None or clients <= len(data.train):
        return []
    why = f"is more than the {len(data.train)} training samples of {data.name}"
    return [ConfigError("partition.num_clients", clients, why, "use fewer clients")]


def check_labels(data: Data) -> list[ConfigError]:
    """Check that the labels of each split are numbers of the classes.

    Returns:
        Errors, warnings included; empty if there are none.
    """
    errors = []
    for split, samples in (("training", data.train), ("validation", data.val), ("test", data.test)):
        if isinstance(samples, TensorSamples | DatasetSamples):  # other samples would be computed for their labels
            errors += _label_errors(data, split, samples)
    return errors


def _label_errors(data: Data, split: str, samples: Samples) -> list[ConfigError]:
    labels = samples.labels()
    if labels is None or not labels.size:
        return []
    hint = "number the classes from 0; if the labels are not classes, make them floating point"
    if labels.dtype.kind not in "biuf":
        why = f"has {split} labels that are not numbers, such as '{labels.flat[0]}'"
        return [ConfigError("data", data.name, why, "number the classes from 0")]
    if labels.dtype.kind not in "iu":
        return []
    why = f"has {split} labels from {labels.min()} to {labels.max()}"
    if data.classes and not 0 <= labels.min() <= labels.max() < len(data.classes):
        why += f", but training has classes 0 to {len(data.classes) - 1}"
        return [ConfigError("data", data.name, why, hint)]
    if labels.ndim == 1 and not data.classes and labels.min() < 0:
        return [ConfigError("data", data.name, why, hint)]
    return []
