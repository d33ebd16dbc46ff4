"""Programs of recorded operations: fewer operations, the same bits, memory that is used again."""

from itertools import combinations

import pytest
import torch

from fedlit.client.vectorized.recording import products
from fedlit.client.vectorized.recording.arena import Arena, Room, place_rooms
from fedlit.client.vectorized.recording.operations import OperationRecorder
from fedlit.client.vectorized.recording.products import Product
from fedlit.client.vectorized.recording.program import Program, shorten
from fedlit.core.torch_operations import observe_operations

LARGE = 1 << 13
"""Numbers of a tensor that has a room in the arena."""


def record(body, *tensors):
    """The recorded operations of a function, and the values that it returns."""
    recorder = OperationRecorder(tensors)
    with observe_operations(recorder.add):
        outputs = body(*tensors)
    return recorder, recorder.outputs(outputs)


def program(body, *tensors, arena=None):
    recorder, outputs = record(body, *tensors)
    return Program(recorder.inputs, recorder.operations, outputs, arena or Arena())


def names(body, *tensors):
    """The names of the operations that remain."""
    recorder, outputs = record(body, *tensors)
    return [operation.function.overloadpacket.__name__ for operation in shorten(recorder.operations, outputs)]


def twice(x):
    return [(x + 1).exp() * (x + 1)]


def unused(x):
    x.exp()
    return [x + 1]


def constant(x):
    return [x * torch.ones(2)]


def views(x):
    return [x.t().t().view(2, 2).t() + x.t()]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (twice, ["add", "exp", "mul"]),
        (unused, ["add"]),
        (constant, ["mul"]),
        (views, ["t", "add"]),
        (lambda x: [x + torch.rand(2), x + torch.rand(2)], ["rand", "add", "rand", "add"]),
        (lambda x: [x + 1, x + 1], ["add", "add"]),  # readers may change one of them in place
        (lambda x: [torch.ones(2), x], ["ones"]),
        (lambda x: [(x + 1).mul_(2) + (x + 1)], ["add", "mul_", "add", "add"]),
    ],
)
def test_operations_run_once_and_only_if_they_are_needed(body, expected):
    assert names(body, torch.ones(2, 2)) == expected


def chain(x, y):
    return [((x + y) * x).sub(y).exp(), torch.where(x > 0, x, y), (x * y).view(2, -1).sum(1)]


def test_a_program_has_the_bits_of_its_operations():
    run = program(chain, torch.ones(LARGE), torch.ones(LARGE))
    for seed in range(3):
        tensors = torch.randn(2, LARGE, generator=torch.Generator().manual_seed(seed)).unbind()
        for one, other in zip(run(*tensors), chain(*tensors), strict=True):
            assert torch.equal(one, other)


def test_large_results_use_the_same_memory_in_each_step():
    run = program(chain, torch.ones(LARGE), torch.ones(LARGE))
    first = [tensor.data_ptr() for tensor in run(torch.ones(LARGE), torch.ones(LARGE))[:2]]
    assert [tensor.data_ptr() for tensor in run(torch.ones(LARGE), torch.ones(LARGE))[:2]] == first


def test_programs_share_an_arena_that_grows():
    arena = Arena()
    small, large = (program(chain, torch.ones(n), torch.ones(n), arena=arena) for n in (LARGE, 2 * LARGE))
    for run, count in ((small, LARGE), (large, 2 * LARGE), (small, LARGE)):
        x, y = torch.arange(count) / count, torch.ones(count)
        assert all(torch.equal(one, other) for one, other in zip(run(x, y), chain(x, y), strict=True))


def test_the_views_of_a_result_keep_its_room():
    def body(x):
        part = (x + 1)[:LARGE]
        return [(x * 2)[:LARGE] + part, (x * 3)[:LARGE] + part]

    x = torch.randn(2 * LARGE)
    assert all(torch.equal(*pair) for pair in zip(program(body, torch.ones(2 * LARGE))(x), body(x), strict=True))


def test_a_tensor_that_is_transposed_in_place_is_another_view():
    def body(x):
        y = x.clone()
        y.t_()
        return [y.t() + 0, y + 0]

    x = torch.arange(6.0).view(2, 3)
    assert all(torch.equal(*pair) for pair in zip(program(body, torch.ones(2, 3))(x), body(x), strict=True))


