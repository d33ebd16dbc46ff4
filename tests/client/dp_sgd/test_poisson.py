"""Poisson batches: each example on its own, empty batches included."""

from collections import deque

import numpy as np
import pytest
import torch
from private_fits import samples
from torch.utils.data import Dataset

from fedlit.client.dp_sgd.poisson import PoissonBatches
from fedlit.client.dp_sgd.private_fit import PrivateFit, PrivateTraining
from fedlit.client.dp_sgd.settings import ExamplePrivacy
from fedlit.data import Population, TensorSamples
from fedlit.data.client_data import ClientData
from fedlit.data.custom import DatasetSamples
from fedlit.data.loading import Loading

PRIVACY = ExamplePrivacy(noise_multiplier=1.0)


def numbers(rows):
    """Batches of sample numbers."""
    return TensorSamples(torch.arange(100), torch.zeros(100, dtype=torch.int64)).batches(rows, None)


def drawn(count=50, rate=0.2, shard=20, seed=0):
    sizes = deque()
    batches = PoissonBatches(numbers, np.arange(10, 10 + shard), rate, count, np.random.default_rng(seed), sizes)
    return list(batches), sizes, batches


def test_batches_are_of_the_shard_and_their_sizes_are_noted():
    batches, sizes, source = drawn()
    assert len(batches) == len(source) == 50
    assert [len(x) for x, _ in batches] == list(sizes)
    assert all(set(x.tolist()) <= set(range(10, 30)) for x, _ in batches)
    assert all(len(set(x.tolist())) == len(x) for x, _ in batches)


@pytest.mark.slow
def test_each_example_is_drawn_with_the_rate_independently_of_the_others():
    batches, sizes, _ = drawn(count=4000, rate=0.3, shard=10)
    drawn_in = np.array([[number in set(x.tolist()) for number in range(10, 20)] for x, _ in batches], dtype=float)
    error = 4 * np.sqrt(0.3 * 0.7 / 4000)
    assert np.abs(drawn_in.mean(0) - 0.3).max() < error
    assert abs(np.var(sizes) - 10 * 0.3 * 0.7) < 4 * np.sqrt(2 / 4000) * 10 * 0.3 * 0.7 * 1.2
    correlations = np.corrcoef(drawn_in.T)[np.triu_indices(10, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(4000)


def test_an_empty_batch_has_the_structure_of_the_others():
    batches, sizes, _ = drawn(count=200, rate=0.05, shard=10)
    empty = [batch for batch, size in zip(batches, sizes, strict=True) if size == 0]
    assert len(empty) > 50
    assert all(x.shape == y.shape == (0,) and x.dtype == torch.int64 for x, y in empty)


def test_a_rate_of_1_takes_all_examples_in_each_batch():
    batches, _, _ = drawn(count=3, rate=1.0)
    assert all(x.tolist() == list(range(10, 30)) for x, _ in batches)


def test_a_second_pass_draws_again_and_forgets_sizes_that_were_not_used():
    _, sizes, source = drawn()
    first = list(sizes)
    assert [len(x) for x, _ in source] == list(sizes) != first


class Records(Dataset):
    """Samples as dicts."""

    def __len__(self):
        return 6

    def __getitem__(self, number):
        return {"x": torch.full((2,), float(number)), "name": f"sample {number}"}


def client_data(train, batch=2, noise=None):
    population = Population.of(np.zeros(len(train), dtype=np.int64), 1)
    population = Population(population.index, population.offsets, noise)
    return ClientData(train, population, {}, Loading(batch_size=batch), 0)


def batches_of(data, round=0, key=0):
    return list(PrivateFit(PrivateTraining(PRIVACY, data, round, 0, 1), key).batches)


def test_a_map_style_dataset_gives_batches_of_its_own_form():
    batches = [batch for round in range(8) for batch in batches_of(client_data(DatasetSamples.of(Records(), 0)), round)]
    assert len(batches) == 24
    assert {len(batch["x"]) == 0 for batch in batches} == {True, False}
    assert all(batch["x"].shape[1:] == (2,) for batch in batches)


def test_feature_noise_differs_between_batches_and_is_the_same_again():
    data = client_data(TensorSamples(torch.zeros(4, 1000), torch.zeros(4, dtype=torch.int64)), 4, np.array([1.0]))
    (first, _), (again, _) = batches_of(data)[0], batches_of(data)[0]
    assert torch.equal(first, again)
    three = PrivateFit(PrivateTraining(PRIVACY, data, 0, 0, 1), 0).batches
    passes = torch.stack([x.flatten() for _ in range(2) for x, _ in three])
    assert abs(float(torch.corrcoef(passes)[0, 1])) < 0.1


def test_draws_depend_on_round_client_and_fit():
    data = client_data(samples(40), 8)
    keys = [(0, 0), (1, 0), (0, 1)]
    draws = [torch.cat([y for _, y in batches_of(data, *key)]).tolist() for key in keys]
    assert draws[0] != draws[1] != draws[2] != draws[0]
    assert draws[0] == torch.cat([y for _, y in batches_of(data)]).tolist()
