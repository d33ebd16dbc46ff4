"""Runs of the secure aggregation protocol in one process, with losses in each exchange."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field

import numpy as np

from fedlit.aggregation.secure.protocol.client import advertise_keys, mask_vector, reveal_shares, share_keys
from fedlit.aggregation.secure.protocol.graph import make_neighbourhoods, make_thresholds
from fedlit.aggregation.secure.protocol.primitives import KeyPair, commitment
from fedlit.aggregation.secure.protocol.server import SecureAggregationServer
from fedlit.aggregation.secure.protocol.setting import ProtocolSetting
from fedlit.aggregation.secure.protocol.wire import ProtocolError
from fedlit.aggregation.secure.vault import Vault


@dataclass
class ProtocolRun:
    """One group, its server, and everything that its clients sent.

    Args:
        clients: number of clients.
        length: numbers of a vector.
        lost: the clients that are lost in each exchange, and stay lost.
        neighbours: see `make_neighbourhoods`.
        ring_bits: 32 or 64.
        seed: seed of the vectors.
    """

    clients: int
    length: int = 4
    lost: tuple = (set(), set(), set(), set())
    neighbours: int | None = None
    ring_bits: int = 32
    seed: int = 0
    secrets: dict = field(default_factory=dict)
    masked: dict = field(default_factory=dict)
    views: list = field(default_factory=list)

    def __post_init__(self):
        generator = np.random.default_rng(self.seed)
        thresholds = make_thresholds(self.clients, None, self.neighbours)
        self.setting = ProtocolSetting(5, 0, self.length, self.ring_bits, thresholds)
        self.neighbourhoods = make_neighbourhoods(range(self.clients), self.neighbours, generator)
        self.server = SecureAggregationServer(self.setting, self.neighbourhoods)
        self.vectors = {
            u: generator.integers(0, 1000, self.length).astype(self.setting.dtype) for u in range(self.clients)
        }

    def exchange(self):
        """Run the open exchange and close it; a client that refuses is lost."""
        number, name = len(self.views), self.server.exchange
        for client, request in self.server.requests().items():
            if client in self.lost[number]:
                continue
            try:
                self.server.receive(client, self.answer(name, client, request))
            except ProtocolError:
                continue
        self.views.append(pickle.dumps((self.server, self.masked)))
        self.server.close()

    def answer(self, name, client, request):
        if name == "advertise_keys":
            self.secrets[client], reply = advertise_keys(client, self.setting)
        elif name == "share_keys":
            self.secrets[client], reply = share_keys(self.secrets[client], self.setting, request)
        elif name == "masked_input":
            secrets, vector = self.secrets[client], self.vectors[client]
            self.secrets[client], self.masked[client] = mask_vector(secrets, self.setting, request, vector)
            reply = b""
        else:
            self.secrets[client], reply = reveal_shares(self.secrets[client], self.setting, request)
        return reply

    def total(self):
        return sum(self.masked.values(), np.zeros(self.length, self.setting.dtype))

    def run(self):
        """Run all exchanges; return the unmasked sum."""
        while len(self.views) < 4:
            self.exchange()
        return self.server.unmask(self.total())

    def plain_sum(self):
        chosen = [self.vectors[client] for client in self.server.alive]
        return sum(chosen, np.zeros(self.length, self.setting.dtype))


def leaked_secrets(content, server):
    """The secrets of clients that a content holds, in any order of bytes: (kind, client)."""
    publics = {}
    for client, pair in server._publics.items():
        publics[pair[:32]], publics[pair[32:]] = ("sealing_key", client), ("mask_key", client)
    seeds = {value: ("seed", client) for client, value in server._commitments.items()}
    found = set()
    for text in (content, content[::-1]):
        for start in range(len(text) - 31):
            window = text[start : start + 32]
            for known, value in ((publics, KeyPair(window).public), (seeds, commitment(window))):
                found |= {known[value]} if value in known else set()
    return found


def derivable_updates(content, run):
    """Clients whose vector follows from a content: it stands there, or all of its masks do."""
    secrets = leaked_secrets(content, run.server)
    derived = {client for client, vector in run.vectors.items() if vector.tobytes() in content}
    for client in run.vectors:
        others = [v for v in run.neighbourhoods[client] if v != client and v in run.server._sealed]
        pairwise = ("mask_key", client) in secrets or all(("mask_key", v) in secrets for v in others)
        derived |= {client} if ("seed", client) in secrets and pairwise else set()
    return derived


def leaked_values(contents, kept):
    """The kinds of kept values, `integers` or `secrets`, that stand in some contents as bytes or as hexadecimal text."""
    content = b"|".join(contents)
    values = {"integers": [vector.tobytes() for vector in kept["integers"].values()], "secrets": kept["secrets"]}
    return {
        kind
        for kind, some in values.items()
        if any(form in content for value in some for form in (value, value[::-1], value.hex().encode()))
    }


def keep_values(monkeypatch, stage, owner, dump, secrets_of):
    """Record each client's integers and secrets, as only the worker sees them.

    Args:
        monkeypatch: pytest's fixture.
        stage: class of the secure stage.
        owner: class whose method serializes secrets.
        dump: name of that method.
        secrets_of: secrets in the arguments of the method, as bytes.

    Returns:
        `integers` by client, and `secrets`, see `leaked_values`; rounds fill them.
    """
    kept = {"integers": {}, "secrets": []}
    conceal, serialize = stage.conceal, getattr(owner, dump)

    def record_integers(self, integers, ticket):
        kept["integers"][ticket.client] = integers.copy()
        return conceal(self, integers, ticket)

    def record_secrets(*arguments):
        kept["secrets"] += secrets_of(*arguments)
        return serialize(*arguments)

    monkeypatch.setattr(stage, "conceal", record_integers)
    monkeypatch.setattr(owner, dump, record_secrets)
    return kept


def leave_vault_open(monkeypatch):
    """Store secrets as they are, without encryption."""
    monkeypatch.setattr(Vault, "seal", lambda self, content, bound: content)
    monkeypatch.setattr(Vault, "unseal", lambda self, content, bound: content)
