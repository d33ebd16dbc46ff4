"""What holds for every codec: bytes and back, exact lengths, the same bytes again, numbers that are not finite."""

import numpy as np
import pytest
import torch

from fedlit.aggregation import Ticket
from fedlit.aggregation.channel.exact import ExactParts, LayoutSplit
from fedlit.aggregation.compression import QSGD, Half, Int8, RandK, Sign, TopK
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.tensors import Layout

CODECS = [
    Half(),
    Half("float16"),
    Int8(),
    QSGD(),
    QSGD(levels=1, bucket=None),
    QSGD(levels=127, bucket=3),
    TopK(0.01),
    TopK(0.3),
    TopK(1.0),
    Sign(),
    Sign("majority"),
]
SHAPES = [(), (1,), (3, 7), (0,), (129,), (2, 3, 5)]
LAYOUT = Layout(tuple(("parameters", f"w{index}", shape) for index, shape in enumerate(SHAPES)))


def flat(size):
    return Layout((("parameters", "w", (size,)),))


def ticket(layout, client=0):
    return Ticket(round=0, client=client, seed=0, weight=1.0, stage="codec", layout=layout)


def received(codec, vector, layout=None, client=0):
    """The vector that the server unpacks."""
    layout = layout or flat(len(vector))
    content = bytearray(codec.pack(vector, ticket(layout, client)))
    assert len(content) == codec.nbytes(layout)
    unpacked = codec.unpack(memoryview(content), layout)
    assert unpacked.dtype == torch.float32
    assert unpacked.shape == vector.shape
    return unpacked


def normal(size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=size).astype(np.float32))


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_a_vector_is_packed_to_the_stated_length_and_stays_unchanged(codec):
    for vector, layout in [(normal(LAYOUT.size), LAYOUT), (normal(70_000), flat(70_000))]:
        before = vector.clone()
        first, again = received(codec, vector, layout), received(codec, vector, layout)
        assert torch.equal(vector, before)
        assert torch.equal(first, again)
        assert bool(first.isfinite().all())


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("size", [0, 1, 2, 8])
def test_short_vectors_and_zeros_are_packed(codec, size):
    assert len(received(codec, normal(size))) == size
    zeros = received(codec, torch.zeros(size))
    assert zeros.abs().tolist() == [float(codec == Sign("majority"))] * size  # a vote is + or -


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec.linear and codec != Half()], ids=repr)
def test_a_single_number_is_sent_almost_exactly(codec):
    assert received(codec, torch.tensor([-2.5e-3])).tolist() == pytest.approx([-2.5e-3], rel=1e-3)


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec.linear], ids=repr)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_reaches_the_server(codec, value):
    for vector in (torch.full((300,), value), normal(300).index_fill(0, torch.tensor([137]), value)):
        assert not bool(received(codec, vector).isfinite().all())


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec.linear], ids=repr)
@pytest.mark.parametrize("scale", [1e-42, 1e-20, 1e4])
def test_very_small_and_large_vectors_are_packed(codec, scale):
    vector = normal(200) * scale
    error = (received(codec, vector) - vector).double().norm() / vector.double().norm()
    assert float(error) < 20


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize(
    "tensors",
    [
        [("parameters", (40,)), ("buffers", (3,)), ("buffers", ())],
        [("buffers", (3,)), ("parameters", (40,))],
        [
            ("parameters", (20,)),
            ("h", ()),
            ("control", (4, 5)),
            ("parameters", ()),
            ("buffers", (2,)),
            ("control", (7,)),
        ],
        [("buffers", (3,))],
        [("parameters", (40,))],
    ],
    ids=str,
)
def test_buffers_and_single_numbers_are_sent_exactly(codec, tensors):
    layout = Layout(tuple((group, f"{index}", shape) for index, (group, shape) in enumerate(tensors)))
    vector, split = normal(layout.size), LayoutSplit.of(layout)
    is_exact = torch.cat([torch.full(shape, g == "buffers" or shape == ()).view(-1) for g, shape in tensors])
    unpacked = received(ExactParts(codec), vector, layout)
    assert torch.equal(unpacked[is_exact], vector[is_exact])
    assert torch.equal(unpacked[~is_exact], received(codec, vector[~is_exact], split.rest))
    assert torch.equal(split.take(vector, True), vector[is_exact])
    assert torch.equal(split.join(vector[~is_exact], vector[is_exact]), vector)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_random_numbers_differ_between_clients(codec):
    is_random = isinstance(codec, Int8 | QSGD)
    assert torch.equal(received(codec, normal(500)), received(codec, normal(500), client=1)) != is_random


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Half("float8"), "dtype"),
        (lambda: QSGD(levels=0), "levels"),
        (lambda: QSGD(levels=128), "levels"),
        (lambda: QSGD(bucket=0), "bucket"),
        (lambda: TopK(0.0), "fraction"),
        (lambda: TopK(1.5), "fraction"),
        (lambda: TopK(float("nan")), "fraction"),
        (lambda: RandK(-0.1), "fraction"),
        (lambda: Sign("most"), "vote"),
        (lambda: Sign("majority", step=0.0), "step"),
    ],
)
def test_an_invalid_argument_is_refused(make, key):
    with pytest.raises((ConfigError, ConfigErrors)) as error:
        make()
    assert [problem.key for problem in error.value.errors] == [key]
