"""The store of client states between rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedlit.core.tensors import Groups


class ClientStateStore:
    """The state of each client that has one.

    It is read for a round's jobs and updated once at the round's end. A client whose update is not in the sum keeps its old
    state.

    Args:
        states: client states of an earlier run.
        last_update: for each of them the round, counted from 1, that last updated it.
    """

    def __init__(
        self, states: Mapping[int, Groups] | None = None, last_update: Mapping[int, int] | None = None
    ) -> None:
        self._states: dict[int, Groups] = dict(states or {})
        self.last_update: dict[int, int] = dict(last_update or {})

    def read(self, clients: Iterable[int]) -> dict[int, Groups]:
        """The states of those of the clients that have one."""
        return {client: self._states[client] for client in clients if client in self._states}

    def update(self, round: int, states: Mapping[int, Groups]) -> None:
        """Replace client states; an empty state removes the client's.

        Args:
            round: the round of the new states, counted from 1.
            states: the new state of each client.
        """
        for client, state in states.items():
            if state:
                self._states[client], self.last_update[client] = state, round
            elif client in self._states:
                del self._states[client], self.last_update[client]

    def changed_in(self, round: int) -> dict[int, Groups]:
        """The client states that a round, counted from 1, updated last."""
        return {client: self._states[client] for client, last in self.last_update.items() if last == round}

    def __len__(self) -> int:
        return len(self._states)
