"""Arithmetic on named tensors, and their layout in a flat vector.

No function changes its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fedlit.core.errors import ConfigError

if TYPE_CHECKING:  # torch takes seconds to import, and the values of a configuration are checked without it
    from torch import Tensor

Tensors = Mapping[str, "Tensor"]
"""Tensors by name."""
Groups = Mapping[str, Tensors]
"""Named tensors by the name of their group, such as `parameters` and `buffers`."""

MAX_EXACT_INTEGER = 2**24
"""Largest integer up to which float32 represents every integer."""


def add(a: Tensors, b: Tensors) -> dict[str, Tensor]:
    """a + b, name by name."""
    return {name: a[name] + b[name] for name in a}


def sub(a: Tensors, b: Tensors) -> dict[str, Tensor]:
    """a - b, name by name."""
    return {name: a[name] - b[name] for name in a}


def scale(factor: float, a: Tensors) -> dict[str, Tensor]:
    """factor * a, name by name."""
    return {name: factor * tensor for name, tensor in a.items()}


def axpy(factor: float, x: Tensors, y: Tensors) -> dict[str, Tensor]:
    """factor * x + y, name by name."""
    return {name: y[name].add(x[name], alpha=factor) for name in y}


def zeros_like(a: Tensors) -> dict[str, Tensor]:
    """Zeros with the shapes and dtypes of a."""
    import torch

    return {name: torch.zeros_like(tensor) for name, tensor in a.items()}


def float64_zeros(a: Tensors) -> dict[str, Tensor]:
    """Zeros with the shapes of a, in float64."""
    import torch

    return {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in a.items()}


def scalar(value: float) -> Tensor:
    """A float32 tensor of shape ()."""
    import torch

    return torch.tensor(value)


def norm(a: Tensors) -> float:
    """Euclidean norm over all tensors jointly, summed in float64."""
    return sum(float(tensor.double().square().sum()) for tensor in a.values()) ** 0.5


def difference(name: str, new: Tensor, old: Tensor) -> Tensor:
    """The difference new - old, and 0 where nothing changed.

    The 0 is needed, since infinity - infinity is NaN. Booleans count as 0 and 1.

    Raises:
        ConfigError: if an integer moved further than float32, the dtype of an update, can represent.
    """
    if new.is_floating_point():
        return (new - old).masked_fill(new == old, 0)
    step = new.long() - old.long()  # small types would wrap around
    if step.numel() and max(int(step.max()), -int(step.min())) > MAX_EXACT_INTEGER:
        problem = f"cannot average {name}: an integer moved by more than {MAX_EXACT_INTEGER:,}, and updates are float32"
        hint = "algorithm.buffers=server does not average buffers; or make it a float buffer"
        raise ConfigError("algorithm.buffers", "mean", problem, hint)
    return step


def as_bytes(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor, uint8, in one dimension.

    They share its memory if it is contiguous. A tensor of one number, as `expand` returns it, may have a stride of 0,
    which torch does not view as bytes.
    """
    import torch

    flat = tensor.contiguous().reshape(-1)
    return flat.as_strided(flat.shape, (1,)).view(torch.uint8)


def has_same_bits(one: Tensor, other: Tensor) -> bool:
    """Return True if two tensors have the same dtype, shape and bits."""
    import torch

    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(as_bytes(one), as_bytes(other))


def apply_step(old: Tensor, step: Tensor | None) -> Tensor:
    """The sum old + step, in float64; `old` itself without a step.

    Integers move by whole numbers.
    """
    if step is None:
        return old
    if not old.is_floating_point():
        return (old.long() + step.round().long()).to(old.dtype)
    return (old.double() + step.double()).to(old.dtype)


@dataclass(frozen=True)
class Layout:
    """Positions of named tensors in a flat vector.

    Args:
        entries: (group, name, shape) of each tensor, in order.
    """

    entries: tuple[tuple[str, str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, groups: Groups) -> Layout:
        """The layout of groups of named tensors, in their order."""
        return cls(
            tuple(
                (group, name, tuple(tensor.shape))
                for group, tensors in groups.items()
                for name, tensor in tensors.items()
            )
        )

    @cached_property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(_numel(shape) for _, _, shape in self.entries)

    def span(self, group: str) -> slice:
        """The vector's part from a group's first tensor to its last."""
        start, stops = 0, []
        for name, _, shape in self.entries:
            stop = start + _numel(shape)
            stops += [(start, stop)] if name == group else []
            start = stop
        return slice(stops[0][0], stops[-1][1]) if stops else slice(0, 0)

    def vector(self, groups: Groups) -> Tensor:
        """All tensors as one vector, in the layout's order.

        The vector is float32 on the CPU, shape (d,).

        Raises:
            ValueError: if names or shapes differ from the layout.
        """
        given = Layout.of(groups).entries
        if given != self.entries and (different := set(given) ^ set(self.entries)):
            names = sorted(f"{group}/{name} {shape}" for group, name, shape in different)
            raise ValueError(f"an update has another layout than the others: {', '.join(names[:5])}")
        import torch

        tensors = [groups[group][name] for group, name, _ in self.entries]
        if len(tensors) > 1 and all(tensor.dtype is torch.float32 and tensor.is_cpu for tensor in tensors):
            from fedlit.core.torch_internals import join

            return join(tensors)
        flat = [tensor.reshape(-1).to("cpu", torch.float32) for tensor in tensors]
        return torch.cat(flat) if flat else torch.zeros(0)

    def groups(self, vector: Tensor) -> dict[str, dict[str, Tensor]]:
        """Views of the vector under their names.

        Groups without tensors are left out.
        """
        views: dict[str, dict[str, Tensor]] = {}
        start = 0
        for group, name, shape in self.entries:
            stop = start + _numel(shape)
            views.setdefault(group, {})[name] = vector[start:stop].view(shape)
            start = stop
        return views


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
