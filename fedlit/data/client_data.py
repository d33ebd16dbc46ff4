"""The data of a federation by client, and its batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.streams import Purpose, stream, torch_stream
from fedlit.data.loading import Loading
from fedlit.data.population import Population
from fedlit.data.protocols import Batches, Partitioner, PartitionFunction, Samples, as_partitioner
from fedlit.data.registry import ClientRegistry
from fedlit.data.samples import ClientTestSet, Data

if TYPE_CHECKING:  # imports Lightning, which takes seconds
    from fedlit.data.datamodule import DataModule


@dataclass(frozen=True)
class ClientData:
    """Training samples with their owners, and the sets for evaluation.

    Args:
        train: training samples of all clients.
        population: the clients and their shards of `train`.
        splits: sets that the server evaluates, by name: `val`, `test`.
        loading: settings of the batches.
        seed: seed of the experiment.
        client_tests: test samples of each client; None if clients have no own test sets.
        is_pooled: True if the population is one client that has the training samples of all clients.
        datamodule: the user's LightningDataModule, whose hooks of batches a Trainer calls; None without one.
    """

    train: Samples
    population: Population
    splits: Mapping[str, Samples]
    loading: Loading
    seed: int
    client_tests: ClientTestSet | None = None
    is_pooled: bool = False
    datamodule: DataModule | None = None

    @classmethod
    def of(
        cls,
        data: Data,
        partition: Partitioner | PartitionFunction,
        loading: Loading,
        seed: int,
        pooled: bool = False,
    ) -> ClientData:
        """Partition the data among clients.

        Args:
            data: training and test sets.
            partition: a partitioner, or a function that does its work.
            loading: settings of the batches. `client_test_fraction` of each shard becomes its client's own test set.
            seed: seed of the experiment.
            pooled: True gives all training samples to one client. Each client keeps its own test set.

        Raises:
            ConfigError: if the data lacks the labels or owners that the partition needs, or `partition` is not callable.
        """
        try:
            partitioner = as_partitioner(partition)
            _check_classes(partitioner, data)
            population = partitioner(data.train, stream(seed, Purpose.PARTITION))
        except (ConfigError, ConfigErrors) as error:
            raise error.prefixed("partition") from error
        tests = data.client_tests if _is_natural(population, data) else None
        if loading.client_test_fraction > 0:
            population, held_out = population.split_shards(
                loading.client_test_fraction, stream(seed, Purpose.SPLIT, key=1)
            )
            tests = ClientTestSet(data.train, held_out)
        splits = {name: samples for name, samples in (("val", data.val), ("test", data.test)) if samples is not None}
        population = population.merge_clients() if pooled else population
        return cls(data.train, population, splits, loading, seed, tests, pooled, data.datamodule)

    def train_batches(self, round: int, client: int, key: int = 0) -> Batches:
        """Return the batches of a client's local training.

        Args:
            round: number of the round, from 0.
            client: number of the client.
            key: number of the training within the round. Each (round, client, key) has its own order of samples.
        """
        loading, shard = self.loading, self.population.shard(client)
        batches = self.train.batches(
            shard, loading.local_batch_size, self.batch_order(round, client, key), drop_last=loading.drop_last
        )
        return self.with_noise(batches, round, client, key)

    def with_noise(self, batches: Batches, round: int, client: int, key: int = 0) -> Batches:
        """Return batches of a client's training with its noise, if any."""
        noise = self.population.noise
        if noise is None or not noise[client]:
            return batches
        return NoisyBatches(batches, float(noise[client]), torch_stream(self.seed, Purpose.NOISE, round, client, key))

    def batch_order(self, round: int, client: int, key: int = 0) -> torch.Generator:
        """Return the generator of a client's order of samples."""
        return torch_stream(self.seed, Purpose.LOADER, round, client, key)

    def shard_batches(self, client: int) -> Batches:
        """Return a client's training samples in order, without augmentation or noise."""
        return self.train.batches(self.population.shard(client), self.loading.eval_batch_size)

    def split_batches(self, name: str) -> Batches:
        """Return the batches of one of the server's splits."""
        return self.splits[name].batches(None, self.loading.eval_batch_size)

    @property
    def num_client_tests(self) -> int:
        """Number of clients that have their own test set; 0 for none.

        A client's own test set may be empty, but not all of them.
        """
        return len(self.client_tests.population) if self.client_tests and self.client_tests.population.samples else 0

    def clients_to_evaluate(self, cohort: Sequence[int]) -> Sequence[int]:
        """Return the clients whose own test sets are evaluated: see `ClientRegistry`."""
        return range(self.num_client_tests) if self.is_pooled else cohort

    def client_test(self, client: int) -> Batches:
        """Return the batches of a client's own test set."""
        assert self.client_tests is not None
        return self.client_tests.samples.batches(
            self.client_tests.population.shard(client), self.loading.eval_batch_size
        )

    def registry(self) -> ClientRegistry:
        """Return the server's view of the data.

        Each call computes the digest of the whole partition.
        """
        return ClientRegistry(
            sizes=self.population.sizes,
            splits=tuple(self.splits),
            num_client_tests=self.num_client_tests,
            seed=self.seed,
            is_pooled=self.is_pooled,
            partition_sha256=partition_sha256(self),
        )

    def to(self, device: torch.device) -> ClientData:
        """Return the same data on a device."""
        tests = self.client_tests
        tests = None if tests is None else replace(tests, samples=tests.samples.to(device))
        splits = {name: samples.to(device) for name, samples in self.splits.items()}
        return replace(self, train=self.train.to(device), splits=splits, client_tests=tests)


