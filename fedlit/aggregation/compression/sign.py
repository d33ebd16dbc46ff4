"""One bit a number: scaled signs, or a majority vote.

Scaled sign: Karimireddy, Rebjock, Stich, Jaggi, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", ICML
2019, https://arxiv.org/abs/1901.09847, Algorithm 1 (EF-SignSGD); the scale is per tensor, as in the paper's code.
Majority vote: Bernstein, Zhao, Azizzadenesheli, Anandkumar, "signSGD with Majority Vote is Communication Efficient and Fault
Tolerant", ICLR 2019, https://arxiv.org/abs/1810.05291, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedlit.aggregation.channel.codec import Codec
from fedlit.aggregation.channel.tickets import SumTicket, Ticket
from fedlit.aggregation.compression.segments import Segments, blocks
from fedlit.core.errors import ConfigError, raise_errors, require_choice, require_positive
from fedlit.core.facts import FederationFacts
from fedlit.core.tensors import Layout


@dataclass(frozen=True)
class Sign(Codec):
    """Send one bit a number.

    A 0 becomes + or - at random.

    Args:
        vote: `scaled` sends (||u||_1 / d) sign(u) of each tensor u of d numbers, and the server averages. `majority` sends the
            signs alone, and the server moves each number by `step` in the direction of the larger weight.
        step: distance that a majority vote moves each number, > 0.
    """

    vote: Literal["scaled", "majority"] = "scaled"
    step: float = 0.001

    def __post_init__(self) -> None:
        raise_errors(require_choice("vote", self.vote, ("scaled", "majority")), require_positive("step", self.step))

    @property
    def linear(self) -> bool:
        """False for a majority vote."""
        return self.vote == "scaled"

    @property
    def contracts(self) -> bool:
        """False for a majority vote.

        Its step does not depend on the size of an update.
        """
        return self.vote == "scaled"

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield an error if a vote would move more than parameters."""
        others = [group for group in facts.update_numbers if group not in ("parameters", "buffers")]
        if self.vote == "majority" and others:
            problem = (
                f"moves each number by {self.step:g}, which has no meaning for {', '.join(others)} of {facts.algorithm}"
            )
            yield ConfigError("compression.vote", "majority", problem, "compression.vote=scaled, or algorithm=fedavg")

    @np.errstate(invalid="ignore", over="ignore")  # NaN and infinity arrive as such, and the server refuses them
    def pack(self, vector: Tensor, ticket: Ticket) -> bytes:
        """Pack the signs, behind the scales of the tensors."""
        values, parts = vector.numpy(), []
        if self.linear:
            segments = Segments.of_tensors(ticket.layout)
            parts.append((segments.absolute_sums(values) / segments.lengths).astype("<f4").data)
        for block in blocks(len(values)):
            is_positive = values[block] > 0
            is_zero = values[block] == 0
            if is_zero.any():
                zeros = np.flatnonzero(is_zero)
                is_positive[zeros] = ticket.generator.integers(0, 2, len(zeros), np.uint8)
            parts.append(np.packbits(is_positive, bitorder="little").data)
        return b"".join(parts)

    @np.errstate(invalid="ignore")
    def unpack(self, content: memoryview, layout: Layout) -> Tensor:
        """Return plus or minus the scale of each number's tensor, or 1."""
        vector = np.empty(layout.size, np.float32)
        segments = Segments.of_tensors(layout) if self.linear else None
        scales = np.frombuffer(content, "<f4", len(segments or ()))
        packed = np.frombuffer(content, np.uint8, offset=scales.nbytes)
        for block in blocks(layout.size):
            part, bits = vector[block], packed[block.start // 8 : -(-block.stop // 8)]
            signs = np.unpackbits(bits, count=len(part), bitorder="little").view(np.int8)
            signs += signs
            signs -= 1
            part[:] = signs
            if segments is not None:
                segments.multiply(part, scales, block, out=part)
        return torch.from_numpy(vector)

    def open(self, total: Tensor, ticket: SumTicket) -> Tensor:
        """Replace the sum by the result of the vote, times the weight."""
        return total if self.linear else total.sign() * (self.step * ticket.weight)

    def nbytes(self, layout: Layout) -> int:
        """Length of the packed vector in bytes."""
        return (4 * len(Segments.of_tensors(layout)) if self.linear else 0) + -(-layout.size // 8)
