"""Random sparsification with one support for all clients of a round.

Stich, Cordonnier, Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, https://arxiv.org/abs/1809.07599, Definition 2.1. The
support is drawn from the round's random numbers, which the server knows. So no positions are sent, and messages are added as
they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlit.aggregation.channel.exact import LayoutSplit
from fedlit.aggregation.channel.feedback import RESIDUAL, with_residual
from fedlit.aggregation.channel.stage import Order, Stage
from fedlit.aggregation.channel.tickets import SumTicket, Ticket
from fedlit.aggregation.compression.topk import count_of, fraction_error
from fedlit.core.errors import raise_errors
from fedlit.core.messages import StageState
from fedlit.core.tensors import Layout, Tensors


@dataclass(frozen=True)
class RandK(Stage):
    """Send k of d numbers, chosen at random.

    Without error feedback the server multiplies the numbers by d / k, which makes them unbiased. With error feedback they stay
    as they are, and a client adds the numbers that it did not send to its next update.

    Args:
        fraction: k / d, in (0, 1]; k is rounded to a whole number of at least 1.
    """

    fraction: float = 0.01

    order = Order.PROJECT

    def __post_init__(self) -> None:
        raise_errors(fraction_error(self.fraction))

    def encode(self, vector: Tensor, ticket: Ticket) -> tuple[Tensor, Tensors]:
        """Select the numbers of the round's support."""
        vector, split = with_residual(vector, ticket), LayoutSplit.of(ticket.layout)
        rest, exact = split.take(vector, False), split.take(vector, True)
        support = self._support(split, ticket.common_generator)
        sent = torch.cat([torch.from_numpy(rest.numpy()[support]), exact])
        if not ticket.error_feedback:
            return sent, {}
        return sent, {RESIDUAL: split.join(rest.index_fill(0, torch.from_numpy(support), 0), torch.zeros_like(exact))}

    def open(self, total: Tensor, ticket: SumTicket, state: StageState) -> tuple[Tensor, StageState]:
        """Put the sums at their positions, and 0 elsewhere."""
        split = LayoutSplit.of(ticket.layout)
        support = self._support(split, ticket.common_generator)
        factor = 1.0 if ticket.error_feedback else split.rest.size / max(1, len(support))
        rest = np.zeros(split.rest.size)  # unlike torch.zeros it takes memory that is zero already
        rest[support] = factor * total[: len(support)].numpy()
        return split.join(torch.from_numpy(rest), total[len(support) :]), state

    def encoded_layout(self, layout: Layout) -> Layout:
        """The chosen numbers, then those that are sent exactly."""
        split = LayoutSplit.of(layout)
        sample = ("sample", self.name, (count_of(self.fraction, split.rest.size),))
        return Layout((sample, *split.exact.entries))

    def _support(self, split: LayoutSplit, generator: np.random.Generator) -> np.ndarray:
        """Positions of the chosen numbers, int64 in ascending order."""
        return draw_subset(split.rest.size, count_of(self.fraction, split.rest.size), generator)


def draw_subset(size: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """A random subset of `count` of the numbers below `size`.

    Each number joins with a probability near count / size. Then surplus members leave at random, or missing ones join. No
    number is treated unlike another, so all subsets are equally likely. A byte a number is faster than a permutation.

    Returns:
        int64 in ascending order, shape (count,).
    """
    if 50 * count <= size:  # NumPy draws so few one by one
        return np.sort(generator.choice(size, count, replace=False, shuffle=False)) if size else np.arange(0)
    threshold = round(256 * count / size)
    draws = generator.integers(0, 2**64, -(-size // 8), np.uint64).view(np.uint8)[:size]
    is_member = draws < threshold if threshold < 256 else np.ones(size, bool)
    surplus = np.count_nonzero(is_member) - count
    if surplus:
        candidates = np.flatnonzero(is_member if surplus > 0 else ~is_member)
        is_member[candidates[generator.choice(len(candidates), abs(surplus), replace=False, shuffle=False)]] = (
            surplus < 0
        )
    return np.flatnonzero(is_member)
