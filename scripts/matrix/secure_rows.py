"""Losses, late and changed messages in the exchanges of secure aggregation."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from fedlit import Channel, Iid
from fedlit.aggregation.secure import IdealSum, SecAgg
from fedlit.aggregation.secure.protocol.client import advertise_keys, mask_info, mask_vector, reveal_shares, share_keys
from fedlit.aggregation.secure.protocol.graph import make_neighbourhoods, make_thresholds
from fedlit.aggregation.secure.protocol.primitives import KeyPair, add_masks
from fedlit.aggregation.secure.protocol.server import SecureAggregationServer
from fedlit.aggregation.secure.protocol.setting import ALIVE, LOST, ProtocolSetting
from fedlit.aggregation.secure.protocol.wire import SEALED_BYTES, ProtocolError, pack_records
from fedlit.simulation import Drop, FailurePolicy, FaultPlan
from matrix.checkpoint_rows import expect_killed
from matrix.lab import Broken, Quick, Rows, expect, expect_same, federation, run

ROWS = Rows()
CLIENTS, NEEDED, ROUND = 6, 5, 2
"""Clients of each round, survivors that a sum needs, and the round of the fault."""

NAMES = {1: "AdvertiseKeys", 2: "ShareKeys", 3: "MaskedInput", 4: "Unmasking"}
"""The exchanges by their number, as the reason of a lost round spells them."""


@dataclass(frozen=True)
class Equal(Quick):
    """Clients with the weight 1: a mask needs whole numbers."""

    def client(self, local: Any, shared: Any, client_state: Any) -> Any:
        update = super().client(local, shared, client_state)
        return replace(update, weight=1.0 if local.examples else 0.0)


def options(stage: Any) -> dict[str, Any]:
    """Options of a federation in which all clients take part in each of three rounds."""
    channel, schedule = Channel.of([stage]), {"clients_per_round": CLIENTS, "rounds": 3}
    return {"channel": channel, "algorithm": Equal(), "partition": Iid(CLIENTS), **schedule}


def secure_run(folder: Path, stage: Any = None, exchange: int = 1, gone: Sequence[int] = ()) -> dict[str, Any]:
    """Return the files of a run in which clients are lost in an exchange of the round of the fault."""
    plan = FaultPlan(Drop(exchange=exchange), 1.0, clients=tuple(gone), rounds=(ROUND,))
    return run(
        folder, faults=FailurePolicy(plans=(plan,) if gone else (), max_lost_rounds=9), **options(stage or SecAgg())
    )


@cache
def ideal_run(gone: Sequence[int] = ()) -> dict[str, Any]:
    """The files of a run without cryptography in which the same clients are lost."""
    with TemporaryDirectory() as folder:
        return secure_run(Path(folder) / "run", IdealSum(), gone=gone)


def expect_same_sum(result: dict[str, Any], gone: Sequence[int], where: str = "") -> None:
    """Raise Broken unless states are those of the run in which the same clients' updates are missing."""
    expected = ideal_run(tuple(gone))
    names = ("state", "client_states")
    expect_same({n: result[n] for n in names}, {n: expected[n] for n in names}, where)


def expect_lost(result: dict[str, Any], reason: str, where: str = "") -> None:
    """Raise Broken unless the round of the fault alone is lost, for a reason, and the model stays."""
    lost = [record["lost"] for record in result["records"]]
    expect(reason in lost[ROUND - 1], f"{where}: reasons of lost rounds: {lost}")
    expect(lost.count("None") == 2, f"{where}: other rounds are lost too: {lost}")
    digests = [record["state_sha256"] for record in result["records"]]
    expect(digests[0] == digests[1] != digests[2], f"{where}: the model of a lost round changed")
    expect_same_sum(result, tuple(range(CLIENTS)), where)


@contextmanager
def changed_messages(name: str, change: Callable[..., Any], after: bool = False) -> Iterator[None]:
    """Change what the server receives or asks in the round of the fault within the block.

    Args:
        name: a method of the server.
        change: is called with the server, and with the arguments of the method, or with its result if `after`.
        after: whether the result is changed.
    """
    original: Callable[..., Any] = getattr(SecureAggregationServer, name)

    def method(server: SecureAggregationServer, *arguments: Any) -> Any:
        if server._setting.round + 1 != ROUND:
            return original(server, *arguments)
        return change(server, original(server)) if after else original(server, *change(server, *arguments))

    with patch.object(SecureAggregationServer, name, method):
        yield


@ROWS("secure sum: clients lost in exchange 1, 2, 3 or 4", "the survivors' sum, same bits", slow=True)
def lost_in_each(folder: Path) -> str:
    for exchange, name in NAMES.items():
        result = secure_run(folder / name, exchange=exchange, gone=(4,))
        expect_same_sum(result, () if exchange == 4 else (4,), name)  # in exchange 4 its update had arrived
    return f"1 of {CLIENTS} clients"


@ROWS("secure sum: fewer survivors than the threshold", "lost with its reason, the model stays", slow=True)
def too_many_lost(folder: Path) -> str:
    for exchange, name in NAMES.items():
        reason = f"{NEEDED - 1} of {CLIENTS} clients answered {name}, and {NEEDED} are needed"
        expect_lost(secure_run(folder / name, exchange=exchange, gone=(2, 4)), reason, name)
    return f"{CLIENTS - NEEDED + 1} of {CLIENTS} clients, in each exchange"


