import numpy as np
import pytest
import torch

from fedlit.core.errors import ConfigError
from fedlit.data import Natural
from fedlit.data.sources.synthetic import synthetic, synthetic_hybrid


def one_client(**arguments):
    data = synthetic(**{"clients": 5, "samples": 4000, "test_samples": 0, "val_samples": 0, **arguments})
    ((x, y),) = data.train.batches(data.train.natural().shard(2), None)
    return x.numpy(), y.numpy()


def test_a_sample_does_not_depend_on_its_batch():
    data = synthetic(clients=20, samples=7)
    population = Natural()(data.train, np.random.default_rng(0))
    whole = data.train.subset(np.arange(len(data.train)))
    for client in (0, 3, 19):
        ((x, y),) = data.train.batches(population.shard(client), None)
        assert torch.equal(x, whole.x[population.shard(client)])
        assert torch.equal(y, whole.y[population.shard(client)])
    mixed = np.array([3, 100, 5, 99])
    assert torch.equal(data.train.subset(mixed).x, whole.x[mixed])
    assert np.array_equal(data.train.labels(mixed), whole.y[mixed].numpy())


def test_inputs_have_the_papers_variances():
    x, _ = one_client()
    assert np.allclose(x.var(0), np.arange(1, 61) ** -1.2, rtol=0.12)


def shards(**arguments):
    data = synthetic(**{"clients": 60, "samples": 200, "alpha": 0.0, "beta": 0.0, **arguments})
    return [next(iter(data.train.batches(data.train.natural().shard(client), None))) for client in range(60)]


def test_clients_inputs_differ_more_with_a_larger_beta():
    one, other = (np.array([float(x.mean()) for x, _ in shards(beta=beta)]).std() for beta in (0.0, 5.0))
    assert other > 10 * one


def test_alpha_shifts_all_classes_alike_as_in_the_paper():
    for (x, y), (other_x, other_y) in zip(shards(alpha=0.0), shards(alpha=5.0), strict=True):
        assert torch.equal(x, other_x)
        assert (y == other_y).float().mean() > 0.99


def test_each_client_has_its_own_labelling_model():
    shares = np.array([np.bincount(y.numpy(), minlength=10) / len(y) for _, y in shards()])
    assert shares.std(0).mean() > 0.1


def test_iid_clients_share_one_labelling_model():
    data = synthetic(clients=40, samples=100, iid=True)
    shards = [next(iter(data.train.batches(data.train.natural().shard(client), None))) for client in range(40)]
    means = np.array([x.mean(0).numpy() for x, _ in shards])
    assert np.abs(means.mean(0)).max() < 0.1
    x = torch.cat([x for x, _ in shards[:20]])
    y = torch.cat([y for _, y in shards[:20]])
    weights = torch.linalg.lstsq(x, torch.nn.functional.one_hot(y, 10).float()).solution
    others = torch.cat([x for x, _ in shards[20:]])
    accuracy = ((others @ weights).argmax(1) == torch.cat([y for _, y in shards[20:]])).float().mean()
    assert accuracy > 0.6


def test_sizes_are_lognormal_and_at_least_50():
    sizes = synthetic(clients=20_000).train.natural().sizes
    assert sizes.min() >= 50
    assert np.log(np.maximum(sizes - 50, 1)).mean() == pytest.approx(4, abs=0.1)


def test_test_samples_have_the_given_number_and_belong_to_no_client():
    data = synthetic(clients=30, samples=50, test_samples=101, val_samples=40)
    assert (len(data.test), len(data.val)) == (101, 40)
    train = {tuple(row) for row in data.train.subset(np.arange(1500)).x.tolist()}
    assert not train & {tuple(row) for row in data.test.x.tolist()}
    assert not {tuple(row) for row in data.val.x.tolist()} & {tuple(row) for row in data.test.x.tolist()}


def test_clients_keep_their_other_samples_when_some_are_held_out():
    data = synthetic(clients=4, samples=10, val_samples=0)
    held = data.hold_out(0.25, np.random.default_rng(0))
    population = Natural()(held.train, np.random.default_rng(0))
    assert (len(population), population.samples, len(held.val)) == (4, 30, 10)
    for client in range(4):
        own = {tuple(row) for row in data.train.subset(data.train.natural().shard(client)).x.tolist()}
        assert {tuple(row) for row in held.train.x[population.shard(client)].tolist()} <= own


def test_a_million_clients_need_no_samples_in_memory():
    data = synthetic(clients=1_000_000, samples=20)
    population = data.train.natural()
    assert len(data.train) == 20_000_000
    assert isinstance(population.index, range)
    assert population.shard(999_999).tolist() == list(range(19_999_980, 20_000_000))
    assert len(population.statistics(data.train.labels, 10)["label_counts"]) == 1000


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clients", 0),
        ("samples", 0),
        ("alpha", -1.0),
        ("beta", float("inf")),
        ("classes", 1),
        ("test_samples", -1),
        ("val_samples", -1),
        ("seed", -1),
    ],
)
def test_wrong_values_are_named(key, value):
    with pytest.raises(ConfigError) as error:
        synthetic(**{key: value})
    assert error.value.key == key


def test_half_of_the_hybrid_clients_are_alike():
    hybrid, iid, other = (
        synthetic_hybrid(clients=8, test_samples=0),
        synthetic(clients=8, samples=40, iid=True),
        synthetic(clients=8, samples=40),
    )
    for client in range(8):
        x, y = (tensor[:40] for tensor in next(iter(hybrid.train.batches(hybrid.train.natural().shard(client), None))))
        like = iid if client < 4 else other
        expected = next(iter(like.train.batches(like.train.natural().shard(client), None)))
        assert torch.equal(x, expected[0])
        assert torch.equal(y, expected[1])


def test_the_hybrid_clients_have_the_papers_sizes():
    """12,697 samples of 100 devices: 127 with a standard deviation of 73."""
    sizes = synthetic_hybrid(clients=20_000, test_samples=0).train.natural().sizes
    assert np.log(np.maximum(sizes - 50, 1)).std() == pytest.approx(1, abs=0.1)
    totals = [len(synthetic_hybrid(test_samples=0, seed=seed).train) for seed in range(30)]
    assert min(totals) < 12_697 < max(totals)


@pytest.mark.parametrize(("key", "value"), [("clients", 0), ("test_samples", -1), ("seed", -1)])
def test_wrong_values_of_hybrid_data_are_named(key, value):
    with pytest.raises(ConfigError) as error:
        synthetic_hybrid(**{key: value})
    assert error.value.key == key
