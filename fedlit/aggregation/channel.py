"""The channel: ordered stages between a client's update and the sum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedlit.aggregation.packing import HEADER, Float32Packing
from fedlit.aggregation.stage import Order, Packing, Stage, Ticket
from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import StageState
from fedlit.core.tensors import Groups, Layout, Tensors

CHANNEL_PREFIX = "channel/"
"""Prefix of the groups in a client state that belong to the channel's stages."""


@dataclass(frozen=True)
class Channel:
    """Stages in the order of the client, and the packing to bytes.

    Without a stage an update is sent as float32 numbers behind its weight.

    Args:
        stages: stages in ascending order: see `Channel.of`.
        packing: the last stage, which makes bytes.
    """

    stages: Sequence[Stage] = ()
    packing: Packing = field(default_factory=Float32Packing)

    @classmethod
    def of(cls, stages: Iterable[Stage | Packing]) -> Channel:
        """Sort stages by their order.

        Raises:
            ConfigError: if a stage is of another type, has no order, needs several exchanges, or is linear with a `decode`; if
                two stages have one name or both pack.
        """
        by_order: dict[Order, list[Any]] = {order: [] for order in Order}
        for stage in stages:
            if not isinstance(stage, Stage | Packing):
                hint = "subclass fedlit.Stage or fedlit.aggregation.Packing"
                raise ConfigError("channel", type(stage).__name__, "is not a stage of the channel", hint)
            if not hasattr(stage, "order"):
                hint = "set order = Order.PROJECT, Order.CLIP or Order.PROTECT in the class"
                raise ConfigError("channel", type(stage).__name__, "has no `order` among the stages", hint)
            by_order[stage.order].append(stage)
        packings = by_order.pop(Order.PACK)
        ordered: list[Stage] = [stage for order in by_order for stage in by_order[order]]
        names = [stage.name for stage in ordered]
        for stage in ordered:
            if names.count(stage.name) > 1:
                raise ConfigError("channel", stage.name, "names two stages", "give one of them another `name`")
            if stage.linear and type(stage).decode is not Stage.decode:
                problem = "has a `decode`, which a linear stage never calls"
                raise ConfigError("channel", stage.name, problem, "set linear = False in the class")
            if stage.exchanges != 1:
                problem = f"needs {stage.exchanges} exchanges with the server, and the channel has 1"
                raise ConfigError("channel", stage.name, problem, "leave the stage out")
        if len(packings) > 1:
            named = " and ".join(type(packing).__name__ for packing in packings)
            raise ConfigError("channel", named, "both pack an update to bytes", "leave one of them out")
        return cls(ordered, *packings)

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield the errors and warnings of all stages."""
        for stage in (*self.stages, self.packing):
            yield from stage.check(facts)

    def init(self, layout: Layout) -> dict[str, StageState]:
        """Make each stage's part of the server state."""
        return {stage.name: stage.init(layout) for stage in self.stages}

    def nbytes(self, layout: Layout) -> int:
        """Length of a client's message in bytes.

        It is 0 for an update without tensors, which is not sent.
        """
        if not layout.size:
            return 0
        return HEADER.size + self.packing.nbytes(self._encoded_size(layout))

    def encode(
        self,
        layout: Layout,
        groups: Groups,
        weight: float,
        *,
        round: int,
        client: int,
        seed: int,
        states: Mapping[str, StageState],
        own: Mapping[str, Tensors],
    ) -> tuple[bytearray, dict[str, Tensors]]:
        """Encode one client's update to a message.

        Args:
            layout: position of each named tensor in the vector.
            groups: the update.
            weight: weight of the client.
            round: the round, counted from 0.
            client: id of the client.
            seed: the experiment's seed.
            states: each stage's part of the server state.
            own: each stage's tensors that this client returned last.

        Returns:
            The message, and each stage's tensors of this client for its next round.

        Raises:
            ValueError: if names or shapes differ from the layout.
        """
        vector, new_own = layout.vector(groups), {}
        facts = {"round": round, "client": client, "seed": seed, "weight": weight}
        for stage in self.stages:
            ticket = Ticket(**facts, stage=stage.name, shared=states[stage.name].shared, own=own.get(stage.name) or {})
            vector, new_own[stage.name] = stage.encode(vector, ticket)
        message = bytearray(HEADER.pack(weight))
        message += self.packing.pack(vector)
        return message, new_own

    def decode(self, layout: Layout, message: bytearray) -> tuple[Tensor, float]:
        """Decode one message.

        Returns:
            The vector that is added to the sum, float32, and the client's weight.
        """
        (weight,) = HEADER.unpack_from(message)
        size = self._encoded_size(layout)
        vector = self.packing.unpack(memoryview(message)[HEADER.size :], size) if size else torch.zeros(0)
        for stage in reversed(self.stages):
            if not stage.linear:
                vector = stage.decode(vector)
        return vector, weight

    def open(
        self, total: Tensor, cohort: int, states: Mapping[str, StageState]
    ) -> tuple[Tensor, dict[str, StageState]]:
        """Let each stage act once on the sum, last stage first.

        Returns:
            The opened sum, float64 of shape (d,), and each stage's new part of the server state.
        """
        new_states = dict(states)
        for stage in reversed(self.stages):
            total, new_states[stage.name] = stage.open(total, cohort, states[stage.name])
        return total, new_states

    def _encoded_size(self, layout: Layout) -> int:
        size = layout.size
        for stage in self.stages:
            size = stage.size(size)
        return size


def channel_states(client_state: Groups) -> dict[str, Tensors]:
    """Each stage's tensors in a client state, by the stage's name."""
    return {
        group.removeprefix(CHANNEL_PREFIX): tensors
        for group, tensors in client_state.items()
        if group.startswith(CHANNEL_PREFIX)
    }


def pack_channel_states(own: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """Each stage's tensors as groups of a client state.

    A stage without tensors has no group.
    """
    return {f"{CHANNEL_PREFIX}{stage}": tensors for stage, tensors in own.items() if tensors}
