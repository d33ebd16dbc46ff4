"""The store of client states between rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from fedlit.core.tensors import Groups


class StoredClientStates(Protocol):
    """Client states that a checkpointer has stored outside this process.

    Attributes:
        last_update: the round, counted from 1, that stored each client's state.
    """

    last_update: Mapping[int, int]

    def read(self, clients: Iterable[int]) -> dict[int, Groups]:
        """The states of clients that all have one."""
        ...


class ClientStateStore:
    """The state of each client that has one.

    It is read for a round's jobs and updated once at the round's end. A client whose update is not in the sum keeps its old
    state. Only states that no checkpointer has stored yet are in memory.

    Args:
        states: client states in memory.
        stored: client states of earlier rounds.
    """

    def __init__(self, states: Mapping[int, Groups] | None = None, stored: StoredClientStates | None = None) -> None:
        self._states: dict[int, Groups] = dict(states or {})
        self._removed: set[int] = set()
        self._stored = stored

    @property
    def last_update(self) -> Mapping[int, int]:
        """The round, counted from 1, that stored each stored state."""
        return {} if self._stored is None else self._stored.last_update

    @property
    def changed(self) -> Mapping[int, Groups]:
        """The client states that no checkpointer has stored yet."""
        return self._states

    @property
    def removed(self) -> Iterable[int]:
        """The clients whose stored state is no longer valid."""
        return self._removed

    def read(self, clients: Iterable[int]) -> dict[int, Groups]:
        """The states of those of the clients that have one."""
        present = [client for client in clients if client in self]
        stored = [client for client in present if client not in self._states]
        found = self._stored.read(stored) if self._stored is not None and stored else {}
        return {client: found[client] if client in found else self._states[client] for client in present}

    def update(self, states: Mapping[int, Groups]) -> None:
        """Replace client states; an empty state removes the client's."""
        for client, state in states.items():
            if state:
                self._states[client] = state
                self._removed.discard(client)
            else:
                self._states.pop(client, None)
                if client in self.last_update:
                    self._removed.add(client)

    def charge(self, spent: Mapping[int, Groups]) -> None:
        """Add privacy histories to client states.

        The clients may be missing in the sum.

        Args:
            spent: the groups with the history of each client.
        """
        states = self.read(spent)
        self.update({client: {**states.get(client, {}), **groups} for client, groups in spent.items()})

    def move_to(self, stored: StoredClientStates) -> None:
        """Forget the states in memory, which a checkpointer has stored.

        Args:
            stored: all client states, as they are now.
        """
        self._states, self._removed, self._stored = {}, set(), stored

    def __contains__(self, client: int) -> bool:
        return client in self._states or (client in self.last_update and client not in self._removed)

    def __len__(self) -> int:
        new = sum(client not in self.last_update for client in self._states)
        return new + len(self.last_update) - len(self._removed)
