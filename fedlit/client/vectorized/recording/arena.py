"""Memory for the large results of recorded operations.

Steps use it one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes to which rooms are aligned: a cache line, which the vector instructions of a CPU read at once."""


@dataclass(frozen=True)
class Room:
    """Memory that a tensor needs for some operations.

    Args:
        start: number of the operation that writes the tensor.
        end: number of the last operation that reads it.
        shape, dtype: of the tensor.
        offset: its place in the arena, bytes.
    """

    start: int
    end: int
    shape: torch.Size
    dtype: torch.dtype
    offset: int = 0

    @property
    def stop(self) -> int:
        """The first byte behind it."""
        return self.offset + self.shape.numel() * self.dtype.itemsize


class Arena:
    """One block of memory, in which programs write their large results.

    One program runs at a time.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._tensors: dict[Any, list[Tensor]] = {}

    def tensors(self, owner: Any, rooms: Sequence[Room]) -> list[Tensor]:
        """Return a tensor in each room.

        Args:
            owner: the program that has the rooms, which are always the same.
            rooms: its rooms.
        """
        if owner not in self._tensors:
            self._reserve(max((room.stop for room in rooms), default=0))
            self._tensors[owner] = [
                self._memory[room.offset : room.stop].view(room.dtype).view(room.shape) for room in rooms
            ]
        return self._tensors[owner]

    def _reserve(self, size: int) -> None:
        if len(self._memory) < size:
            self._tensors.clear()  # frees the old memory
            self._memory = torch.empty(size, dtype=torch.uint8)


def place_rooms(rooms: Sequence[Room]) -> list[Room]:
    """Return rooms with places.

    Rooms that are needed at the same time do not overlap.

    Args:
        rooms: rooms by ascending start.
    """
    placed: list[Room] = []
    for room in rooms:
        offset = 0
        others = [other for other in placed if other.end >= room.start]
        for other in sorted(others, key=lambda other: other.offset):
            if other.offset - offset >= room.stop - room.offset:
                break
            offset = max(offset, -(-other.stop // ALIGNMENT) * ALIGNMENT)
        placed.append(replace(room, offset=offset))
    return placed