@ROWS("secure sum: a changed share", "left out, same bits")
def changed_share(folder: Path) -> str:
    def flip(server: SecureAggregationServer, client: int, reply: bytes) -> tuple[int, bytes]:
        return client, reply if client else reply[:-3] + bytes([reply[-3] ^ 4]) + reply[-2:]

    with changed_messages("_receive_share_keys", flip):
        expect_same_sum(secure_run(folder / "run"), ())
    return "1 bit"


@ROWS("secure sum: shares replayed from another round", "one left out; all: lost with its reason")
def replayed(folder: Path) -> str:
    old: dict[int, bytes] = {}

    def replay(server: SecureAggregationServer, client: int, reply: bytes) -> tuple[int, bytes]:
        other = old[client]
        return client, (reply[:-kept] if kept else reply[:32]) + other[-kept if kept else 32 :]

    original: Callable[..., Any] = SecureAggregationServer._receive_share_keys

    def remember(server: SecureAggregationServer, client: int, reply: bytes) -> None:
        if server._setting.round + 1 == ROUND and client == 0:
            _, reply = replay(server, client, reply)
        old[client] = reply
        original(server, client, reply)

    with patch.object(SecureAggregationServer, "_receive_share_keys", remember):
        kept = SEALED_BYTES  # the last neighbour's sealed shares
        expect_same_sum(secure_run(folder / "one"), ())
        kept = 0  # everything behind the commitment
        expect_lost(secure_run(folder / "all"), "1 shares of client 0's secret arrived")
    return ""


@ROWS("secure sum: a request for both shares of a client", "refused by all, lost with its reason")
def both_shares(folder: Path) -> str:
    def ask_for_both(server: SecureAggregationServer, requests: dict[int, bytes]) -> dict[int, bytes]:
        return {client: request + pack_records({3: LOST}) for client, request in requests.items()}

    with changed_messages("_requests_unmasking", ask_for_both, after=True):
        expect_lost(secure_run(folder / "both"), f"0 of {CLIENTS} clients answered Unmasking")

    def divide(server: SecureAggregationServer, requests: dict[int, bytes]) -> dict[int, bytes]:
        alive = dict.fromkeys(range(CLIENTS), ALIVE)
        return {client: pack_records(alive | ({} if client < 3 else {0: LOST})) for client in requests}

    with changed_messages("_requests_unmasking", divide, after=True):
        expect_lost(secure_run(folder / "divided"), "the shares of client 0's secret do not fit together")
    return "in one message, and one share from each half"


@ROWS("secure sum: a masked vector that arrives late", "refused; its own mask stays on it")
def late(folder: Path) -> str:
    setting = ProtocolSetting(0, 0, 8, 32, make_thresholds(CLIENTS, None, None))
    server = SecureAggregationServer(setting, make_neighbourhoods(range(CLIENTS), None, np.random.default_rng(0)))
    vectors = {client: np.arange(8, dtype=setting.dtype) + client for client in range(CLIENTS)}
    secrets, masked = {}, {}
    for step in (
        lambda client, request: advertise_keys(client, setting),
        lambda client, request: share_keys(secrets[client], setting, request),
    ):
        for client, request in server.requests().items():
            secrets[client], reply = step(client, request)
            server.receive(client, reply)
        server.close()
    for client, request in server.requests().items():
        secrets[client], masked[client] = mask_vector(secrets[client], setting, request, vectors[client])
        if client != 4:
            server.receive(client, b"")
    server.close()
    _expect_refusal(lambda: server.receive(4, b""), "unexpected message")
    for client, request in server.requests().items():
        secrets[client], reply = reveal_shares(secrets[client], setting, request)
        server.receive(client, reply)
    server.close()
    total = server.unmask(np.sum([masked[client] for client in server.alive], 0, dtype=setting.dtype))
    wanted = np.sum([vectors[client] for client in server.alive], 0, dtype=setting.dtype)
    expect(bool((total == wanted).all()), "the sum is not that of the others")
    seed, opened = secrets[4].seed, masked[4].copy()
    key = KeyPair(server._rebuild(4, {}))  # the server has rebuilt this one, and not the seed
    pairs = {v: key.agree(server._publics[v][32:], mask_info(setting, 4, v)) for v in server.alive}
    add_masks(opened, [k for v, k in pairs.items() if v < 4], [k for v, k in pairs.items() if v > 4])
    expect(bool((opened != vectors[4]).any()), "the server can read the late vector")
    add_masks(opened, [], [seed])
    expect(bool((opened == vectors[4]).all()), "another mask than its own was left on the vector")
    request = pack_records(dict.fromkeys(range(CLIENTS), ALIVE))
    for client in server.alive:
        _expect_refusal(lambda own=secrets[client]: reveal_shares(own, setting, request), "has unmasked")
    return ""


def _expect_refusal(act: Callable[[], Any], reason: str) -> None:
    try:
        act()
    except ProtocolError as error:
        expect(reason in str(error), f"refused with: {error}")
    else:
        raise Broken(f"not refused, and it should be with: {reason}")


@ROWS("secure sum: SIGKILL of the server in an exchange", "the round again with new keys, same bits", slow=True)
def killed(folder: Path) -> str:
    expected = secure_run(folder / "expected")
    for number, name in enumerate(NAMES.values()):

        def kill(server: SecureAggregationServer, *arguments: Any, at: int = number) -> Any:
            if server._step == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return arguments

        def task(run_folder: Path = folder / name, kill: Callable[..., Any] = kill) -> None:
            with changed_messages("receive", kill):
                for _ in federation(run_folder, **options(SecAgg())).run():
                    pass

        (folder / name).mkdir()
        expect_killed(task)
        expect_same(secure_run(folder / name), expected, name)
    return "in each of 4 exchanges"
