"""The channel of stages and a codec: encode, decode, open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from fedlit.aggregation.aggregator import Aggregator
from fedlit.aggregation.channel.codec import Codec, Float32
from fedlit.aggregation.channel.exact import ExactParts
from fedlit.aggregation.channel.feedback import pack_with_feedback
from fedlit.aggregation.channel.message import NUMBER, Message, Turn
from fedlit.aggregation.channel.sorting import bind_stages, find_secure, raise_if_invalid, sort_stages, with_secure_sum
from fedlit.aggregation.channel.stage import Clip, Order, Stage
from fedlit.aggregation.channel.tickets import SumTicket, Ticket
from fedlit.aggregation.secure.secure_stage import SecureStage
from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import StageState
from fedlit.core.tensors import Layout, Tensors


@dataclass(frozen=True)
class Channel:
    """Stages in the order of the client, and a codec.

    The order on the client is: projections, the codec's own loss, clips, protections, bytes. Without a stage an update is sent
    as float32 numbers behind its weight.

    Args:
        stages: stages in ascending order: see `Channel.of`.
        codec: makes the bytes.
        error_feedback: whether a client adds what the codec lost to its next update (Karimireddy et al. 2019).
        down: codec of what the server sends; None for the exact numbers.
    """

    stages: Sequence[Stage] = ()
    codec: Codec = field(default_factory=Float32)
    error_feedback: bool = False
    down: Codec | None = None

    @classmethod
    def of(
        cls, stages: Iterable[Stage | Codec] = (), *, error_feedback: bool = False, down: Codec | None = None
    ) -> Channel:
        """Sort stages by their order.

        Args:
            stages: stages, and at most one codec, in any order.
            error_feedback: whether a client adds what the codec lost to its next update.
            down: codec of what the server sends; None for the exact numbers.

        Raises:
            ConfigError: if a stage is of another type or has no order; if two stages have one name, or two codecs are given; if
                the codec does not suit the stages.
        """
        ordered, codecs = sort_stages(stages)
        codec = codecs[0] if codecs else Float32()
        raise_if_invalid(ordered, codec, error_feedback, down)
        secure = find_secure(ordered)
        return cls(ordered, codec if secure is None else secure.codec, error_feedback, down)

    def bind(self, facts: FederationFacts) -> Channel:
        """The channel for one federation.

        Raises:
            ConfigError: if a stage does not suit it.
        """
        return replace(self, stages=bind_stages(self.stages, facts))

    @property
    def secure(self) -> SecureStage | None:
        """The stage that hides single updates from the server; None without one."""
        return find_secure(self.stages)

    def summation(self, aggregator: Aggregator) -> Aggregator:
        """The sum of messages: a secure stage's own, else the aggregator."""
        return aggregator if self.secure is None else self.secure.aggregator

    @property
    def is_plain(self) -> bool:
        """True if the message is the update's own float32 numbers."""
        return not self.stages and self.codec.is_plain

    @property
    def is_protected(self) -> bool:
        """True if a stage adds noise or a mask on the client."""
        return any(stage.order == Order.PROTECT for stage in self.stages)

    @property
    def hides_clients(self) -> bool:
        """True if nothing about single clients may be recorded."""
        return any(stage.hides_clients for stage in self.stages)

    @property
    def keeps_geometry(self) -> bool:
        """True if a decoded message is as long as the update."""
        return not self.hides_clients and self.codec.linear and all(stage.order == Order.CLIP for stage in self.stages)

    @property
    def releases_empty(self) -> bool:
        """True if the server steps in a round without any update, too."""
        return any(stage.releases_empty for stage in self.stages)

    @property
    def denominator(self) -> float | None:
        """Divisor of the opened sum; None for the sum of the weights."""
        return next((stage.denominator for stage in self.stages if stage.denominator is not None), None)

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield the errors and warnings of all stages."""
        facts = with_secure_sum(facts, self.stages)
        for stage in (*self.stages, self.codec, *([self.down] if self.down else [])):
            yield from stage.check(facts)
        if self.error_feedback and self.codec.lossless and not any(s.order == Order.PROJECT for s in self.stages):
            problem = "has no effect: the codec loses nothing"
            yield ConfigError("compression.error_feedback", True, problem, warning=True)

    def init(self, layout: Layout) -> dict[str, StageState]:
        """Make each stage's part of the server state."""
        layouts = self._layouts(layout)
        return {stage.name: stage.init(its) for stage, its in zip(self.stages, layouts, strict=False)}

    def metrics(self, states: Mapping[str, StageState]) -> dict[str, float]:
        """Figures of all stages for the round's record."""
        return {name: value for stage in self.stages for name, value in stage.metrics(states[stage.name]).items()}

    def nbytes(self, layout: Layout) -> int:
        """Maximum bytes of a message; 0 without tensors, which is not sent."""
        return self._header_nbytes + self._format.nbytes(self.encoded_layout(layout)) if layout.size else 0

    def encode(
        self,
        layout: Layout,
        vector: Tensor,
        weight: float,
        *,
        round: int,
        client: int,
        seed: int,
        states: Mapping[str, StageState],
        own: Mapping[str, Tensors],
        turn: Turn | None = None,
    ) -> tuple[bytearray, dict[str, Tensors]]:
        """Encode one client's update to a message.

        Args:
            layout: position of each named tensor in the vector.
            vector: the update, float32 of shape (d,), which may be overwritten.
            weight: weight of the client.
            round: the round, counted from 0.
            client: id of the client.
            seed: the experiment's seed.
            states: each stage's part of the server state.
            own: each stage's tensors that this client returned last.
            turn: the server's message in a secure sum; None without one.

        Returns:
            The message, and the tensors of each stage and of the codec for the next round, of a secure one for this round.
        """
        new_own: dict[str, Tensors] = {}
        facts = partial(Ticket, round=round, client=client, seed=seed, weight=weight, turn=turn)
        parts = {"own": own.get(self.codec.name) or {}, "error_feedback": self.error_feedback}
        packing = facts(stage=self.codec.name, layout=self.encoded_layout(layout), **parts)
        steps = []
        for stage, its in zip(self.stages, self._layouts(layout), strict=False):
            parts = {"shared": states[stage.name].shared, "own": own.get(stage.name) or {}}
            steps.append((stage, replace(packing, stage=stage.name, layout=its, **parts)))
        for stage, ticket in steps:
            if self.is_protected or stage.order == Order.PROJECT:
                vector, new_own[stage.name] = stage.encode(vector, ticket)
        if self.codec.lossless:
            content, sent = self.codec.pack(vector, packing), vector
        else:
            content, sent, new_own[self.codec.name] = pack_with_feedback(self._format, vector, packing)
        factor = 1.0
        for stage, ticket in steps:
            if isinstance(stage, Clip) and not self.is_protected:
                factor *= stage.factor(sent * factor if factor != 1 else sent, ticket)
        header = b"" if self.secure else NUMBER.pack(weight) + (NUMBER.pack(factor) if self._sends_factor else b"")
        return bytearray(header) + content, new_own

    def decode(self, layout: Layout, message: bytearray) -> Message:
        """Decode one message of updates with a layout."""
        if self.secure:  # the vector holds the weight
            return Message(self.codec.unpack(memoryview(message), self.encoded_layout(layout)), 0.0)
        (weight,), factor = NUMBER.unpack_from(message), 1.0
        if self._sends_factor:
            (factor,) = NUMBER.unpack_from(message, NUMBER.size)
        layout = self.encoded_layout(layout)
        content = memoryview(message)[self._header_nbytes :]
        vector = self._format.unpack(content, layout) if layout.size else torch.zeros(0)
        exact = vector if factor == 1 and vector.dtype == torch.float32 else vector.double()
        return Message(exact if factor == 1 else exact.mul_(factor), weight, factor < 1)

    def open(
        self, layout: Layout, total: Tensor, ticket: SumTicket, states: Mapping[str, StageState]
    ) -> tuple[Tensor, dict[str, StageState]]:
        """Let each stage act once on the sum, last stage first.

        Args:
            layout: layout of the updates.
            total: sum of weight * encoded vector, float64.
            ticket: facts about the sum; each stage gets its own name and layout.
            states: each stage's part of the server state.

        Returns:
            The opened sum, float64 of shape (d,), and each stage's new part of the server state.
        """
        new_states, layouts = dict(states), self._layouts(layout)
        facts = {"error_feedback": self.error_feedback}
        total = self._format.open(total, replace(ticket, stage=self.codec.name, layout=layouts[-1], **facts))
        for stage, its in zip(reversed(self.stages), reversed(layouts[:-1]), strict=True):
            own = replace(ticket, stage=stage.name, layout=its, **facts)
            total, new_states[stage.name] = stage.open(total, own, states[stage.name])
        return total, new_states

    def lose(self, ticket: SumTicket, states: Mapping[str, StageState]) -> dict[str, StageState]:
        """Each stage's part of the server state after a lost round."""
        return {stage.name: stage.lose(replace(ticket, stage=stage.name), states[stage.name]) for stage in self.stages}

    def encoded_layout(self, layout: Layout) -> Layout:
        """Layout of the vector that the codec packs."""
        return self._layouts(layout)[-1]

    def _layouts(self, layout: Layout) -> list[Layout]:
        """Layout of the vector before the first stage, and after each."""
        layouts = [layout]
        for stage in self.stages:
            layouts.append(stage.encoded_layout(layouts[-1]))
        return layouts

    @property
    def _format(self) -> Codec:
        """The codec; a lossy one keeps the exact parts."""
        return self.codec if self.codec.lossless else ExactParts(self.codec)

    @property
    def _sends_factor(self) -> bool:
        """True if a message's header has the factor of the clips."""
        return not self.is_protected and any(stage.order == Order.CLIP for stage in self.stages)

    @property
    def _header_nbytes(self) -> int:
        return 0 if self.secure else NUMBER.size * (1 + self._sends_factor)
