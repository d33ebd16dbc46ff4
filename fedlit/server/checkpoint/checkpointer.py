"""TODO."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from fedlit.core.errors import raise_errors, require_at_least
from fedlit.core.messages import ServerState
from fedlit.runs.record import RoundRecord
from fedlit.server.client_store import ClientStateStore


@dataclass(frozen=True)
class Retention:
    """Which commits are kept.

    Args:
        keep: so many of the newest, >= 1.
        every: and each of a round that this divides, >= 1; None for none.
    """

    keep: int = 2
    every: int | None = None

    def __post_init__(self) -> None:
        raise_errors(
            require_at_least("keep", self.keep), require_at_least("every", 1 if self.every is None else self.every)
        )

    def select_rounds(self, rounds: list[int]) -> set[int]:
        """Those of the rounds, ascending, whose commits are kept."""
        return {*rounds[-self.keep :], *(r for r in rounds if self.every is not None and r % self.every == 0)}


@dataclass(frozen=True)
class Checkpoint:
    """Where a run goes on.

    Args:
        state: of the server.
        store: what the clients remember.
        records: of all rounds done, as in rounds.jsonl.
    """

    state: ServerState
    client_states: ClientStateStore
    records: tuple[Mapping[str, Any], ...] = ()

    @property
    def last(self) -> RoundRecord | None:
        """The last round done."""
        return RoundRecord.from_dict(self.records[-1]) if self.records else None

    @property
    def lost_in_a_row(self) -> int:
        """How many rounds in a row were lost before the next; those without anybody to ask are not counted."""
        tried = [record for record in self.records if RoundRecord.from_dict(record).attempted]
        good = [number for number, record in enumerate(tried, 1) if not record["lost"]]
        return len(tried) - (good[-1] if good else 0)


class Checkpointer(Protocol):
    """Keeps a run's rounds."""

    def open(self, experiment: Mapping[str, Any]) -> AbstractContextManager[None]:
        """In the block the rounds are those of an experiment, and no other process's.

        Args:
            experiment: what makes it, as plain values by name: see `digests.fingerprint`.
        """
        ...

    def load(self) -> Checkpoint | None:
        """The newest round that is whole; None if there is none."""
        ...

    def commit(self, state: ServerState, store: ClientStateStore, record: RoundRecord) -> None:
        """Keeps a round: all of it or nothing."""
        ...

    def finish(self) -> None:
        """The run has come to its end."""
        ...


class NoCheckpoints:
    """Keeps nothing: for a federation in a script of one's own."""

    def open(self, experiment: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Does nothing."""
        return nullcontext()

    def load(self) -> Checkpoint | None:
        """None."""
        return None

    def commit(self, state: ServerState, store: ClientStateStore, record: RoundRecord) -> None:
        """Does nothing."""

    def finish(self) -> None:
        """Does nothing."""
