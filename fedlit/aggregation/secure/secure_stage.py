"""The joint for secure aggregation and encryption: stages that need several exchanges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedlit.aggregation.aggregator import Aggregator
from fedlit.aggregation.channel.codec import Codec
from fedlit.aggregation.channel.stage import Order, Stage
from fedlit.aggregation.channel.tickets import Ticket
from fedlit.aggregation.privacy.skellam.grid import SkellamGrid
from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts, SecureSumFacts
from fedlit.core.tensors import Layout, Tensors


class GroupSession(ABC):
    """The server's half of a secure stage: one group, one round.

    Each exchange is `requests`, `receive` for each reply, and `close`. The exchange that carries the updates receives an empty
    reply for each update that arrived.
    """

    @abstractmethod
    def requests(self) -> Mapping[int, bytes]:
        """The message of the open exchange to each client that takes part."""

    @abstractmethod
    def receive(self, client: int, reply: bytes) -> None:
        """Take a client's reply in the open exchange.

        Raises:
            ValueError: if the reply is not allowed; the client is then lost.
        """

    @abstractmethod
    def close(self) -> None:
        """End the open exchange.

        Raises:
            LostGroup: if too few clients replied.
        """

    @abstractmethod
    def add(self, total: Tensor) -> None:
        """Add a worker's sum of encoded vectors."""

    @abstractmethod
    def finish(self) -> Tensor:
        """Open the sum, after the last exchange.

        Returns:
            The sum in the clear, int64.

        Raises:
            LostGroup: if the sum cannot be opened.
        """


@dataclass(frozen=True)
class OpenedSum:
    """A round's sum in the clear.

    Args:
        total: sum of weight * vector, float64 of shape (d,).
        weight: sum of the weights.
        clipped: number of coordinates that clients clipped.
    """

    total: Tensor
    weight: float
    clipped: int


class SecureStage(Stage):
    """A stage that shows the server sums, and no single update.

    It is the last stage on the client. `encode` applies the weight, and makes integers for the stage's own codec and
    aggregator. The tensors that it returns are pending: the client gets them back in the next exchange of the same round.

    Attributes:
        before: names of the exchanges before the clients train.
        carrier: name of the exchange that carries the updates.
        after: names of the exchanges after it.
        is_simulated: True if the bytes of `exchange_nbytes` are counted and never sent.
    """

    order = Order.PROTECT
    before: ClassVar[tuple[str, ...]] = ()
    carrier: ClassVar[str] = "input"
    after: ClassVar[tuple[str, ...]] = ()
    is_simulated: ClassVar[bool] = False

    @property
    def hides_clients(self) -> bool:
        """True: the server learns sums alone."""
        return True

    @property
    @abstractmethod
    def codec(self) -> Codec:
        """The codec of encoded vectors."""

    @property
    @abstractmethod
    def aggregator(self) -> Aggregator:
        """The sum of encoded vectors."""

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors for parts that need single updates.

        Pending secrets that some worker cannot open are an error too.
        """
        if facts.keeps_messages:
            problem = "hides each update, and the aggregator needs them one by one"
            yield ConfigError("encryption", "", problem, "leave out `aggregator`: the default is the weighted mean")
        if facts.sampling.by_loss:
            problem = "hides what clients know, and the sampler asks for their losses"
            yield ConfigError("encryption", "", problem, "use sampler=uniform")
        if self.before and not facts.has_common_key:
            problem = "seals keys of clients between exchanges, and this executor's workers have no common key"
            yield ConfigError("encryption", "", problem, "use executor=processes or inline")

    @abstractmethod
    def groups(self, cohort: Sequence[int]) -> Sequence[tuple[int, ...]]:
        """Cut a cohort into the groups whose sums the server sees."""

    @abstractmethod
    def begin(self, group: int, clients: Sequence[int], *, round: int, seed: int, layout: Layout) -> GroupSession:
        """Begin the server's half for one group.

        Args:
            group: number of the group in the round, counted from 0.
            clients: the group.
            round: the round, counted from 0.
            seed: the experiment's seed.
            layout: layout of the vector that the stage receives.

        Raises:
            LostGroup: if the group is too small.
        """

    def reply(self, ticket: Ticket) -> tuple[bytes, Tensors]:
        """The client's half of an exchange that carries no update.

        Args:
            ticket: facts about the message; its `turn` has the server's message.

        Returns:
            The reply, and the client's pending tensors.

        Raises:
            ValueError: if the client refuses to answer.
        """
        raise ValueError(f"{self.name} has no exchange without updates")

    @abstractmethod
    def open_sum(self, total: Tensor, layout: Layout) -> OpenedSum:
        """The sum of all groups as real numbers.

        Args:
            total: sum of the groups' sums, int64.
            layout: layout of the vector that the stage receives.
        """

    def sum_facts(self, facts: FederationFacts) -> SecureSumFacts | None:
        """The groups of a federation's cohorts.

        None, the default, is for a sum that takes no noise of clients.
        """
        return None

    def with_noise(self, grid: SkellamGrid) -> SecureStage:
        """The same stage with another grid, on which clients add noise.

        Raises:
            ConfigError: if the stage takes no noise.
        """
        raise ConfigError("encryption", "", "takes no noise of clients", "take encryption=secagg")

    def weight_error(self, weight: float) -> ConfigError | None:
        """An error unless a client can have this weight; None by default."""
        return None

    def exchange_nbytes(self, clients: int, layout: Layout) -> tuple[int, int]:
        """Bytes of one client's messages besides the update.

        They are a pair: to the server, and from it. They are 0 by default.

        Args:
            clients: clients of the group; none is lost.
            layout: layout of the vector that the stage receives.
        """
        return 0, 0

    def describe(self, cohort: int) -> str:
        """The groups of a cohort, and the losses that they survive."""
        return f"{len(self.groups(range(cohort)))} groups"

    @property
    def exchanges(self) -> tuple[str, ...]:
        """Names of all exchanges of a round, in their order."""
        return (*self.before, self.carrier, *self.after)
