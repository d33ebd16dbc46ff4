"""Canaries of torch's private APIs, and tests of the scope."""

import types
from functools import wraps

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim import SGD
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from fedlit.core import torch_internals as internals


def gone(what):
    return f"torch {torch.__version__}: {what} is gone or has changed; adapt fedlit/core/torch_internals.py"


def pairs():
    return [torch.tensor([1.0, 2.0]), torch.tensor(3.0)], [torch.tensor([10.0, 20.0]), torch.tensor(30.0)]


def values(tensors):
    return [tensor.tolist() for tensor in tensors]


def test_foreach_add_adds_in_place_with_a_factor():
    assert hasattr(torch, "_foreach_add_"), gone("torch._foreach_add_")
    targets, others = pairs()
    internals.add_in_place(targets, others, 0.5)
    assert values(targets) == [[6.0, 12.0], 18.0], gone("torch._foreach_add_")
    internals.add_in_place(targets, others)
    assert values(targets) == [[16.0, 32.0], 48.0], gone("torch._foreach_add_")


def test_foreach_sub_subtracts():
    assert hasattr(torch, "_foreach_sub"), gone("torch._foreach_sub")
    left, right = pairs()
    assert values(internals.subtract(right, left)) == [[9.0, 18.0], 27.0], gone("torch._foreach_sub")


def make_sgd(kind=SGD):
    return kind([nn.Parameter(torch.ones(2))], lr=0.1)


def is_own(optimizer):
    return internals.takes_own_steps(optimizer, SGD)


@pytest.mark.parametrize(
    ("register", "register_for_all"),
    [
        ("register_step_pre_hook", register_optimizer_step_pre_hook),
        ("register_step_post_hook", register_optimizer_step_post_hook),
    ],
)
def test_hooks_of_an_optimizer_are_known(register, register_for_all):
    plain, hooked = make_sgd(), make_sgd()
    handle = getattr(hooked, register)(lambda optimizer, args, kwargs: None)
    assert [is_own(one) for one in (plain, hooked)] == [True, False], gone(f"hooks of {register}")
    handle.remove()
    assert is_own(hooked)
    handle = register_for_all(lambda optimizer, args, kwargs: None)
    assert not is_own(plain), gone("the hooks of all optimizers")
    handle.remove()


class SameStep(SGD):
    """Its base class reads the gradients through a method of its own."""

    def _init_group(self, *args):
        return super()._init_group(*args)


class Wrapped(SGD):
    @wraps(SGD.step)
    def step(self, closure=None):
        return super().step(closure)


def test_steps_of_a_subclass_are_not_those_of_the_class():
    assert not is_own(make_sgd(SameStep))
    assert not is_own(make_sgd(Wrapped))
    assert not is_own(torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=0.1))


def test_a_scheduler_counts_steps_and_takes_them_as_before():
    optimizer = make_sgd()
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    torch.optim.lr_scheduler.StepLR(optimizer, 2)
    assert "step" in vars(optimizer)
    assert is_own(optimizer), gone("the step that a scheduler gives")


def test_a_step_of_the_object_itself_is_known_with_and_without_a_scheduler():
    replaced, before, after = make_sgd(), make_sgd(), make_sgd()
    replaced.step = lambda closure=None: None
    before.step = types.MethodType(lambda self, closure=None: None, before)
    torch.optim.lr_scheduler.StepLR(before, 1)
    torch.optim.lr_scheduler.StepLR(after, 1)
    inner = after.step
    after.step = wraps(inner)(lambda *args, **kwargs: inner(*args, **kwargs))
    assert not any(is_own(one) for one in (replaced, before, after))


def test_tensors_are_joined_in_their_order_without_their_memory():
    square, number = torch.arange(6.0).reshape(2, 3), torch.tensor(7.0)
    vector = internals.join([square.T, number, torch.zeros(0, 3), square])
    assert vector.tolist() == [0, 3, 1, 4, 2, 5, 7, 0, 1, 2, 3, 4, 5], gone("torch._utils._flatten_dense_tensors")
    vector.zero_()
    assert square.sum() == 15, gone("torch._utils._flatten_dense_tensors")


