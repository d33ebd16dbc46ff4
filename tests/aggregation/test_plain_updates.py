"""Updates over a plain channel: the same sum, bit for bit, as with a message; every check stays."""

import weakref

import pytest
import torch

from fedlit.aggregation import Channel, Clip, Float32, MeanAggregator, blocks
from fedlit.aggregation.chunk import ChunkSum
from fedlit.aggregation.validation import invalid_values
from fedlit.core.model import FitResult, Model
from fedlit.core.tensors import Layout

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
PLACES = [("parameters", "w"), ("parameters", "b"), ("buffers", "mean"), ("control", "c")]
LARGE = 3e38
"""A float32 number whose sums overflow, and which is finite."""


class Repacked(Float32):
    """The same bytes from a codec that the channel must not pass by."""

    calls = 0

    def pack(self, vector, ticket):
        type(self).calls += 1
        return super().pack(vector, ticket)


class Whole(Clip):
    """A clip that leaves vectors as they are."""

    def factor(self, vector, ticket):
        return 1.0


class Third(Clip):
    """A clip whose factor has many digits."""

    def factor(self, vector, ticket):
        return 1 / 3


class Short(Repacked):
    """A codec that returns the numbers in another dtype."""

    def unpack(self, content, layout):
        return super().unpack(content, layout).bfloat16()