@pytest.fixture
def small_products(monkeypatch):
    """Compute small products late, too."""
    monkeypatch.setattr(products, "MIN_ROW_BYTES", 1)


def late(body, *tensors, num_lasting=1):
    """For each output: is it a product of the program that is computed when it is needed?"""
    recorder, outputs = record(body, *tensors)
    run = Program(recorder.inputs, recorder.operations, outputs, Arena(), num_lasting)
    found, expected = run(*tensors), body(*tensors)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.clone(), other)
    return [isinstance(one, Product) for one in found]


def stripped(product):
    """A product, and a view of it."""
    return [product, product.view(-1)]


@pytest.mark.usefixtures("small_products")
@pytest.mark.parametrize(
    ("body", "num_lasting", "expected"),
    [
        (lambda w, x: [(w * 2).bmm(x + 1), w + 1], 1, [True, False]),
        (lambda w, x: [(w * 2).bmm(x)], 1, [True]),
        (lambda w, x: [(w * 2).transpose(1, 2).bmm(x.transpose(1, 2))], 1, [True]),
        (lambda w, x: [(w * 2).bmm(x)], 0, [False]),  # x may change before the product is computed
        (lambda w, x: [w.bmm(x + 1)], 1, [False]),  # and so may w
        (lambda w, x: [w.transpose(1, 2).bmm(x + 1)], 1, [False]),
        (lambda w, x: [(w * 2).bmm(x)], None, [False]),
        (lambda w, x: [y := (w * 2).bmm(x), y + 1], 1, [False, False]),
        (lambda w, x: stripped((w * 2).bmm(x)), 1, [False, False]),
        (lambda w, x: [(w * 2).bmm(x).view(-1)], 1, [False]),
        (lambda w, x: [(w * 2).bmm(x).add_(1)], 1, [False]),
        (lambda w, x: [(w * 2).bmm(x) + 1], 1, [False]),
    ],
)
def test_a_product_that_only_the_caller_reads_is_computed_when_it_is_needed(body, num_lasting, expected):
    tensors = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).unbind()
    assert late(body, *tensors, num_lasting=num_lasting) == expected


def test_small_products_are_computed_at_once():
    side = int((products.MIN_ROW_BYTES / 4) ** 0.5)
    for length, expected in ((side - 1, False), (side, True)):
        tensors = torch.ones(2, 2, length, length).unbind()
        assert late(lambda w, x: [(w * 2).bmm(x)], *tensors) == [expected]


def test_the_matrices_of_a_late_product_keep_their_rooms():
    def body(w, x):
        hidden = (w + x).exp()
        return [hidden.bmm(x), (w * 3).exp().sum((1, 2))]

    tensors = torch.rand(2, 2, 128, 128, generator=torch.Generator().manual_seed(0)).unbind()
    assert late(body, *tensors) == [True, False]


@pytest.mark.parametrize(
    ("length", "lengths"), [(1, [1]), (2, [2]), (3, [3]), (4, [2, 2]), (5, [2, 3]), (7, [2, 2, 3])]
)
def test_a_product_is_added_part_by_part(monkeypatch, length, lengths):
    monkeypatch.setattr(products, "PART_BYTES", 2 * 3 * 5 * 4 + 4)
    left, right = torch.randn(length, 3, 7), torch.randn(length, 7, 5)
    product, target = Product(left, right), torch.randn(length, 3, 5)
    expected = target.add(left.bmm(right), alpha=-0.3)
    product.add_to(target, -0.3)
    assert torch.allclose(target, expected)
    assert [len(part) for _, part in product.parts()] == lengths
    start = torch.randn(1, 3, 5)
    product.add_to(target, 2.0, start)
    assert torch.allclose(target, start + 2 * left.bmm(right))


def test_rooms_that_are_needed_at_the_same_time_do_not_overlap():
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(0, 3, (40,), generator=generator).cumsum(0).tolist()
    lengths, sizes = (torch.randint(0, 9, (40,), generator=generator).tolist() for _ in range(2))
    rooms = place_rooms(
        [
            Room(start, start + length, torch.Size([100 * size + 1]), torch.float32)
            for start, length, size in zip(starts, lengths, sizes, strict=True)
        ]
    )
    for one, other in combinations(rooms, 2):
        if one.start <= other.end and other.start <= one.end:
            assert one.stop <= other.offset or other.stop <= one.offset
    assert max(room.stop for room in rooms) < sum(room.shape.numel() * 4 for room in rooms) / 2