def test_a_parametrized_module_is_reduced_and_rebuilt():
    for name in ("_inject_new_class", "_inject_property"):
        assert hasattr(parametrize, name), gone(f"parametrize.{name}")
    layer = parametrizations.weight_norm(nn.Linear(2, 1))
    rebuild, (own, names), state = internals.reduce_parametrized(layer)
    assert (rebuild, own, names) == (internals.rebuild_parametrized, nn.Linear, ("weight",))
    copy = internals.rebuild_parametrized(own, names)
    copy.__setstate__(state)
    assert parametrize.is_parametrized(copy, "weight"), gone("parametrize._inject_property")
    assert torch.equal(copy.weight, layer.weight)
    assert torch.equal(copy(torch.ones(1, 2)), layer(torch.ones(1, 2)))


def test_foreach_copy_copies_in_place():
    assert hasattr(torch, "_foreach_copy_"), gone("torch._foreach_copy_")
    targets, sources = pairs()
    internals.copy_in_place(targets, sources)
    assert values(targets) == values(sources), gone("torch._foreach_copy_")


def test_memory_is_shared_as_long_as_another_tensor_or_array_has_it():
    assert hasattr(torch._C, "_storage_Use_Count"), gone("torch._C._storage_Use_Count")
    tensor = torch.ones(4, 2)
    assert not internals.is_memory_shared(tensor), gone("torch._C._storage_Use_Count")
    for share in (lambda: tensor.unbind()[3], lambda: tensor.detach(), lambda: tensor[1:].numpy()):
        other = share()
        assert internals.is_memory_shared(tensor)
        del other
        assert not internals.is_memory_shared(tensor)


def test_a_module_knows_which_of_its_buffers_are_not_saved():
    assert "_non_persistent_buffers_set" in vars(nn.Module()), gone("nn.Module._non_persistent_buffers_set")
    module = nn.BatchNorm1d(1)
    module.register_buffer("scratch", torch.ones(1), persistent=False)
    module.register_buffer("absent", None, persistent=False)
    buffers = [(name, buffer is module.scratch) for name, buffer in internals.non_persistent_buffers(module)]
    assert buffers == [("scratch", True)], gone("nn.Module._non_persistent_buffers_set")


def test_a_module_has_its_buffers_in_one_dict():
    assert "_buffers" in vars(nn.Module()), gone("nn.Module._buffers")
    module, value = nn.BatchNorm1d(1), torch.full((1,), 7.0)
    internals.set_buffer(module, "running_mean", value)
    assert module.running_mean is value, gone("nn.Module._buffers")
    assert dict(module.named_buffers())["running_mean"] is value, gone("nn.Module._buffers")


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm3d, nn.InstanceNorm2d, nn.SyncBatchNorm])
def test_batch_and_instance_norm_have_one_base_class(kind):
    assert hasattr(nn.modules.batchnorm, "_NormBase"), gone("torch.nn.modules.batchnorm._NormBase")
    assert issubclass(kind, internals.batch_norm_base()), gone(f"_NormBase as a base of {kind.__name__}")
    assert not issubclass(nn.LayerNorm, internals.batch_norm_base())


HOOKS = [name for name in dir(nn.Module) if name.startswith("register_") and name.endswith("hook")]


def test_a_module_has_its_children_in_a_dictionary():
    module = nn.Sequential(nn.Linear(1, 1))
    module.register_module("none", None)
    assert internals.own_children(module) == {"0": module[0], "none": None}, gone("nn.Module._modules")


@pytest.mark.parametrize("name", HOOKS)
def test_a_module_has_its_hooks_in_dictionaries(name):
    module = nn.Linear(1, 1)
    assert not any(internals.module_hooks(module))
    getattr(module, name)(lambda *_: None)
    assert sum(map(len, internals.module_hooks(module))) == 1, gone(f"the dictionary of {name}")


def test_a_tensor_has_its_hooks_in_two_dictionaries():
    tensor, calls = nn.Parameter(torch.ones(1)), []
    assert internals.tensor_hooks(tensor) == [{}, {}]
    tensor.register_hook(calls.append)
    tensor.register_post_accumulate_grad_hook(calls.append)
    assert [len(hooks) for hooks in internals.tensor_hooks(tensor)] == [1, 1], gone("Tensor._backward_hooks")
    for hooks in internals.tensor_hooks(tensor):
        hooks.clear()
    tensor.sum().backward()
    assert not calls


