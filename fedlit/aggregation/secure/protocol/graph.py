"""Neighbours of each client, with which it shares masks and secrets.

In a complete graph they are all clients (Bonawitz et al. 2017). In a k-regular graph the clients stand on a random ring, and
each has the k nearest as neighbours, half on each side (Bell et al., Secure Single-Server Aggregation with (Poly)Logarithmic
Overhead, CCS 2020, https://eprint.iacr.org/2020/704, Section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

MIN_CLIENTS = 3
"""With two clients each can subtract its own update from the sum."""


def default_threshold(clients: int) -> int:
    """The threshold floor(2n/3) + 1, but never more than n."""
    return min(clients, 2 * clients // 3 + 1)


@dataclass(frozen=True)
class Thresholds:
    """The clients that a group needs in each exchange.

    Args:
        clients: n, clients of the group, >= 3.
        group: survivors that the group needs.
        neighbourhood: members of a client's neighbourhood that can rebuild its secrets.
        members: members of a client's neighbourhood, itself included.
    """

    clients: int
    group: int
    neighbourhood: int
    members: int

    @property
    def losses(self) -> int:
        """Losses that the group survives.

        A complete graph survives any such losses. In a k-regular graph a neighbourhood can lose too many of its own.
        """
        return self.clients - self.group


def make_thresholds(
    clients: int, threshold: float | None, neighbours: int | None, survivors: int = MIN_CLIENTS
) -> Thresholds:
    """The thresholds of a group.

    Args:
        clients: n, clients of the group.
        threshold: part of the group that must survive, in (0.5, 1], and never fewer than 3; None for floor(2n/3) + 1.
        neighbours: k; None for a complete graph.
        survivors: least number of survivors of any group, >= 3; more than 3 if their noise would not suffice.

    Raises:
        ValueError: if the group has fewer clients than `survivors`.
    """
    if clients < survivors:
        raise ValueError(f"a group of {clients} clients is too small: it needs {survivors}")
    group = (
        default_threshold(clients)
        if threshold is None
        else max(MIN_CLIENTS, clients // 2 + 1, ceil(threshold * clients))
    )
    group = max(group, survivors)
    size = clients if neighbours is None else min(clients, neighbours + 1)
    return Thresholds(clients, group, min(size, max(size // 2 + 1, ceil(size * group / clients))), size)


def make_neighbourhoods(
    clients: Sequence[int], neighbours: int | None, generator: np.random.Generator
) -> dict[int, tuple[int, ...]]:
    """The neighbourhood of each client, itself included, in ascending order.

    The graph is drawn when the cohort is known.

    Args:
        clients: ids of the clients.
        neighbours: k, an even number; None for a complete graph.
        generator: draws the ring.
    """
    if neighbours is None or neighbours + 1 >= len(clients):
        everybody = tuple(sorted(clients))
        return dict.fromkeys(everybody, everybody)
    ring = [int(client) for client in generator.permutation(np.sort(np.asarray(clients)))]
    reach = range(-(neighbours // 2), neighbours // 2 + 1)
    return {
        client: tuple(sorted(ring[(place + step) % len(ring)] for step in reach)) for place, client in enumerate(ring)
    }


def make_groups(clients: Sequence[int], size: int | None) -> list[tuple[int, ...]]:
    """Cut a cohort into groups whose sizes differ by at most 1.

    Args:
        clients: ids of the clients.
        size: clients that a group has at least, if there are so many; it has fewer than twice that. None for one group.
    """
    count = 1 if size is None else max(1, len(clients) // size)
    return [tuple(clients[number::count]) for number in range(count)]
