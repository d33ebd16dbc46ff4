"""Privacy mechanisms without a federation: facts, and rounds of a channel on given updates."""

import numpy as np
import torch

from fedlit.aggregation import Channel, SumTicket
from fedlit.core.facts import FederationFacts, Sampling
from fedlit.core.tensors import Layout

POISSON = Sampling("poisson", probability=0.1)


def facts(clients=1000, rounds=100, **others):
    """Facts of a federation that every mechanism accepts, except where `others` differ."""
    defaults = {
        "cohort_size": clients // 10,
        "splits": ("val",),
        "has_client_tests": False,
        "sampling": POISSON,
        "weighting": "equal",
        "algorithm": "FedAvg",
        "update_numbers": {"parameters": 10},
    }
    return FederationFacts(sizes=np.full(clients, 5), rounds=rounds, **{**defaults, **others})


def separated(separation, size=10):
    """Sampling with a cohort of fixed size and a minimum separation."""
    return Sampling("separated", size=size, separation=separation)


def channel_of(stage, *others, **given):
    """A bound channel with one mechanism.

    Args:
        stage: the mechanism.
        others: further stages, and the codec.
        given: arguments of `facts`.
    """
    return Channel.of([stage, *others]).bind(facts(**given))


def layout(size):
    """The layout of one parameter of shape (size,)."""
    return Layout((("parameters", "w", (size,)),))


def messages(channel, updates, states, *, round=0, seed=0, own=None):
    """The decoded messages of clients 0, 1, ... with these updates."""
    own = [{} for _ in updates] if own is None else own
    for client, update in enumerate(updates):
        facts = {"round": round, "client": client, "seed": seed, "states": states, "own": own[client]}
        encoded, own[client] = channel.encode(layout(len(update)), update.clone(), 1.0, **facts)
        yield channel.decode(layout(len(update)), encoded)


def clipped_sum(channel, updates, states, *, size=10, **facts):
    """The sum of the messages, float64, and the number of clipped ones."""
    total, clipped = torch.zeros(size, dtype=torch.float64), 0
    for message in messages(channel, updates, states, **facts):
        total, clipped = total + message.vector, clipped + message.clipped
    return total, clipped


def release(channel, updates, states, *, size=10, round=0, seed=0):
    """One round on these updates: the opened sum, and the stages' new states."""
    total, clipped = clipped_sum(channel, updates, states, size=size, round=round, seed=seed)
    return open_sum(channel, total, states, clipped=clipped, clients=tuple(range(len(updates))), round=round, seed=seed)


def open_sum(channel, total, states, *, clients, clipped=0, round=0, seed=0):
    """Open a sum of updates with weight 1."""
    numbers = {"updates": len(clients), "clipped": clipped, "weight": float(len(clients))}
    ticket = SumTicket(round=round, seed=seed, clients=clients, **numbers)
    return channel.open(layout(len(total)), total, ticket, states)


def unit(size=10, at=0, length=1.0):
    """A float32 vector along one axis."""
    vector = torch.zeros(size)
    vector[at] = length
    return vector
