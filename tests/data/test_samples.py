import numpy as np
import pytest
import torch

from fedlit.core.errors import ConfigError
from fedlit.data import Data, Normalise, TensorSamples
from fedlit.data.loading import Loading

X = torch.arange(24, dtype=torch.uint8).reshape(6, 1, 2, 2) * 10
SAMPLES = TensorSamples(X, torch.arange(6), Normalise((0.5,), (0.25,)))


def generator():
    return torch.Generator().manual_seed(1)


def test_batches_without_a_generator_are_in_order():
    batches = list(SAMPLES.batches(np.array([4, 1, 2]), 2))
    assert [y.tolist() for _, y in batches] == [[4, 1], [2]]
    assert len(SAMPLES.batches(np.array([4, 1, 2]), 2)) == 2


def test_images_are_normalised_a_batch_at_a_time():
    ((x, _),) = SAMPLES.batches(None, None)
    assert torch.allclose(x, (X.double() / 255 - 0.5).float() / 0.25)
    assert x.dtype == torch.float32
    assert SAMPLES.x.dtype == torch.uint8


def test_two_channels_have_their_own_mean_and_std():
    x = Normalise((0.0, 0.5), (1.0, 0.1))(torch.full((1, 2, 1, 1), 255, dtype=torch.uint8))
    assert torch.allclose(x.flatten(), torch.tensor([1.0, 5.0]))


def test_each_pass_has_its_own_order_and_the_generator_decides():
    batches = SAMPLES.batches(None, 2, generator())
    first, second = ([label for _, y in batches for label in y.tolist()] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(6))
    assert first != second
    assert [label for _, y in SAMPLES.batches(None, 2, generator()) for label in y.tolist()] == first


def test_the_order_of_a_pass_is_a_permutation_of_torch():
    shard = np.array([4, 1, 2, 5, 0])
    batches, source = SAMPLES.batches(shard, 2, generator(), drop_last=True), generator()
    for _ in range(2):
        order = shard[torch.randperm(5, generator=source).numpy()][:4].tolist()
        assert [y.tolist() for _, y in batches] == [order[:2], order[2:]]


def test_only_training_batches_are_augmented():
    samples = TensorSamples(X, torch.arange(6), None, augment=lambda x: x + 1)
    assert torch.equal(torch.cat([x for x, _ in samples.batches(None, 4)]), X)
    augmented = {int(y[0]): x for x, y in samples.batches(None, 1, generator())}
    assert all(torch.equal(x, X[[y]] + 1) for y, x in augmented.items())


def test_an_empty_shard_has_no_batch():
    assert list(SAMPLES.batches(np.array([], dtype=np.int64), None, generator())) == []
    assert len(SAMPLES.batches(np.array([], dtype=np.int64), 3)) == 0


def test_the_whole_shard_can_be_a_batch():
    assert len(SAMPLES.batches(np.array([1, 2, 3]), None)) == 1


def data(augment=None):
    return Data("d", TensorSamples(torch.arange(50), torch.arange(50), None, augment), SAMPLES, (1,), ("a",))


def test_held_out_samples_are_not_in_the_training_set():
    held = data(augment=torch.neg).hold_out(0.25, np.random.default_rng(0))
    assert held.val is not None
    assert len(held.val) == 12
    assert sorted(held.val.y.tolist() + held.train.y.tolist()) == list(range(50))
    assert all(torch.equal(x, y) for x, y in held.val.batches(None, 4))  # not augmented without a generator
    assert held.train.augment is torch.neg


def test_a_tenth_is_held_out_by_default_unless_the_data_has_a_validation_set():
    held = data().hold_out(None, np.random.default_rng(0))
    assert len(held.val) == 5
    assert held.hold_out(None, np.random.default_rng(0)) is held
    with pytest.raises(ConfigError, match="brings its own validation set"):
        held.hold_out(0.2, np.random.default_rng(0))


def test_fraction_0_holds_out_nothing():
    assert data().hold_out(0.0, np.random.default_rng(0)).val is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch_size", 0), ("batch_size", "ful"), ("eval_batch_size", 0), ("val_fraction", 1.0), ("val_fraction", -0.1)],
)
def test_wrong_values_are_named(key, value):
    with pytest.raises(ConfigError) as error:
        Loading(**{key: value})
    assert error.value.key == key


def test_batch_size_full_is_the_whole_shard():
    assert Loading(batch_size="full").local_batch_size is None
    assert Loading(batch_size=7).local_batch_size == 7
