"""What clients remember between rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedlit.core.tensors import Groups


class ClientStateStore:
    """The memory of each client that has one. Read for a round's jobs, written once at its end: a client whose update was
    left out remembers what it did before.

    Args:
        memories: of clients, from an earlier run.
        since: for each of them the round, counted from 1, after which it remembered that.
    """

    def __init__(self, memories: Mapping[int, Groups] | None = None, since: Mapping[int, int] | None = None) -> None:
        self._memories: dict[int, Groups] = dict(memories or {})
        self.last_update: dict[int, int] = dict(since or {})

    def read(self, clients: Iterable[int]) -> dict[int, Groups]:
        """The memories of those of the clients that have one."""
        return {client: self._memories[client] for client in clients if client in self._memories}

    def update(self, round: int, memories: Mapping[int, Groups]) -> None:
        """Takes the place of what the clients remembered before; an empty memory is none.

        Args:
            round: whose memories these are, counted from 1.
            memories: by client.
        """
        for client, memory in memories.items():
            if memory:
                self._memories[client], self.last_update[client] = memory, round
            elif client in self._memories:
                del self._memories[client], self.last_update[client]

    def changed_in(self, round: int) -> dict[int, Groups]:
        """The memories that changed in a round."""
        return {client: self._memories[client] for client, since in self.last_update.items() if since == round}

    def __len__(self) -> int:
        return len(self._memories)
