"""Canaries of torch's private APIs for single operations."""

import torch

from fedlit.core import torch_operations as internals

ATEN = torch.ops.aten


def gone(what):
    return f"torch {torch.__version__}: {what} is gone or has changed; adapt fedlit/core/torch_operations.py"


def test_each_operation_inside_the_block_is_observed_with_its_result():
    seen, one = [], torch.ones(2)
    with internals.observe_operations(lambda operation, args, kwargs, result: seen.append((str(operation), result))):
        total = one * 3
    one.neg()
    assert [name for name, _ in seen] == ["aten.mul.Tensor"], gone("TorchDispatchMode")
    assert seen[0][1] is total


def test_an_operation_tells_whether_it_draws_and_whether_it_changes_its_arguments():
    draws = [internals.draws_random_numbers(one) for one in (ATEN.bernoulli.default, ATEN.add.Tensor)]
    assert draws == [True, False], gone("torch.Tag.nondeterministic_seeded")
    changes = [internals.changes_tensors(one) for one in (ATEN.add_.Tensor, ATEN.add.Tensor)]
    assert changes == [True, False], gone("OpOverload._schema")


def test_views_are_known_by_their_operation():
    views = [internals.returns_view(one) for one in (ATEN.transpose.int, ATEN._unsafe_view.default, ATEN.clone.default)]
    assert views == [True, True, False], gone("OpOverload.is_view")


def test_the_product_of_several_matrices_is_known():
    found = [internals.is_batched_product(one) for one in (ATEN.bmm.default, ATEN.bmm.out, ATEN.mm.default)]
    assert found == [True, False, False], gone("OpOverload.name")


def test_an_operation_without_values_of_tensors_makes_a_constant():
    cases = (
        (ATEN.zeros.default, 0),
        (ATEN.ones_like.default, 1),
        (ATEN.rand.default, 0),
        (ATEN.empty.memory_format, 0),
        (ATEN.neg.default, 1),
    )
    found = [internals.makes_constant(*case) for case in cases]
    assert found == [True, True, False, False, False], gone("OpOverload.overloadpacket")


def test_an_operation_is_found_that_writes_to_a_given_tensor():
    assert internals.out_variant(ATEN.sum.dim_IntList) == (ATEN.sum.IntList_out, "out"), gone("OpOverload._schema")
    assert internals.out_variant(ATEN.threshold_backward.default) == (ATEN.threshold_backward.grad_input, "grad_input")
    assert internals.out_variant(ATEN.relu.default) is None, gone("torch.Tag.generated")
    assert internals.out_variant(ATEN.max.dim) is None  # two results
