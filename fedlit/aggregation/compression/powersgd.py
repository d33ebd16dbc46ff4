"""PowerSGD: matrices of low rank, by a power iteration over rounds.

Vogels, Karimireddy, Jaggi, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization", NeurIPS 2019,
https://arxiv.org/abs/1905.13727, Algorithms 1 and 2, applied to the updates of clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from fedlit.aggregation.basis import WEIGHT, BasisStage, pending_weight
from fedlit.aggregation.channel.feedback import RESIDUAL, with_residual
from fedlit.aggregation.channel.tickets import SumTicket, Ticket
from fedlit.core.errors import raise_errors, require_at_least
from fedlit.core.messages import StageState
from fedlit.core.tensors import Layout, Tensors

RIGHT = "right"
"""Name of the right factors in the shared state."""

UPDATE = "update"
"""Name of a client's update among its pending tensors."""


class Block(NamedTuple):
    """A tensor of an update, as a matrix of shape (rows, columns).

    The rank is that of its factors, 0 if the tensor is sent whole.
    """

    rows: int
    columns: int
    rank: int


@dataclass(frozen=True)
class PowerSGD(BasisStage):
    """Send each matrix as two factors of rank r.

    A client i with weight w_i has the matrix M_i of shape (n, m); a tensor of shape (n, ...) counts as one. All clients have
    the same Q of shape (m, r).

    1. Client i sends M_i Q. The server adds w_i M_i Q, and makes the columns of the sum orthonormal: P of shape (n, r).
    2. The server sends P to the same clients. Client i sends Q_i = M_i^T P. The mean of the updates becomes P (mean of Q_i)^T.

    Vectors, buffers and single numbers are sent exactly, with Q_i, and so is a matrix whose factors would not be shorter. The
    mean is over the clients that answer in both exchanges; one that is lost between them has only been a part of the basis.

    With error feedback client i keeps e_i = M_i - P Q_i^T. This differs from the paper, in which e_i = M_i - P (mean of Q_j)^T:
    the mean is known after the round, and would have to be sent once more. The weighted sums of both over the clients in the
    mean are equal, namely what the mean lost.

    Args:
        rank: r, at least 1; a matrix with fewer rows or columns has as many.
        warm_start: whether Q is the mean of Q_i of the round before, with columns of length 1. It is then a part of the
            broadcast, and the factors converge to the best ones for a matrix that stays the same. Otherwise the clients draw Q
            in each round.
    """

    rank: int = 4
    warm_start: bool = True

    def __post_init__(self) -> None:
        raise_errors(require_at_least("rank", self.rank))

    def init(self, layout: Layout) -> StageState:
        """Right factors of zeros, which clients replace by random ones."""
        if not self.warm_start:
            return StageState()
        return StageState(shared={RIGHT: torch.zeros(sum(b.columns * b.rank for b in self._blocks(layout)))})

    def encode(self, vector: Tensor, ticket: Ticket) -> tuple[Tensor, Tensors]:
        """Multiply each matrix by its right factor."""
        vector, blocks = with_residual(vector, ticket), self._blocks(ticket.layout)
        rights = iter(_split(self._right(ticket), [(b.columns, b.rank) for b in blocks if b.rank]))
        lefts = [matrix @ next(rights) for matrix, block in _matrices(vector, blocks) if block.rank]
        return _join(lefts), {UPDATE: vector, WEIGHT: pending_weight(ticket.weight)}

    def encoded_layout(self, layout: Layout) -> Layout:
        """The left factors."""
        size = sum(block.rows * block.rank for block in self._blocks(layout))
        return Layout((("factors", "left", (size,)),))

    def make_basis(self, total: Tensor, layout: Layout) -> Tensor:
        """Orthonormalise the columns of each left factor."""
        lefts = _split(total, [(block.rows, block.rank) for block in self._blocks(layout) if block.rank])
        return _join([torch.linalg.qr(left)[0].float() for left in lefts])

    def express(self, basis: Tensor, ticket: Ticket) -> tuple[Tensor, Tensors]:
        """Project each matrix on its basis."""
        assert ticket.turn is not None
        blocks, rights, whole, lost = self._blocks(ticket.layout), [], [], []
        lefts = iter(_split(basis, [(block.rows, block.rank) for block in blocks if block.rank]))
        for matrix, block in _matrices(ticket.turn.pending[UPDATE], blocks):
            if block.rank:
                left = next(lefts)
                rights.append(matrix.T @ left)
                lost.append(matrix - left @ rights[-1].T)
            else:
                whole.append(matrix)
                lost.append(torch.zeros_like(matrix))
        return _join([*rights, *whole]), {RESIDUAL: _join(lost)} if ticket.error_feedback else {}

    def reply_layout(self, layout: Layout) -> Layout:
        """The right factors, then the tensors that are sent whole."""
        blocks = self._blocks(layout)
        whole = [entry for entry, block in zip(layout.entries, blocks, strict=True) if not block.rank]
        return Layout((("factors", "right", (sum(b.columns * b.rank for b in blocks),)), *whole))

    def open(self, total: Tensor, ticket: SumTicket, state: StageState) -> tuple[Tensor, StageState]:
        """Multiply the basis by the sum of the right factors."""
        blocks = self._blocks(ticket.layout)
        factored = [block for block in blocks if block.rank]
        shapes = [(b.rows, b.rank) for b in factored] + [(b.columns, b.rank) for b in factored]
        shapes += [(block.rows, block.columns) for block in blocks if not block.rank]
        parts = _split(total, shapes)
        lefts, rights, whole = iter(parts), iter(parts[len(factored) :]), iter(parts[2 * len(factored) :])
        opened = [next(lefts) @ next(rights).T if block.rank else next(whole) for block in blocks]
        if self.warm_start:
            new = [_normalised(right) for right in parts[len(factored) : 2 * len(factored)]]
            state = StageState(shared={RIGHT: _join(new).float()})
        return _join(opened, total.dtype), state

    def _blocks(self, layout: Layout) -> tuple[Block, ...]:
        return _blocks(layout, self.rank)

    def _right(self, ticket: Ticket) -> Tensor:
        """The right factors that all clients of a round have.

        A column of zeros, which the first round has and a zero update leaves behind, is replaced by random numbers.
        """
        shapes = [(block.columns, block.rank) for block in self._blocks(ticket.layout) if block.rank]
        given = ticket.shared.get(RIGHT, torch.zeros(sum(columns * rank for columns, rank in shapes)))
        factors = _split(given, shapes)
        if all(bool(factor.any(dim=0).all()) for factor in factors):
            return given
        drawn = torch.from_numpy(ticket.common_generator.standard_normal(len(given), "float32"))
        draws = _split(drawn, shapes)
        return _join([torch.where(f.any(dim=0), f, draw) for f, draw in zip(factors, draws, strict=True)])


