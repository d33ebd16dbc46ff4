"""Random sparsification with one support for all clients of a round.

Stich, Cordonnier, Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, https://arxiv.org/abs/1809.07599, Definition 2.1. The
support is drawn from the round's random numbers, which the server knows. So no positions are sent, and messages are added as
they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedlit.aggregation.channel.exact import LayoutSplit
from fedlit.aggregation.channel.feedback import RESIDUAL, with_residual
from fedlit.aggregation.channel.stage import Order, Stage
from fedlit.aggregation.channel.tickets import SumTicket, Ticket, common_stream
from fedlit.aggregation.compression.topk import count_of, fraction_error
from fedlit.core.errors import raise_errors
from fedlit.core.messages import StageState
from fedlit.core.tensors import Layout, Tensors

SUBSET_BLOCK = 1 << 17
"""Numbers of a block whose members are drawn together."""

MAX_HYPERGEOMETRIC = 10**9
"""Numbers of which NumPy draws no hypergeometric count."""


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
        support = self._support(split, ticket)
        sent = torch.cat([torch.from_numpy(rest.numpy()[support]), exact])
        if not ticket.error_feedback:
            return sent, {}
        return sent, {RESIDUAL: split.join(rest.index_fill(0, torch.from_numpy(support), 0), torch.zeros_like(exact))}

    def open(self, total: Tensor, ticket: SumTicket, state: StageState) -> tuple[Tensor, StageState]:
        """Put the sums at their positions, and 0 elsewhere."""
        split = LayoutSplit.of(ticket.layout)
        support = self._support(split, ticket)
        factor = 1.0 if ticket.error_feedback else split.rest.size / max(1, len(support))
        rest = np.zeros(split.rest.size)  # unlike torch.zeros it takes memory that is zero already
        rest[support] = factor * total[: len(support)].numpy()
        return split.join(torch.from_numpy(rest), total[len(support) :]), state

    def encoded_layout(self, layout: Layout) -> Layout:
        """The chosen numbers, then those that are sent exactly."""
        split = LayoutSplit.of(layout)
        sample = ("sample", self.name, (count_of(self.fraction, split.rest.size),))
        return Layout((sample, *split.exact.entries))

    def _support(self, split: LayoutSplit, ticket: Ticket | SumTicket) -> np.ndarray:
        """Positions of the chosen numbers, int64 in ascending order."""
        size = split.rest.size
        return _draw_support(ticket.seed, ticket.round, ticket.stage, size, count_of(self.fraction, size))


@lru_cache(maxsize=1)
def _draw_support(seed: int, round: int, stage: str, size: int, count: int) -> np.ndarray:
    """Draw a round's support.

    The clients of a round in one process draw it once.
    """
    return draw_subset(size, count, common_stream(seed, round, stage))


def draw_subset(size: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """A random subset of `count` of the numbers below `size`.

    All subsets are equally likely. For large subsets the numbers are cut into blocks: the members in each block have a
    multivariate hypergeometric distribution, and are a random subset of the block. So all steps stay in the processor's cache.

    Returns:
        int64 in ascending order, shape (count,).
    """
    is_small = 50 * count <= size or size <= SUBSET_BLOCK  # NumPy draws so few one by one
    if is_small or size >= MAX_HYPERGEOMETRIC:
        return np.sort(generator.choice(size, count, replace=False, shuffle=False)) if size else np.arange(0)
    starts = np.arange(0, size, SUBSET_BLOCK)
    sizes = np.diff(starts, append=size)
    counts = generator.multivariate_hypergeometric(sizes, count)
    members = np.empty(count, np.int64)
    stop = 0
    for start, numbers, chosen in zip(starts, sizes, counts, strict=True):
        part = members[stop : (stop := stop + chosen)]
        part[:] = generator.choice(numbers, chosen, replace=False, shuffle=False)
        part.sort()
        part += start
    return members
