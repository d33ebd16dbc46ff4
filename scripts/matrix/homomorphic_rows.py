"""Losses and changed messages in the exchanges of homomorphic encryption."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from fedlit.aggregation.secure import HomomorphicSum
from fedlit.aggregation.secure.homomorphic import bfv
from fedlit.aggregation.secure.homomorphic.ciphertexts import pack_parts, unpack_parts
from fedlit.aggregation.secure.homomorphic.client import SumRequest
from fedlit.aggregation.secure.homomorphic.server import HomomorphicServer
from matrix.checkpoint_rows import expect_killed
from matrix.lab import Rows, expect, federation
from matrix.secure_rows import CLIENTS, NEEDED, ROUND, expect_lost, expect_same_sum, options, secure_run

ROWS = Rows()
NAMES = {1: "AdvertiseKeys", 2: "ShareContext", 3: "Ciphertexts", 4: "Decryption"}
"""The exchanges by their number, as the reason of a lost round spells them."""


def encrypted_run(folder: Path, **losses: Any) -> dict[str, Any]:
    """Return the files of a run in which clients are lost in an exchange of the round of the fault."""
    return secure_run(folder, HomomorphicSum(), **losses)


@contextmanager
def changed_method(name: str, change: Callable[..., Any]) -> Iterator[None]:
    """Replace a method of the server in the round of the fault within the block.

    Args:
        name: the method.
        change: is called with the original method, the server and the arguments.
    """
    original: Callable[..., Any] = getattr(HomomorphicServer, name)

    def method(server: HomomorphicServer, *arguments: Any) -> Any:
        if server._setting.protocol.round + 1 != ROUND:
            return original(server, *arguments)
        return change(original, server, *arguments)

    with patch.object(HomomorphicServer, name, method):
        yield


@cache
def keepers() -> tuple[int, ...]:
    """The keepers of the key in the round of the fault; the first one draws it."""
    found: list[tuple[int, ...]] = []

    def note(original: Callable[..., Any], server: HomomorphicServer) -> None:
        original(server)
        found.append(server._keepers)

    with TemporaryDirectory() as folder, changed_method("close", note):
        expect_same_sum(encrypted_run(Path(folder) / "run"), ())
    return found[0]


@ROWS("encrypted sum: a keeper lost in exchange 1, 2, 3 or 4", "the survivors' sum, same bits", slow=True)
def lost_in_each(folder: Path) -> str:
    gone = keepers()[:1]
    for exchange, name in NAMES.items():
        result = encrypted_run(folder / name, exchange=exchange, gone=gone)
        expect_same_sum(result, () if exchange == 4 else gone, name)  # in exchange 4 its update had arrived
    return f"the one that draws the key, 1 of {CLIENTS} clients"


@ROWS("encrypted sum: fewer survivors than the threshold", "lost with its reason, the model stays", slow=True)
def too_many_lost(folder: Path) -> str:
    for exchange, name in NAMES.items():
        gone = keepers() if exchange == 4 else keepers()[:2]
        reason = f"{NEEDED - 1} of {CLIENTS} clients answered {name}, and {NEEDED} are needed"
        if exchange == 4:
            reason = f"0 of {len(gone)} clients answered {name}, and 1 are needed"
        expect_lost(encrypted_run(folder / name, exchange=exchange, gone=gone), reason, name)
    return "two clients, or all keepers of the key"


@ROWS("encrypted sum: a changed sealed key", "that keeper cannot open it, same bits")
def changed_key(folder: Path) -> str:
    changed: list[int] = []

    def flip(original: Callable[..., Any], server: HomomorphicServer, client: int, reply: bytes) -> None:
        if server.exchange == "share_context":
            public, first, *rest = unpack_parts(reply)
            changed.append(client)
            reply = pack_parts([public, first[:-1] + bytes([first[-1] ^ 1]), *rest])
        original(server, client, reply)

    with changed_method("receive", flip):
        result = encrypted_run(folder / "run")
    expect(len(changed) == 3, f"{len(changed)} keepers sealed keys")
    expect_same_sum(result, ())
    return "1 bit"


@ROWS("encrypted sum: a request to open too few updates", "refused by all, lost with its reason")
def too_few_updates(folder: Path) -> str:
    def ask_for_fewer(original: Callable[..., Any], *arguments: Any) -> bytes:
        return replace(SumRequest.load(original(*arguments)), updates=NEEDED - 1).dump()

    with changed_method("_ask", ask_for_fewer):
        expect_lost(encrypted_run(folder / "run"), "0 of 3 clients answered Decryption")
    return f"{NEEDED - 1} of {CLIENTS}"


@ROWS("encrypted sum: SIGKILL of the server in an exchange", "the round again with new keys, same bits", slow=True)
def killed(folder: Path) -> str:
    for number, name in enumerate(NAMES.values()):

        def kill(original: Callable[..., Any], server: HomomorphicServer, *arguments: Any, at: int = number) -> None:
            if server._step == at:
                os.kill(os.getpid(), signal.SIGKILL)
            original(server, *arguments)

        def task(run_folder: Path = folder / name, kill: Callable[..., Any] = kill) -> None:
            with changed_method("receive", kill):
                for _ in federation(run_folder, **options(HomomorphicSum())).run():
                    pass

        (folder / name).mkdir()
        bfv._load_public.cache_clear()  # a fork that drops a context of its parent waits for a thread that it does not have
        expect_killed(task)
        expect_same_sum(
            encrypted_run(folder / name), (), name
        )  # the bytes in the records differ, as lengths of keys do
    return "in each of 4 exchanges"
