import pytest
import torch

from fedlit.core import tensors as t
from fedlit.core.errors import ConfigError

A = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}
B = {"w": torch.tensor([10.0, 20.0]), "b": torch.tensor(30.0)}


def same(result, w, b):
    assert result["w"].tolist() == w
    assert float(result["b"]) == b


def test_arithmetic_is_name_by_name():
    same(t.add(A, B), [11.0, 22.0], 33.0)
    same(t.sub(B, A), [9.0, 18.0], 27.0)
    same(t.scale(2.0, A), [2.0, 4.0], 6.0)
    same(t.axpy(2.0, A, B), [12.0, 24.0], 36.0)
    same(t.zeros_like(A), [0.0, 0.0], 0.0)


def test_norm_is_over_all_tensors_jointly():
    assert t.norm({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}) == 5.0


def test_no_function_changes_its_arguments():
    t.axpy(2.0, A, B)
    same(A, [1.0, 2.0], 3.0)
    same(B, [10.0, 20.0], 30.0)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_integer_moves_by_at_most_what_float32_represents(sign):
    old = torch.tensor([5, 7])
    assert t.difference("count", old + sign * torch.tensor([2**24, 0]), old).tolist() == [sign * 2**24, 0]
    with pytest.raises(ConfigError, match=r"cannot average count: an integer moved by more than 16,777,216"):
        t.difference("count", old + sign * torch.tensor([2**24 + 1, 0]), old)


def test_a_difference_is_0_where_nothing_changed_and_small_types_do_not_wrap_around():
    infinite = torch.tensor([float("inf"), 1.0])
    assert t.difference("mask", infinite, infinite).tolist() == [0.0, 0.0]
    small = torch.tensor([-100, 100], dtype=torch.int8)
    assert t.difference("small", -small, small).tolist() == [200, -200]
    assert t.difference("flag", torch.tensor([True, False]), torch.tensor([False, True])).tolist() == [1, -1]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (3,), (2, 1), (0,)])
def test_bytes_of_a_tensor_whatever_its_strides(dtype, shape):
    numbers = torch.tensor(3).to(dtype).expand(shape)
    content = t.as_bytes(numbers)
    assert content.shape == (numbers.numel() * dtype.itemsize,)
    assert torch.equal(content.view(dtype), numbers.reshape(-1).clone())


def test_bytes_of_a_contiguous_tensor_share_its_memory():
    numbers = torch.zeros(4, 5)[1:]
    t.as_bytes(numbers)[3] = 1
    assert numbers[0, 0] != 0
    assert numbers.count_nonzero() == 1