def groups(seed, dtype=torch.float32):
    """Several groups, of which one has an empty tensor, and one a number."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"parameters": {"w": (40, 30), "b": (7,), "none": (0, 3)}, "buffers": {"mean": (5,)}, "control": {"c": ()}}
    return {
        group: {
            name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for name, shape in of.items()
        }
        for group, of in shapes.items()
    }


def over(channel, updates, max_norm=None):
    """The partial aggregate of some updates and weights, and the reasons of those that are not in it."""
    chunk, reasons = ChunkSum(MeanAggregator(), channel, Layout.of(updates[0][0]), seed=3), []
    for client, (update, weight) in enumerate(updates):
        vector = chunk.layout.vector(update)
        if channel.is_plain:
            reasons.append(chunk.add_plain(vector, weight, client, {}, (), max_norm))
        elif problem := invalid_values(vector, weight, max_norm):
            chunk.count_bytes(channel.nbytes(chunk.layout))
            reasons.append(problem)
        else:
            facts = {"client": client, "round": 0, "seed": 3, "states": channel.init(chunk.layout), "own": {}}
            reasons.append(chunk.add(chunk.encode(vector, weight, **facts)[0], client, {}, (), {}))
    return chunk.partial(0), reasons


def raise_if_different(updates, max_norm=None):
    plain, reasons = over(Channel(), updates, max_norm)
    calls = Repacked.calls
    other, others = over(Channel(codec=Repacked()), updates, max_norm)
    assert Repacked.calls - calls == others.count("")
    assert reasons == others
    assert (plain.total is None) == (other.total is None)
    assert plain.total is None or torch.equal(plain.total, other.total)
    assert {client: one.tolist() for client, one in plain.sketches.items()} == {
        client: one.tolist() for client, one in other.sketches.items()
    }
    for name in ("weight", "members", "sum_of_squares", "norms", "up_bytes", "plain_bytes", "layout", "clipped"):
        assert getattr(plain, name) == getattr(other, name), name
    return plain, reasons


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [(60.0, 59.0, 61.0), (1.0, 1.0, 1.0), (0.1, 1 / 3, 0.0)])
def test_sums_norms_and_sketches_have_the_bits_of_sums_of_messages(dtype, weights):
    updates = [(groups(seed, dtype), weight) for seed, weight in enumerate(weights)]
    plain, reasons = raise_if_different(updates)
    vectors = [Layout.of(update).vector(update).double() for update, _ in updates]
    total = vectors[0] * weights[0] + vectors[1] * weights[1] + vectors[2] * weights[2]
    assert reasons == ["", "", ""]
    assert torch.equal(plain.total, total)
    assert plain.up_bytes == 3 * (8 + 4 * len(total))


def test_updates_in_blocks_have_the_bits_of_sums_of_messages(monkeypatch):
    monkeypatch.setattr(blocks, "LONG", 1000)
    monkeypatch.setattr(blocks, "BLOCK", 500)
    updates = [(groups(seed), weight) for seed, weight in enumerate((60.0, 1.0, 1 / 3))]
    plain, _ = raise_if_different(updates)
    vectors = [Layout.of(update).vector(update).double() for update, _ in updates]
    assert torch.equal(plain.total, vectors[0] * 60 + vectors[1] + vectors[2] * (1 / 3))
    assert list(plain.norms.values()) == pytest.approx([float(vector[:1207].norm()) for vector in vectors], rel=1e-14)
    infinite, huge = groups(0), groups(1)
    infinite["parameters"]["b"][-1] = float("inf")
    huge["parameters"]["w"].fill_(LARGE)
    assert raise_if_different([(infinite, 1.0), (huge, 1.0)])[1] == ["1 of 1213 numbers are NaN or infinite", ""]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("group", "name"), PLACES)
def test_each_number_that_is_not_finite_is_found_in_each_group(group, name, bad):
    update = groups(0)
    update[group][name].view(-1)[-1] = bad
    plain, reasons = raise_if_different([(groups(1), 2.0), (update, 1.0), (groups(2), 3.0)])
    size = Layout.of(update).size
    assert reasons == ["", f"1 of {size} numbers are NaN or infinite", ""]
    assert plain.members == (0, 2)
    assert plain.total.isfinite().all()


def test_infinities_of_both_signs_and_large_numbers_are_told_apart():
    infinite, large = groups(0), groups(1)
    infinite["parameters"]["w"][0, :2] = torch.tensor([float("inf"), float("-inf")])
    large["parameters"]["w"].fill_(LARGE)
    large["buffers"]["mean"].fill_(LARGE)
    _, reasons = raise_if_different([(infinite, 1.0), (large, 1.0)])
    assert reasons == [f"2 of {Layout.of(large).size} numbers are NaN or infinite", ""]


def test_numbers_that_float32_cannot_hold_are_not_finite():
    update = groups(0, torch.float64)
    update["buffers"]["mean"][0] = 1e300
    _, reasons = raise_if_different([(update, 1.0)])
    assert reasons == [f"1 of {Layout.of(update).size} numbers are NaN or infinite"]


@pytest.mark.parametrize(("group", "name"), PLACES)
def test_numbers_before_the_parameters_are_checked(group, name):
    update = groups(0)
    update["parameters"] = update.pop("parameters")  # the last group
    update[group][name].view(-1)[0] = float("nan")
    assert raise_if_different([(update, 1.0)])[1] == ["1 of 1213 numbers are NaN or infinite"]


def test_clipped_vectors_and_other_dtypes_are_added_in_float64():
    updates = [(groups(seed, torch.bfloat16), 60.0) for seed in range(2)]
    one, other = (Layout.of(update).vector(update).double() for update, _ in updates)
    clipped, _ = over(Channel.of([Third()]), updates)
    assert torch.equal(clipped.total, one * (1 / 3) * 60 + other * (1 / 3) * 60)
    short, _ = over(Channel(codec=Short()), updates)
    assert torch.equal(short.total, one * 60 + other * 60)
    assert short.total.dtype == torch.float64


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_weights_are_checked(weight):
    _, reasons = raise_if_different([(groups(0), weight)])
    assert reasons == [f"weight {weight} is not a finite number of at least 0"]


def test_the_norm_of_the_whole_update_is_checked():
    update = groups(0)
    update["buffers"]["mean"][0] = 1e4
    _, reasons = raise_if_different([(update, 1.0), (groups(1), 1.0)], max_norm=100.0)
    assert reasons == ["norm 1e+04 is above faults.max_norm=100", ""]


def test_updates_without_tensors_and_without_parameters_are_added():
    plain, _ = raise_if_different([({"parameters": {}}, 1.0), ({"parameters": {}}, 2.0)])
    assert (plain.up_bytes, plain.weight, len(plain.total)) == (0, 3.0, 0)
    plain, _ = raise_if_different([({"buffers": {"n": torch.tensor([5])}}, 2.0)])
    assert plain.total.tolist() == [10.0]
    nan = {"buffers": {"n": torch.tensor([float("nan")])}}
    assert raise_if_different([(nan, 2.0)])[1] == ["1 of 1 numbers are NaN or infinite"]


def test_the_update_is_not_changed():
    update = groups(0)
    before = {name: tensor.clone() for name, tensor in update["parameters"].items()}
    over(Channel(), [(update, 60.0), (update, 60.0)])
    assert all(torch.equal(before[name], update["parameters"][name]) for name in before)


def test_only_the_channel_without_a_stage_and_with_its_own_format_is_plain():
    assert Channel().is_plain
    assert Channel.of([Float32()]).is_plain
    assert not Channel.of([Repacked()]).is_plain
    assert not Channel.of([Whole()]).is_plain


def test_a_sum_keeps_no_model_in_memory():
    chunk, updates = ChunkSum(MeanAggregator(), Channel(), Layout.of(groups(0)), seed=3), [groups(1), groups(2)]
    models = [Model({"w": torch.ones(3)}, {}) for _ in updates]
    alive = [weakref.ref(model) for model in models]
    for client, update in enumerate(updates):
        fit = FitResult(models.pop(0), steps=2 + client, examples=10, metrics={"loss": 1.0 + client})
        assert not chunk.add_plain(chunk.layout.vector(update), 10.0, client, {}, [fit])
        del fit
    assert [model() for model in alive] == [None, None]
    partial = chunk.partial(0)
    assert (partial.steps, partial.metrics) == (5, {"loss": (30.0, 20)})
