"""Facts about one message, and about a round's sum, for the stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from zlib import crc32

import numpy as np

from fedlit.aggregation.channel.message import Turn
from fedlit.core.streams import Purpose, bit_stream, stream
from fedlit.core.tensors import Layout, Tensors


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Facts about one message, for the stages that encode it.

    Args:
        round: the round, counted from 0.
        client: id of the client.
        seed: the experiment's seed.
        weight: weight of the client in the average.
        stage: name of the stage.
        layout: layout of the vector that the stage receives.
        shared: tensors of the stage that each client receives.
        own: tensors of the stage that this client returned last; empty in its first round.
        purpose: purpose of the random numbers.
        error_feedback: whether the client adds what was lost to its next update.
        turn: the server's message in a secure sum; None without one.
    """

    round: int
    client: int
    seed: int
    weight: float
    stage: str
    layout: Layout = field(default_factory=lambda: Layout(()))
    shared: Tensors = field(default_factory=dict)
    own: Tensors = field(default_factory=dict)
    purpose: Purpose = Purpose.CHANNEL
    error_feedback: bool = False
    turn: Turn | None = None

    @cached_property
    def generator(self) -> np.random.Generator:
        """The random numbers of this stage for this round and client."""
        return stream(self.seed, self.purpose, self.round, self.client, crc32(self.stage.encode()))

    @cached_property
    def bits(self) -> np.random.Generator:
        """A fast source of random bits for this round and client."""
        return bit_stream(self.seed, self.purpose, self.round, self.client, crc32(self.stage.encode()))

    @cached_property
    def common_generator(self) -> np.random.Generator:
        """Random numbers of this stage that a round's clients share."""
        return common_stream(self.seed, self.round, self.stage)


@dataclass(frozen=True, kw_only=True)
class SumTicket:
    """Facts about a round's sum, for the stages that open it.

    Args:
        round: the round, counted from 0.
        seed: the experiment's seed.
        clients: ids of the clients that were asked to train, also of those that failed.
        updates: number of updates in the sum.
        clipped: number of them that a clip made shorter.
        weight: sum of the weights.
        stage: name of the stage.
        layout: layout of the vector that the stage receives on a client.
        error_feedback: whether clients add what was lost to their next updates.
    """

    round: int
    seed: int
    clients: tuple[int, ...]
    updates: int
    clipped: int
    weight: float
    stage: str = ""
    layout: Layout = field(default_factory=lambda: Layout(()))
    error_feedback: bool = False

    @cached_property
    def common_generator(self) -> np.random.Generator:
        """Random numbers of this stage that a round's clients share."""
        return common_stream(self.seed, self.round, self.stage)

    @cached_property
    def noise_generator(self) -> np.random.Generator:
        """The random numbers of this stage for noise on this round's sum."""
        return stream(self.seed, Purpose.SUM_NOISE, self.round, key=crc32(self.stage.encode()))


def common_stream(seed: int, round: int, stage: str) -> np.random.Generator:
    """Make a stage's random numbers that a round's clients share."""
    return stream(seed, Purpose.COMMON, round, key=crc32(stage.encode()))