@lru_cache(maxsize=16)
def _blocks(layout: Layout, rank: int) -> tuple[Block, ...]:
    return tuple(_block(group, shape, rank) for group, _, shape in layout.entries)


def _block(group: str, shape: tuple[int, ...], rank: int) -> Block:
    size = prod(shape)
    if group == "buffers" or len(shape) < 2 or not size:
        return Block(size, 1, 0)
    rows, columns = shape[0], size // shape[0]
    rank = min(rank, rows, columns)
    return Block(rows, columns, rank if rank * (rows + columns) < size else 0)


def _matrices(vector: Tensor, blocks: tuple[Block, ...]) -> list[tuple[Tensor, Block]]:
    """Each tensor of an update as a matrix, with its block."""
    return list(zip(_split(vector, [(block.rows, block.columns) for block in blocks]), blocks, strict=True))


def _split(vector: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Views of consecutive matrices in a vector."""
    parts = vector.split([rows * columns for rows, columns in shapes]) if shapes else ()
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _join(matrices: list[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """The vector of consecutive matrices; empty without any."""
    return torch.cat([matrix.reshape(-1) for matrix in matrices]) if matrices else torch.zeros(0, dtype=dtype)


def _normalised(factor: Tensor) -> Tensor:
    """The factor with columns of length 1; zeros stay zeros."""
    lengths = factor.norm(dim=0)
    return factor / torch.where(lengths == 0, 1.0, lengths)
