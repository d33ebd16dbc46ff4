"""Private APIs of torch, checked with torch 2.14.1.

Each use in fedlit goes through one small function of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils import _pytree


def add_in_place(targets: Sequence[Tensor], others: Sequence[Tensor], factor: float = 1) -> None:
    """Add `factor` times each other tensor to its target, fused.

    Uses `torch._foreach_add_`; checked with torch 2.14.1.
    """
    torch._foreach_add_(list(targets), list(others), alpha=factor)


def subtract(left: Sequence[Tensor], right: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return `left - right` for each pair of tensors, fused.

    Uses `torch._foreach_sub`; checked with torch 2.14.1.
    """
    return torch._foreach_sub(list(left), list(right))


def copy_in_place(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target, fused; devices may differ.

    Uses `torch._foreach_copy_`; checked with torch 2.14.1.
    """
    torch._foreach_copy_(list(targets), list(sources))


def join(tensors: Sequence[Tensor]) -> Tensor:
    """Return the numbers of several tensors of one dtype as one vector.

    With one tensor alone, the vector may have its memory.
    Uses `torch._utils._flatten_dense_tensors`; checked with torch 2.14.1.
    """
    return _flatten_dense_tensors(tensors)


def is_memory_shared(tensor: Tensor) -> bool:
    """Return True if another tensor or array has a tensor's memory.

    Uses `torch._C._storage_Use_Count`; checked with torch 2.14.1.
    """
    storage = tensor.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata) > 2  # the tensor and the storage object have one use each


def takes_own_steps(optimizer: torch.optim.Optimizer, kind: type[torch.optim.Optimizer]) -> bool:
    """Return True if no other code runs in an optimizer's steps.

    It steps as its class does. Other code is a subclass, a hook, or a `step` of the object itself. A scheduler of torch
    replaces `step`, too, to count the steps alone.
    Uses `Optimizer._optimizer_step_pre_hooks`, `_optimizer_step_post_hooks`, the hooks of all optimizers, and the code of the
    function that counts; checked with torch 2.14.1.
    """
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    step = vars(optimizer).get("step")
    is_counted = getattr(step, "__code__", None) is _counting_step() and getattr(step, "__wrapped__", None) is kind.step
    is_own = type(optimizer) is kind and (step is None or is_counted)
    return is_own and not any((*hooks, _global_optimizer_pre_hooks, _global_optimizer_post_hooks))


@cache
def _counting_step() -> Any:
    """Return the code of the `step` that a scheduler gives."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
    return vars(optimizer)["step"].__code__


def non_persistent_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the module's own buffers that its state dict leaves out.

    Uses `nn.Module._non_persistent_buffers_set`; checked with torch 2.14.1.
    """
    buffers = module.named_buffers(recurse=False, remove_duplicate=False)
    return [(name, buffer) for name, buffer in buffers if name in module._non_persistent_buffers_set]


def set_buffer(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace one of the module's own buffers.

    A `__setattr__` of the user's class is not called.
    Uses `nn.Module._buffers`; checked with torch 2.14.1.
    """
    module._buffers[name] = value


def own_children(module: nn.Module) -> dict[str, nn.Module | None]:
    """Return the dictionary of a module's own children, which may be None.

    Uses `nn.Module._modules`; checked with torch 2.14.1.
    """
    return module._modules


def module_hooks(module: nn.Module) -> list[dict[int, Any]]:
    """Return the dictionaries with a module's own hooks.

    Uses the attributes of `nn.Module` with `_hooks` in their names, such as `_forward_hooks`; checked with torch 2.14.1.
    """
    return [value for name, value in vars(module).items() if "_hooks" in name and isinstance(value, dict)]


def tensor_hooks(tensor: Tensor) -> list[dict[int, Any]]:
    """Return the two dictionaries with a tensor's hooks.

    Uses `Tensor._backward_hooks` and `Tensor._post_accumulate_grad_hooks`; checked with torch 2.14.1.
    """
    return [tensor._backward_hooks or {}, tensor._post_accumulate_grad_hooks or {}]


def batch_norm_base() -> type[nn.Module]:
    """Return the base class of all batch and instance norms.

    SyncBatchNorm has it too.
    Uses `torch.nn.modules.batchnorm._NormBase`; checked with torch 2.14.1.
    """
    return _NormBase


def reduce_parametrized(module: nn.Module) -> tuple[Callable[..., nn.Module], tuple[Any, ...], Any]:
    """Return the reduced form of a module with parametrizations, for pickle.

    torch refuses to pickle such a module, because its class is made at run time. The reduced form names the class before, and
    `rebuild_parametrized` makes the class again. Its weights, parametrizations and other attributes are the state.
    Uses `__getstate__` of the class before, which the class made at run time overrides; checked with torch 2.14.1.
    """
    own: Any = parametrize.type_before_parametrizations(module)
    parametrizations: Any = module.parametrizations
    return rebuild_parametrized, (own, tuple(parametrizations)), own.__getstate__(module)


def rebuild_parametrized(own: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    """Return a module with parametrized tensors of these names, without its state.

    Uses `torch.nn.utils.parametrize._inject_new_class` and `_inject_property`; checked with torch 2.14.1.
    """
    module = own.__new__(own)
    parametrize._inject_new_class(module)
    for name in names:
        parametrize._inject_property(module, name)
    return module


def tree_leaves(tree: Any) -> list[Any]:
    """Return the leaves of nested tuples, lists and dicts, in their order.

    Uses `torch.utils._pytree.tree_leaves`; checked with torch 2.14.1.
    """
    return _pytree.tree_leaves(tree)


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return nested tuples, lists and dicts with a function of each leaf.

    Uses `torch.utils._pytree.tree_map`; checked with torch 2.14.1.
    """
    return _pytree.tree_map(function, tree)


def moves_as(kind: type[nn.Module], base: type[nn.Module]) -> bool:
    """Return True if a class has the move between devices of another.

    `to`, `cpu` and `double` of a module call `_apply` of each of its parts.
    Uses `nn.Module._apply`; checked with torch 2.14.1.
    """
    return kind._apply is base._apply


def is_compiled(module: nn.Module) -> bool:
    """Return True if `torch.compile` or `nn.Module.compile` has compiled the module itself.

    Uses `nn.Module._compiled_call_impl`, and the attribute `_orig_mod` of a compiled module; checked with torch 2.14.1.
    """
    return getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")


def flatten_tree(tree: Any) -> tuple[list[Any], Any]:
    """Return the leaves of nested tuples, lists and dicts, and their structure.

    Structures are compared with `==`.
    Uses `torch.utils._pytree.tree_flatten`; checked with torch 2.14.1.
    """
    return _pytree.tree_flatten(tree)


def unflatten_tree(leaves: list[Any], structure: Any) -> Any:
    """Return the tree of which `flatten_tree` gave leaves and structure.

    Uses `torch.utils._pytree.tree_unflatten`; checked with torch 2.14.1.
    """
    return _pytree.tree_unflatten(leaves, structure)


@contextmanager
def cached_gpu_count() -> Iterator[None]:
    """Let torch remember inside the block that this machine has no GPU.

    Without a GPU torch loads the driver's library again for each of a Trainer's three questions. With a GPU torch has its own
    cache, and nothing changes. Uses `torch.cuda._cached_device_count`; checked with torch 2.14.1.
    """
    if _has_gpu():
        yield
        return
    before = torch.cuda._cached_device_count
    torch.cuda._cached_device_count = 0
    try:
        yield
    finally:
        torch.cuda._cached_device_count = before


@cache
def _has_gpu() -> bool:
    return torch.cuda.device_count() > 0
