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
        sent = torch.cat([rest[support], exact])
        if not ticket.error_feedback:
            return sent, {}
        return sent, {RESIDUAL: split.join(rest.index_fill(0, support, 0), torch.zeros_like(exact))}

    def open(self, total: Tensor, ticket: SumTicket, state: StageState) -> tuple[Tensor, StageState]:
        """Put the sums at their positions, and 0 elsewhere."""
        split = LayoutSplit.of(ticket.layout)
        support = self._support(split, ticket.common_generator)
        factor = 1.0 if ticket.error_feedback else split.rest.size / max(1, len(support))
        rest = torch.zeros(split.rest.size, dtype=torch.float64)
        rest[support] = factor * total[: len(support)]
        return split.join(rest, total[len(support) :]), state

    def encoded_layout(self, layout: Layout) -> Layout:
        """The chosen numbers, then those that are sent exactly."""
        split = LayoutSplit.of(layout)
        sample = ("sample", self.name, (count_of(self.fraction, split.rest.size),))
        return Layout((sample, *split.exact.entries))

    def _support(self, split: LayoutSplit, generator: np.random.Generator) -> Tensor:
        """Positions of the chosen numbers, in ascending order."""
        size = split.rest.size
        chosen = generator.choice(size, count_of(self.fraction, size), replace=False, shuffle=False)
        return torch.from_numpy(np.sort(chosen)) if size else torch.zeros(0, dtype=torch.int64)
