"""What a federation trains and evaluates on, and how it becomes batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.streams import Purpose, stream, torch_stream
from fedlit.data.population import Population
from fedlit.data.protocols import Batches, Partitioner, Samples
from fedlit.data.samples import ClientTestSet, Data, Loading


@dataclass(frozen=True)
class ClientData:
    """Samples and whose they are.

    Args:
        train: samples of all clients.
        population: who owns which of them.
        splits: what the server evaluates on, by name: `val`, `test`.
        own_test: test samples of each client; None where there are none.
        loading: how samples become batches.
        seed: the experiment's.
        pooled: whether the population is one client that has everybody's samples.
    """

    train: Samples
    population: Population
    splits: Mapping[str, Samples]
    loading: Loading
    seed: int
    client_tests: ClientTestSet | None = None
    is_pooled: bool = False

    @classmethod
    def of(cls, data: Data, partition: Partitioner, loading: Loading, seed: int, pooled: bool = False) -> ClientData:
        """The data dealt out by the partition; `loading.client_test_fraction` of each shard becomes its client's own test
        set. If it is `pooled`, one client has the training samples of all; the test sets stay with those whose they are.

        Raises:
            Mistake: if the data does not have what the partition goes by.
        """
        try:
            population = partition(data.train, stream(seed, Purpose.PARTITION))
        except (ConfigError, ConfigErrors) as wrong:
            raise wrong.prefixed("partition") from wrong
        own = data.client_tests if data.client_tests is not None and _same(population, data.train.natural()) else None
        if loading.client_test_fraction > 0:
            population, held = population.split_shards(loading.client_test_fraction, stream(seed, Purpose.SPLIT, key=1))
            own = ClientTestSet(data.train, held)
        splits = {name: samples for name, samples in (("val", data.val), ("test", data.test)) if samples is not None}
        return cls(data.train, population.merge_clients() if pooled else population, splits, loading, seed, own, pooled)

    def train_batches(self, round: int, client: int, key: int = 0) -> Batches:
        """The batches of a client's local training, in an order of this round's and client's own; `key` tells a second
        training in the same round from the first."""
        loading, shard = self.loading, self.population.shard(client)
        batches = self.train.batches(
            shard, loading.local_batch_size, self.batch_order(round, client, key), drop_last=loading.drop_last
        )
        noise = self.population.noise
        if noise is None or not noise[client]:
            return batches
        return NoisyBatches(batches, float(noise[client]), torch_stream(self.seed, Purpose.NOISE, round, client, key))

    def batch_order(self, round: int, client: int, key: int = 0) -> torch.Generator:
        """The generator that decides the order of a client's samples in a round."""
        return torch_stream(self.seed, Purpose.LOADER, round, client, key)

    def shard_batches(self, client: int) -> Batches:
        """A client's samples in their order, as they are."""
        return self.train.batches(self.population.shard(client), self.loading.eval_batch_size)

    def split_batches(self, name: str) -> Batches:
        """The samples of one of the server's splits."""
        return self.splits[name].batches(None, self.loading.eval_batch_size)

    @property
    def num_client_tests(self) -> int:
        """How many clients have test samples of their own; 0 where there are none."""
        return 0 if self.client_tests is None else len(self.client_tests.population)

    def clients_to_evaluate(self, cohort: Sequence[int]) -> Sequence[int]:
        """Whose own test samples go with a cohort: theirs, or everybody's where all train in one place."""
        return range(self.num_client_tests) if self.is_pooled else cohort

    def client_test(self, client: int) -> Batches:
        """A client's own test samples."""
        assert self.client_tests is not None
        return self.client_tests.samples.batches(
            self.client_tests.population.shard(client), self.loading.eval_batch_size
        )

    def to(self, device: torch.device) -> ClientData:
        """The same samples on a device."""
        own = (
            None
            if self.client_tests is None
            else replace(self.client_tests, samples=self.client_tests.samples.to(device))
        )
        splits = {name: samples.to(device) for name, samples in self.splits.items()}
        return replace(self, train=self.train.to(device), splits=splits, client_tests=own)


def warn_unused_client_tests(data: Data, holdings: ClientData) -> list[ConfigError]:
    """A warning if clients are not evaluated on the test sets that the data has for them."""
    if data.client_tests is None:
        return []
    if (fraction := holdings.loading.client_test_fraction) > 0:
        why = f"takes the place of the test sets that {data.name} has for its clients"
        return [
            ConfigError(
                "data.client_test_fraction", fraction, why, "0 keeps them, with partition=natural", warning=True
            )
        ]
    if holdings.client_tests is None:
        why = f"has other clients than {data.name}, whose test sets for each of its own are left out"
        return [ConfigError("partition", "", why, "partition=natural has them", warning=True)]
    return []


def _same(population: Population, natural: Population | None) -> bool:
    """Whether the clients are those that the data itself names: only theirs are its clients' test samples."""
    if natural is None:
        return False
    return np.array_equal(population.offsets, natural.offsets) and np.array_equal(population.index, natural.index)


class NoisyBatches:
    """Batches whose inputs get Gaussian noise, drawn anew for each."""

    def __init__(self, batches: Batches, std: float, generator: torch.Generator) -> None:
        self.batches, self.std, self.generator = batches, std, generator

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for x, *rest in self.batches:
            noise = torch.randn(x.shape, generator=self.generator).to(x.device)
            yield (x + self.std * noise, *rest)
