import torch

from fedlit.core import tensors as t

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
