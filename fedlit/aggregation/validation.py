"""Checks of a client's update before it is added."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from fedlit.core.tensors import Groups, Layout

TensorType = tuple[torch.Size, torch.dtype]


@dataclass(frozen=True)
class UpdateTemplate:
    """Names, shapes and dtypes that each update of a round must have.

    Args:
        groups: an update that has them.
    """

    groups: Groups

    @cached_property
    def layout(self) -> Layout:
        """The layout of the updates."""
        return Layout.of(self.groups)

    @cached_property
    def _types(self) -> dict[tuple[str, str], TensorType]:
        return _tensor_types(self.groups)

    def mismatch(self, groups: Groups) -> str:
        """Differences of an update's names, shapes and dtypes from the template.

        Returns:
            One line; an empty string if there are no differences.
        """
        given, expected = _tensor_types(groups), self._types
        if given == expected:
            return ""
        differing = [key for key in {**expected, **given} if given.get(key) != expected.get(key)]
        lines = [
            f"{'/'.join(key)} is {_describe(given.get(key))}, not {_describe(expected.get(key))}"
            for key in differing[:3]
        ]
        return "; ".join(lines) + (f"; and {len(differing) - 3} more" if len(differing) > 3 else "")


def _tensor_types(groups: Groups) -> dict[tuple[str, str], TensorType]:
    return {(group, name): (t.shape, t.dtype) for group, tensors in groups.items() for name, t in tensors.items()}


def _describe(entry: TensorType | None) -> str:
    return "missing" if entry is None else f"{str(entry[1]).removeprefix('torch.')} {list(entry[0])}"


def invalid_values(
    vector: torch.Tensor,
    weight: float,
    max_norm: float | None = None,
    *,
    hides_clients: bool = False,
    finite: slice = slice(0, 0),
) -> str:
    """Reason why an update is invalid; an empty string if valid.

    Args:
        vector: the update, shape (d,).
        weight: weight of the client.
        max_norm: see `FailurePolicy`.
        hides_clients: True if nothing about single clients may be recorded; the reason then has no figure of the update.
        finite: numbers that are known to be finite.
    """
    if not 0 <= weight < float("inf"):
        return f"weight{'' if hides_clients else f' {weight}'} is not a finite number of at least 0"
    if finite.stop - finite.start < len(vector) and not all(
        map(_is_finite, (vector[: finite.start], vector[finite.stop :]))
    ):
        count = "some" if hides_clients else f"{int((~vector.isfinite()).sum())} of {len(vector)}"
        return f"{count} numbers are NaN or infinite"
    if max_norm is not None and (norm := float(vector.double().norm())) > max_norm:
        return f"norm{'' if hides_clients else f' {norm:.3g}'} is above faults.max_norm={max_norm:g}"
    return ""


def valid_weight(weight: float) -> float:
    """The weight, or 1 in place of an invalid one."""
    return weight if 0 <= weight < float("inf") else 1.0


def _is_finite(vector: torch.Tensor) -> bool:
    """True if all numbers are finite.

    The sum shows any NaN or infinity, and costs a tenth of a check of all numbers. It can overflow, so it only answers yes.
    """
    return not len(vector) or bool(vector.sum().isfinite()) or bool(vector.isfinite().all())
