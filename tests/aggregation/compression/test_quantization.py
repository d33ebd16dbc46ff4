"""Half precision, int8 and QSGD: their grids, unbiasedness, and exact variance."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from test_codecs import flat, normal, received, ticket

from fedlit.aggregation import Channel
from fedlit.aggregation.compression import QSGD, Half, Int8, Sign
from fedlit.aggregation.compression.segments import BLOCK, Segments, scratch
from fedlit.core.errors import ConfigError
from fedlit.core.tensors import Layout

DRAWS = 2000


def draws(codec, vector, layout=None, count=DRAWS):
    """Unpacked vectors of different clients, float64 of shape (count, d)."""
    return torch.stack([received(codec, vector, layout, client) for client in range(count)]).double()


@pytest.mark.parametrize("codec", [Int8(), QSGD(), QSGD(levels=1, bucket=None), QSGD(levels=3, bucket=16)], ids=repr)
@pytest.mark.slow
def test_stochastic_rounding_is_unbiased_and_has_the_exact_variance(codec):
    vector = normal(60)
    sent, exact = draws(codec, vector), vector.double()
    scale = exact.abs().max() if isinstance(codec, Int8) else None
    if scale is None:
        parts = exact.split(codec.bucket or len(exact))
        scale = torch.cat([part.norm().expand(len(part)) for part in parts])
    unit = scale / (127 if isinstance(codec, Int8) else codec.levels)
    up = exact / unit - (exact / unit).floor()
    variance = unit**2 * up * (1 - up)  # of a number that is rounded up with its fractional part as the probability
    error = (sent.mean(0) - exact) / (variance / DRAWS).sqrt().clamp(min=1e-12)
    moved = variance > 1e-12
    assert float(error[moved].abs().max()) < 4
    squares = (sent - exact).square()
    spread = squares.sum(1).std() / DRAWS**0.5
    assert abs(float(squares.sum(1).mean() - variance.sum())) < 4 * float(spread)


@pytest.mark.parametrize("value", [0.1, 0.30001, 0.5019, -0.777])
def test_rounding_is_unbiased_far_below_its_first_eight_bits(value):
    """A million equal numbers of about `value` levels show a bias of a thousandth of a level."""
    count = 1_000_000
    sent = received(Int8(), torch.cat([torch.ones(1), torch.full((count,), value / 127)]))[1:].double() * 127
    up = value - np.floor(value)
    assert abs(float(sent.mean()) - value) < 4 * (up * (1 - up) / count) ** 0.5


@pytest.mark.slow
def test_the_variance_of_qsgd_is_within_the_bound_of_the_paper():
    vector, codec = normal(400), QSGD(levels=4, bucket=None)
    error = (draws(codec, vector, count=500) - vector.double()).square().sum(1).mean()
    n, s, square = 400, 4, vector.double().square().sum()
    assert float(error) <= float(min(n / s**2, n**0.5 / s) * square)


def test_qsgd_rounds_to_neighbouring_levels_of_the_bucket():
    vector = normal(1000)
    for start in range(0, 1000, 512):
        part, sent = vector[start : start + 512].double(), received(QSGD(), vector)[start : start + 512].double()
        norm = part.norm()
        levels = sent / norm * 7
        assert torch.allclose(levels, levels.round(), atol=1e-5)
        assert float((levels - part / norm * 7).abs().max()) < 1


def test_error_feedback_needs_levels_above_the_root_of_the_bucket():
    assert QSGD(levels=23, bucket=512).contracts  # 23^2 = 529
    assert Channel.of([QSGD(levels=23, bucket=512)], error_feedback=True)
    for codec in (QSGD(levels=22, bucket=512), QSGD(levels=127, bucket=None), QSGD()):
        with pytest.raises(ConfigError, match="error of qsgd can be longer"):
            Channel.of([codec], error_feedback=True)


def test_a_number_takes_as_many_bits_as_the_levels_need():
    for levels, bits in [(1, 2), (3, 3), (7, 4), (8, 5), (15, 5), (127, 8)]:
        assert QSGD(levels, bucket=None).nbytes(flat(8000)) == 4 + 1000 * bits
    assert QSGD(7, bucket=512).nbytes(flat(8000)) == 4 * 16 + 4000
    assert Int8().nbytes(flat(8000)) == 4 + 8000
    assert Sign().nbytes(flat(8000)) == 4 + 1000
    assert Half().nbytes(flat(8000)) == 16000


def test_int8_rounds_to_neighbours_on_each_tensors_own_grid():
    layout = Layout((("parameters", "small", (50,)), ("parameters", "large", (50,))))
    vector = torch.cat([normal(50) * 1e-3, normal(50)])
    sent = received(Int8(), vector, layout)
    for part, own in zip(vector.split(50), sent.split(50), strict=True):
        scale = part.abs().max()
        levels = (own / scale * 127).double()
        assert torch.allclose(levels, levels.round(), atol=1e-4)
        assert float((levels - part / scale * 127).abs().max()) < 1
        assert float(own[part.abs().argmax()]) == float(part[part.abs().argmax()])
    assert received(Int8(), torch.tensor([0.0, 1.0, -1.0])).tolist() == [0.0, 1.0, -1.0]


def test_half_precision_rounds_to_the_nearest():
    vector = normal(1000)
    assert torch.equal(received(Half(), vector), vector.bfloat16().float())
    assert torch.equal(received(Half("float16"), vector), vector.half().float())
    assert float(received(Half("float16"), torch.tensor([1e5]))[0]) == float("inf")


def test_segments_agree_with_their_definition_across_blocks():
    vector = normal(2 * BLOCK + 5).numpy()
    shapes = [(10,), (0,), (BLOCK, 1), (), (BLOCK - 100,), (94,)]
    layout = Layout(tuple(("parameters", str(index), shape) for index, shape in enumerate(shapes)))
    segments = Segments.of_tensors(layout)
    parts = np.split(vector, segments.ends[:-1])
    assert [len(part) for part in parts] == segments.lengths.tolist() == [10, BLOCK, 1, BLOCK - 100, 94]
    assert segments.maxima(vector).tolist() == [np.abs(part).max() for part in parts]
    assert segments.norms(vector).tolist() == pytest.approx([np.linalg.norm(part) for part in parts], rel=1e-6)
    assert segments.absolute_sums(vector).tolist() == pytest.approx([np.abs(part).sum() for part in parts], rel=1e-5)
    scales = np.arange(5, dtype=np.float32)
    spread = np.concatenate(
        [np.broadcast_to(segments.spread(scales, block), 5) for block in (slice(8, 13), slice(BLOCK + 9, BLOCK + 14))]
    )
    assert spread.tolist() == [0, 0, 1, 1, 1, 1, 2, 3, 3, 3]
    assert Segments.of_buckets(10, 4).ends.tolist() == [4, 8, 10]
    assert Segments.of_buckets(8, 4).ends.tolist() == [4, 8]
    assert len(Segments.of_buckets(0, 0)) == 0


@pytest.mark.parametrize(
    "segments",
    [
        Segments.of_buckets(2 * BLOCK + 5, 512),
        Segments.of_buckets(2 * BLOCK + 5, 1000),
        Segments.of_buckets(2 * BLOCK + 5, 3),
        Segments.of_buckets(2 * BLOCK + 5, 2 * BLOCK + 5),
        Segments(np.array([10, BLOCK - 3, BLOCK, 2 * BLOCK - 7, 2 * BLOCK + 5])),
        Segments(np.cumsum([*[100] * (BLOCK // 100), BLOCK // 2, BLOCK // 2 + 100])),
    ],
    ids=["rows", "long", "short", "one", "tensors", "many tensors"],
)
def test_numbers_are_multiplied_and_divided_by_the_scale_of_their_segment(segments):
    size = int(segments.ends[-1])
    vector, scales = normal(size).numpy(), np.arange(1, len(segments) + 1, dtype=np.float32)
    of_each = scales.repeat(segments.lengths)
    for method, expected in ((segments.divide, vector / of_each), (segments.multiply, vector * of_each)):
        result = vector.copy()
        for start in range(0, size, BLOCK):
            block = slice(start, min(start + BLOCK, size))
            method(result[block], scales, block, out=result[block])
        assert np.array_equal(result, expected)


def test_the_random_bits_of_a_number_decide_about_no_other_number():
    """Two neighbours round up independently, also beyond one block and in one 64-bit word."""
    size, value = BLOCK + 1000, 0.5
    vector = torch.cat([torch.ones(1), torch.full((size,), value / 127)])
    up = received(Int8(), vector)[1:].mul(127).round().numpy() - value  # -0.5 or 0.5
    for lag in (1, 2, 4, 8, BLOCK):
        pairs = up[lag:] * up[:-lag] * 4
        assert abs(float(pairs.mean())) < 4 / len(pairs) ** 0.5


def test_a_large_vector_is_rounded_like_its_blocks_are():
    vector = normal(BLOCK + 100)
    sent = received(QSGD(levels=127), vector)
    assert float((sent - vector).norm() / vector.norm()) < 0.08
    whole = received(QSGD(levels=127, bucket=None), vector)
    unit = float(vector.double().norm()) / 127
    assert float((whole - vector).abs().max()) <= unit


def test_a_thread_uses_its_own_memory_again():
    own = [scratch("numbers", np.float32, 10) for _ in range(2)]
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(scratch, "numbers", np.float32, 10).result()
    assert np.shares_memory(*own)
    assert not np.shares_memory(own[0], other)
    assert not np.shares_memory(own[0], scratch("others", np.float32, 10))


def test_the_ticket_decides_the_random_numbers():
    vector = normal(100)
    first = Int8().pack(vector, ticket(flat(100)))
    assert first == Int8().pack(vector, ticket(flat(100)))
    assert first != Int8().pack(vector, ticket(flat(100), client=1))
