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


@pytest.mark.parametrize("channels", [1, 3])
def test_images_on_a_cpu_have_the_bits_of_one_fused_operation(channels):
    x = torch.randint(0, 256, (5, channels, 7, 9), dtype=torch.uint8, generator=generator())
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:channels], torch.tensor([0.229, 0.224, 0.225])[:channels]
    mean, std = mean.double(), std.double()
    factor, shift = ((part.float()[:, None, None]) for part in (1 / (255 * std), -mean / std))
    normalise = Normalise(tuple(mean.tolist()), tuple(std.tolist()))
    for given in (x, x.contiguous(memory_format=torch.channels_last), x.float()):
        before = given.clone()
        result, expected = normalise(given), torch.addcmul(shift, given.float(), factor)
        assert torch.equal(result, expected)
        assert result.stride() == expected.stride()
        assert torch.equal(given, before)


def test_one_mean_is_for_all_channels_and_a_single_image_has_its_channels_first():
    normalise, x = Normalise((0.5,), (0.25,)), torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    assert normalise(x).unique().tolist() == pytest.approx([2.0])
    assert Normalise((0.0, 0.5), (1.0, 0.1))(x[:, :1]).shape == (2, 2, 4, 4)
    image = Normalise((0.0, 0.0, 0.0), (1.0, 0.5, 0.25))(x[0, :, :3])  # (3, 3, 4), with the channels first
    assert image[:, 0, 0].tolist() == pytest.approx([1.0, 2.0, 4.0])


class Squares:
    """Inputs that are computed."""

    def __getitem__(self, index):
        return index**2


def test_batches_have_the_samples_of_any_kind_of_inputs():
    images = torch.arange(6 * 3 * 4 * 4).reshape(6, 3, 4, 4)
    numbers = torch.tensor([5, 0, 5])
    for x in (images, images.contiguous(memory_format=torch.channels_last), images[:, :, ::2], Squares()):
        inputs, targets = TensorSamples(x, torch.arange(6)).select(numbers)
        assert torch.equal(inputs, x[numbers])
        assert inputs.stride() == x[numbers].stride()
        assert targets.tolist() == [5, 0, 5]


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
