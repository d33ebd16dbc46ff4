"""The sums of subtrees, added pairwise from the left."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class SumTree:
    """A growing tree of sums.

    It holds at most one subtree of each height. The tree depends on the leaves alone: subtrees that were added elsewhere give
    the same sum as their leaves. All but the last one must have 2^h leaves, and the number of leaves before each must be a
    multiple of 2^h.

    Args:
        merge: adds two sums.
    """

    def __init__(self, merge: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._merge = merge
        self._subtrees: list[tuple[int, Tensor | None, float]] = []  # (height, sum, weight), tallest first

    def push(self, height: int, total: Tensor | None, weight: float) -> None:
        """Add the next subtree.

        Args:
            height: the subtree has at most 2^height leaves; 0 for a leaf.
            total: its sum; None if it is empty.
            weight: its weight.
        """
        while self._subtrees and self._subtrees[-1][0] == height:
            height += 1
            _, left, left_weight = self._subtrees.pop()
            total, weight = self._add(left, total), left_weight + weight
        self._subtrees.append((height, total, weight))

    def root(self) -> tuple[Tensor | None, float]:
        """Add the subtrees that are left.

        Returns:
            The sum of all leaves, None without any, and its weight.
        """
        while len(self._subtrees) > 1:
            height, total, weight = self._subtrees.pop()
            left_height, left, left_weight = self._subtrees.pop()
            merged = self._add(left, total)
            self._subtrees.append((max(height, left_height) + 1, merged, left_weight + weight))
        return self._subtrees[0][1:] if self._subtrees else (None, 0.0)

    def __len__(self) -> int:
        return len(self._subtrees)

    def _add(self, left: Tensor | None, right: Tensor | None) -> Tensor | None:
        if left is None or right is None:
            return right if left is None else left
        return self._merge(left, right)