def partition_sha256(data: ClientData) -> str:
    """Return a SHA-256 of the partition, in hexadecimal.

    It covers the owners of the training samples, the noise and the clients' own test sets.
    """
    digest = hashlib.sha256()
    tests = data.client_tests
    for population in (data.population, *(() if tests is None else (tests.population,))):
        for part in _population_bytes(population):
            digest.update(part)
    return digest.hexdigest()


def _population_bytes(population: Population) -> list[bytes]:
    """Return the bytes that identify a population."""
    index = population.index  # a range is identified by its ends
    samples = str(index).encode() if isinstance(index, range) else np.asarray(index, dtype=np.int64).tobytes()
    noise = b"" if population.noise is None else np.asarray(population.noise, dtype=np.float64).tobytes()
    return [samples, np.asarray(population.offsets, dtype=np.int64).tobytes(), noise]


def warn_unused_client_tests(data: Data, client_data: ClientData) -> list[ConfigError]:
    """Warn if the data has test sets of clients that are unused.

    Returns:
        Errors, all of them warnings; empty if there are none.
    """
    if data.client_tests is None:
        return []
    if (fraction := client_data.loading.client_test_fraction) > 0:
        why = f"replaces the test sets that {data.name} has for its clients"
        hint = "0 keeps them, with partition=natural"
        return [ConfigError("data.client_test_fraction", fraction, why, hint, warning=True)]
    if client_data.client_tests is None:
        why = f"makes other clients than those of {data.name}, so the test sets of its clients are unused"
        return [ConfigError("partition", "", why, "partition=natural uses them", warning=True)]
    return []


def _check_classes(partitioner: Partitioner, data: Data) -> None:
    """Raise ConfigError if a partition by classes meets a target of regression."""
    labels = data.train.labels() if partitioner.divides_classes and not data.classes else None
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
        return
    count = len(np.unique(labels))
    why = f"divides classes, but {data.name} has {count:,} whole numbers from {labels.min():,} to {labels.max():,}"
    hint = (
        "these count as a target of regression: use partition=iid, quantity or natural; "
        "if they are classes, number them from 0 without gaps"
    )
    raise ConfigError("", type(partitioner).__name__, why, hint)


def _is_natural(population: Population, data: Data) -> bool:
    """Return True if the data itself names these clients."""
    natural = None if data.client_tests is None else data.train.natural()
    if natural is None:
        return False
    return np.array_equal(population.offsets, natural.offsets) and np.array_equal(population.index, natural.index)


class NoisyBatches:
    """Batches with new Gaussian noise on the inputs in each pass.

    Args:
        batches: batches (inputs, ...) of floating-point inputs.
        std: standard deviation of the noise, in units of the inputs.
        generator: source of the noise, on the CPU.
    """

    def __init__(self, batches: Batches, std: float, generator: torch.Generator) -> None:
        self.batches, self.std, self.generator = batches, std, generator

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for x, *rest in self.batches:
            noise = torch.randn(x.shape, generator=self.generator).to(x.device)
            yield (x + self.std * noise, *rest)
