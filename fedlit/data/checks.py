"""Checks of a configuration against the data, before the data is partitioned."""

from __future__ import annotations

from collections.abc import Mapping

from fedlit.core.errors import ConfigError
from fedlit.data import Data, TensorSamples
from fedlit.data.custom import MAX_SPARSE_CLASSES, DatasetSamples
from fedlit.data.datamodule import LoaderSettings
from fedlit.data.loading import Loading
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


def check_loaders(data: Data, loading: Loading) -> list[ConfigError]:
    """Warn of settings of the user's DataLoaders that a run replaces.

    Returns:
        Errors, all of them warnings; empty if there are none.
    """
    errors, train = [], _loader_of(data.train)
    if train is not None:
        keys = ("batch_size", "drop_last", "num_workers")
        given = {key: getattr(train, key) for key in keys if getattr(train, key) != getattr(loading, key)}
        if given:
            used = _assignments({key: getattr(loading, key) for key in given}, "data.")
            why = f"has a training loader with {_assignments(given)}, but a client's batches follow {used}"
            hint = f"{_assignments(given, '+data.')} takes the loader's; in a script, Loading({_arguments(given)})"
            errors.append(ConfigError("data", data.name, why, hint, warning=True))
        if not train.shuffle:
            why = "has a training loader without shuffle, but a client reads its shard in random order"
            errors.append(ConfigError("data", data.name, why, warning=True))
    for split, samples in (("validation", data.val), ("test", data.test)):
        loader = None if samples is None else _loader_of(samples)
        if loader is not None and loader is not train and loader.drop_last:  # a held-out split has the training loader
            why = f"has a {split} loader with drop_last, but an evaluation takes all samples"
            errors.append(ConfigError("data", data.name, why, warning=True))
    return errors


def _loader_of(samples: Samples) -> LoaderSettings | None:
    return samples.loader if isinstance(samples, DatasetSamples) else None


def _arguments(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _assignments(values: Mapping[str, object], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{key}={value}".lower() for key, value in values.items())


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
    may_be_classes = int(labels.max()) - int(labels.min()) < MAX_SPARSE_CLASSES  # a wider range is one of regression
    if labels.ndim == 1 and not data.classes and labels.min() < 0 and may_be_classes:
        return [ConfigError("data", data.name, why, hint)]
    return []
