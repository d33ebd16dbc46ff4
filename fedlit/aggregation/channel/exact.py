"""The parts of an update that are sent exactly, whatever the codec.

These are buffers, and tensors of shape (), such as the denominators of FedNova and q-FedAvg. Stochastic rounding, error
feedback and factors for unbiased results can move a number past 0. A running variance must not become negative, a
denominator must not become 0, and a counter must stay whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from fedlit.aggregation.channel.codec import Codec, Float32
from fedlit.aggregation.channel.tickets import SumTicket, Ticket
from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.core.tensors import Layout


@dataclass(frozen=True)
class LayoutSplit:
    """A layout, split into exact tensors and the rest.

    Args:
        rest: layout of the tensors that a codec may change.
        exact: layout of the tensors that are sent exactly.
        runs: (is exact, number of numbers) of each run of tensors, in the layout's order.
    """

    rest: Layout
    exact: Layout
    runs: tuple[tuple[bool, int], ...]

    @classmethod
    def of(cls, layout: Layout) -> LayoutSplit:
        """Split a layout."""
        return _split(layout)

    def take(self, vector: Tensor, is_exact: bool) -> Tensor:
        """The exact numbers of a vector, or the rest.

        The result is a view if the numbers are one run.
        """
        parts = vector.split([size for _, size in self.runs])
        chosen = [part for part, (exact, _) in zip(parts, self.runs, strict=True) if exact == is_exact]
        return chosen[0] if len(chosen) == 1 else torch.cat([vector[:0], *chosen])

    def join(self, rest: Tensor, exact: Tensor) -> Tensor:
        """The vector of the rest and the exact numbers.

        Without exact numbers it is the rest itself.
        """
        if not len(exact):
            return rest
        parts = {is_exact: self._runs(part, is_exact) for is_exact, part in ((False, rest), (True, exact))}
        return torch.cat([next(parts[is_exact]) for is_exact, _ in self.runs])

    def _runs(self, vector: Tensor, is_exact: bool) -> Iterator[Tensor]:
        """Iterate over the runs in the exact numbers, or in the rest."""
        return iter(vector.split([size for exact, size in self.runs if exact == is_exact]))


@lru_cache(maxsize=16)
def _split(layout: Layout) -> LayoutSplit:
    rest, exact, runs = [], [], []
    for entry in layout.entries:
        group, _, shape = entry
        is_exact = group == "buffers" or shape == ()
        (exact if is_exact else rest).append(entry)
        before = runs.pop()[1] if runs and runs[-1][0] == is_exact else 0
        runs.append((is_exact, before + prod(shape)))
    return LayoutSplit(Layout(tuple(rest)), Layout(tuple(exact)), tuple(runs))


@dataclass(frozen=True)
class ExactParts(Codec):
    """A lossy codec for the tensors that it may change.

    Args:
        codec: packs them; the others are sent as float32 before them.
    """

    codec: Codec

    @property
    def lossless(self) -> bool:  # type: ignore[override]
        """The codec's value."""
        return self.codec.lossless

    @property
    def packs_weights(self) -> bool:  # type: ignore[override]
        """The codec's value."""
        return self.codec.packs_weights

    @property
    def is_plain(self) -> bool:
        """False: the exact numbers are packed before the others."""
        return False

    @property
    def linear(self) -> bool:
        """The codec's value."""
        return self.codec.linear

    @property
    def contracts(self) -> bool:
        """The codec's value."""
        return self.codec.contracts

    @property
    def name(self) -> str:
        """The codec's name."""
        return self.codec.name

    def check(self, facts: FederationFacts) -> Iterable[ConfigError]:
        """The codec's errors and warnings."""
        return self.codec.check(facts)

    def pack(self, vector: Tensor, ticket: Ticket) -> bytes | bytearray | memoryview:
        """Pack the exact numbers, then the rest."""
        split = LayoutSplit.of(ticket.layout)
        rest = self.codec.pack(split.take(vector, False), replace(ticket, layout=split.rest))
        if not split.exact.size:
            return rest
        return b"".join([Float32().pack(split.take(vector, True), ticket), rest])

    def unpack(self, content: memoryview, layout: Layout) -> Tensor:
        """Return the exact numbers between the others."""
        split = LayoutSplit.of(layout)
        stop = Float32().nbytes(split.exact)
        exact = Float32().unpack(content[:stop], split.exact)
        return split.join(self.codec.unpack(content[stop:], split.rest), exact)

    def open(self, total: Tensor, ticket: SumTicket) -> Tensor:
        """Let the codec act on the sum without the exact numbers."""
        split = LayoutSplit.of(ticket.layout)
        opened = self.codec.open(split.take(total, False), replace(ticket, layout=split.rest))
        return split.join(opened, split.take(total, True))

    def nbytes(self, layout: Layout) -> int:
        """Maximum length of a packed vector in bytes."""
        split = LayoutSplit.of(layout)
        return Float32().nbytes(split.exact) + self.codec.nbytes(split.rest)
