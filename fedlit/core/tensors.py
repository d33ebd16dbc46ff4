"""Arithmetic on named tensors. Nothing here changes what it was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlit.core.errors import ConfigError

Tensors = Mapping[str, Tensor]
Groups = Mapping[str, Tensors]

MAX_EXACT_INTEGER = 2**24
"""Up to here float32 has every whole number."""


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
    return {name: torch.add(y[name], x[name], alpha=factor) for name in y}


def zeros_like(a: Tensors) -> dict[str, Tensor]:
    """Zeros with the shapes and dtypes of a."""
    return {name: torch.zeros_like(tensor) for name, tensor in a.items()}


def norm(a: Tensors) -> float:
    """Euclidean norm over all tensors jointly, summed in float64."""
    return sum(float(tensor.double().square().sum()) for tensor in a.values()) ** 0.5


def difference(name: str, new: Tensor, old: Tensor) -> Tensor:
    """new - old, 0 where nothing changed (an infinity less itself is no number), and of truth values as of 0 and 1.

    Raises:
        Mistake: if a whole number moved further than float32 can tell, which is what an update is sent in.
    """
    if new.is_floating_point():
        return torch.where(new == old, torch.zeros_like(new), new - old)
    step = new.to(torch.int64) - old.to(torch.int64)  # small types would wrap around
    if step.numel() and max(int(step.max()), -int(step.min())) > MAX_EXACT_INTEGER:
        why = (
            f"cannot average {name}, whose whole numbers moved by more than {MAX_EXACT_INTEGER:,}: an update is float32"
        )
        raise ConfigError(
            "algorithm.buffers", "mean", why, "algorithm.buffers=server leaves them, or make it a float buffer"
        )
    return step


def apply_step(old: Tensor, step: Tensor | None) -> Tensor:
    """old + step, added in float64 and integers by whole numbers; `old` itself without a step."""
    if step is None:
        return old
    if not old.is_floating_point():
        return (old.to(torch.int64) + step.round().to(torch.int64)).to(old.dtype)
    return (old.to(torch.float64) + step.to(torch.float64)).to(old.dtype)


@dataclass(frozen=True)
class Layout:
    """Where each named tensor lies in the flat vector: (group, name, shape), in order."""

    entries: tuple[tuple[str, str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, groups: Groups) -> Layout:
        """The layout of these groups, in the order in which they come."""
        return cls(
            tuple(
                (group, name, tuple(tensor.shape))
                for group, tensors in groups.items()
                for name, tensor in tensors.items()
            )
        )

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(_numel(shape) for _, _, shape in self.entries)

    def span(self, group: str) -> slice:
        """Where a group's tensors lie, from the first of them to the last."""
        start, stops = 0, []
        for name, _, shape in self.entries:
            stop = start + _numel(shape)
            stops += [(start, stop)] if name == group else []
            start = stop
        return slice(stops[0][0], stops[-1][1]) if stops else slice(0, 0)

    def vector(self, groups: Groups, out: Tensor | None = None) -> Tensor:
        """All tensors one behind the other in the layout's order, float32 on the CPU, shape (d,); into `out` if it is given.

        Raises:
            ValueError: if names or shapes are not those of the layout.
        """
        if different := set(Layout.of(groups).entries) ^ set(self.entries):
            odd = sorted(f"{group}/{name} {shape}" for group, name, shape in different)
            raise ValueError(f"an update does not have the layout of the others: {', '.join(odd[:5])}")
        flat = [groups[group][name].reshape(-1).to("cpu", torch.float32) for group, name, _ in self.entries]
        return torch.cat([torch.zeros(0), *flat], out=out)

    def groups(self, vector: Tensor) -> dict[str, dict[str, Tensor]]:
        """Views of the vector under their names; groups without tensors are left out."""
        cut: dict[str, dict[str, Tensor]] = {}
        start = 0
        for group, name, shape in self.entries:
            stop = start + _numel(shape)
            cut.setdefault(group, {})[name] = vector[start:stop].view(shape)
            start = stop
        return cut


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