def test_leaves_of_a_tree_come_in_order():
    assert hasattr(torch.utils, "_pytree"), gone("torch.utils._pytree")
    assert hasattr(torch.utils._pytree, "tree_leaves"), gone("torch.utils._pytree.tree_leaves")
    assert internals.tree_leaves([1, (2, {"a": 3}), []]) == [1, 2, 3], gone("torch.utils._pytree.tree_leaves")


def test_leaves_of_a_tree_are_replaced_in_their_places():
    assert hasattr(torch.utils._pytree, "tree_map"), gone("torch.utils._pytree.tree_map")
    mapped = internals.map_leaves(lambda leaf: 10 * leaf, [1, (2, {"a": 3}), []])
    assert mapped == [10, (20, {"a": 30}), []], gone("torch.utils._pytree.tree_map")


@pytest.mark.slow
def test_a_compiled_module_is_known_by_its_attributes():
    layer, whole = nn.Linear(1, 1), torch.compile(nn.Linear(1, 1))
    assert not internals.is_compiled(layer)
    layer.compile()
    assert internals.is_compiled(layer), gone("nn.Module._compiled_call_impl")
    assert internals.is_compiled(whole), gone("OptimizedModule._orig_mod")


class CountsMoves(nn.Linear):
    """A layer with a move of its own."""

    moves = 0

    def _apply(self, fn, recurse=True):
        self.moves += 1
        return super()._apply(fn, recurse)


def test_a_class_with_its_own_move_is_known_by_its_attribute():
    layer = CountsMoves(1, 1)
    nn.Sequential(layer).cpu()
    assert layer.moves == 1, gone("nn.Module._apply")
    assert internals.moves_as(nn.Linear, nn.Module)
    assert not internals.moves_as(CountsMoves, nn.Module)
    assert internals.moves_as(type("Child", (CountsMoves,), {}), CountsMoves)


def test_a_tree_is_made_of_its_leaves_and_its_structure():
    tree = {"x": torch.ones(2), "rest": (1, [2.0])}
    leaves, structure = internals.flatten_tree(tree)
    assert leaves[1:] == [1, 2.0], gone("torch.utils._pytree.tree_flatten")
    assert internals.flatten_tree({"x": 0, "rest": (1, [2])})[1] == structure, gone("torch.utils._pytree.TreeSpec")
    assert internals.unflatten_tree([5, 6, 7], structure) == {"x": 5, "rest": (6, [7])}, gone("tree_unflatten")


def test_torch_remembers_the_number_of_gpus_under_a_private_name(monkeypatch):
    assert hasattr(torch.cuda, "_cached_device_count"), gone("torch.cuda._cached_device_count")
    if not torch.backends.cuda.is_built():
        pytest.skip("this torch never asks a driver")
    monkeypatch.setattr(torch.cuda, "_cached_device_count", 3)
    assert torch.cuda.device_count() == 3, gone("torch.cuda._cached_device_count")


def test_without_a_gpu_the_number_of_gpus_is_remembered_inside_the_block_only(monkeypatch):
    monkeypatch.setattr(internals, "_has_gpu", lambda: False)
    monkeypatch.setattr(torch.cuda, "_cached_device_count", None)

    def nest():
        with internals.cached_gpu_count():
            for _ in range(2):
                assert torch.cuda._cached_device_count == 0
                with internals.cached_gpu_count():
                    assert torch.cuda._cached_device_count == 0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        nest()
    assert torch.cuda._cached_device_count is None


def test_with_a_gpu_torchs_own_cache_is_left_alone(monkeypatch):
    monkeypatch.setattr(internals, "_has_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "_cached_device_count", None)
    with internals.cached_gpu_count():
        torch.cuda._cached_device_count = 2
    assert torch.cuda._cached_device_count == 2


def test_the_number_of_gpus_is_asked_once_a_process(monkeypatch):
    questions = []
    internals._has_gpu.cache_clear()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: questions.append(1) or 0)
    try:
        for _ in range(3):
            with internals.cached_gpu_count():
                pass
        assert questions == [1]
    finally:
        internals._has_gpu.cache_clear()
