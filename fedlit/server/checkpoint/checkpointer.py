"""The joint for checkpoints: a checkpointer stores each round of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from fedlit.core.errors import raise_errors, require_at_least
from fedlit.core.messages import ServerState
from fedlit.runs.record import RoundRecord
from fedlit.server.client_store import ClientStateStore


@dataclass(frozen=True)
class Retention:
    """The checkpoints that a run keeps.

    Args:
        keep: number of the newest checkpoints, >= 1.
        every: also the checkpoints of the rounds that this number divides, >= 1; None for no others.
    """

    keep: int = 2
    every: int | None = None

    def __post_init__(self) -> None:
        raise_errors(
            require_at_least("keep", self.keep), require_at_least("every", 1 if self.every is None else self.every)
        )

    def select_rounds(self, rounds: list[int]) -> set[int]:
        """The rounds, of these ascending ones, whose checkpoints are kept."""
        return {*rounds[-self.keep :], *(r for r in rounds if self.every is not None and r % self.every == 0)}


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to resume.

    Args:
        state: the server state.
        client_states: the store of client states.
        records: the records of all finished rounds, as in rounds.jsonl.
    """

    state: ServerState
    client_states: ClientStateStore
    records: tuple[Mapping[str, Any], ...] = ()

    @property
    def last(self) -> RoundRecord | None:
        """The record of the last finished round."""
        return RoundRecord.from_dict(self.records[-1]) if self.records else None

    @property
    def lost_in_a_row(self) -> int:
        """Number of lost rounds in a row at the end.

        Rounds without a client to ask do not count.
        """
        attempted = [record for record in self.records if RoundRecord.from_dict(record).attempted]
        successful = [number for number, record in enumerate(attempted, 1) if not record["lost"]]
        return len(attempted) - (successful[-1] if successful else 0)


class Checkpointer(ABC):
    """Storage of a run's rounds."""

    @abstractmethod
    def open(self, experiment: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Reserve the stored rounds for one experiment and this process.

        The reservation ends with the block.

        Args:
            experiment: the fingerprint of the experiment, as plain values by name: see `fingerprint`.
        """

    @abstractmethod
    def load(self) -> Checkpoint | None:
        """The checkpoint of the newest valid round; None if there is none."""

    @abstractmethod
    def commit(self, state: ServerState, client_states: ClientStateStore, record: RoundRecord) -> None:
        """Store a round: all of it or nothing."""

    def finish(self) -> None:  # noqa: B027
        """Act once after the last round; by default nothing happens."""


class NoCheckpoints(Checkpointer):
    """No storage: for a federation in a script."""

    def open(self, experiment: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Return a context without effect."""
        return nullcontext()

    def load(self) -> Checkpoint | None:
        """Return None."""
        return None

    def commit(self, state: ServerState, client_states: ClientStateStore, record: RoundRecord) -> None:
        """Store nothing."""
