"""CPU seconds and bytes of a round of secure aggregation, by exchange and role.

    python scripts/bench_secagg.py [--clients 10 50 100] [--sizes 10000 100000 1000000] [--neighbours 32] [--json FILE]
        [--kinds complete sparse he]

Each client quantises an update of random numbers, and masks it (complete and k-regular graphs) or encrypts it. `--lost`
is the part of the clients that is lost when the updates are due, so that the server has to rebuild their masks. The sum is
compared with that of the integers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedlit.aggregation.secure.homomorphic import bfv
from fedlit.aggregation.secure.homomorphic.ciphertexts import CiphertextSum, to_bytes, to_vector, unpack_parts
from fedlit.aggregation.secure.homomorphic.client import (
    SumSetting,
    advertise_key,
    deal_key,
    decrypt_sum,
    encrypt_vector,
)
from fedlit.aggregation.secure.homomorphic.server import SUM_EXCHANGES, HomomorphicServer
from fedlit.aggregation.secure.protocol.client import advertise_keys, mask_vector, reveal_shares, share_keys
from fedlit.aggregation.secure.protocol.graph import make_neighbourhoods, make_thresholds
from fedlit.aggregation.secure.protocol.server import EXCHANGES, SecureAggregationServer
from fedlit.aggregation.secure.protocol.setting import ProtocolSetting
from fedlit.aggregation.secure.quantizer import EXTRA, RingQuantizer

KEEPERS = 3
"""Clients that keep the secret key, as in conf/encryption/he.yaml."""


class Round:
    """One round, with the seconds of each role and the bytes of all clients.

    Args:
        clients: number of clients.
        size: numbers of an update.
        neighbours: k; None for a complete graph.
        lost: clients that are lost when the updates are due.
    """

    exchanges: tuple[str, ...]

    def __init__(self, clients: int, size: int, neighbours: int | None, lost: int) -> None:
        self.seconds: Counter[str] = Counter()
        self.up: Counter[str] = Counter()
        self.down: Counter[str] = Counter()
        self._rng = np.random.default_rng(0)
        self._quantizer = RingQuantizer(1.0, 20, 32)
        self._setting = ProtocolSetting(0, 0, size + EXTRA, 32, make_thresholds(clients, None, neighbours))
        self._update = self._rng.uniform(-1, 1, size).astype(np.float32)
        self._secrets: dict[int, Any] = {}
        self._expected = np.zeros(size + EXTRA, np.uint32)
        self._server: Any = self._make_server(clients, neighbours)
        self._lost = set(self._rng.choice(clients, lost, replace=False).tolist())

    @contextmanager
    def _timed(self, name: str):
        start = time.process_time()
        yield
        self.seconds[name] += time.process_time() - start

    def run(self) -> None:
        """Run all exchanges; check the sum."""
        for exchange in self.exchanges:
            with self._timed(f"{exchange} server"):
                requests = self._requests()
            for client, request in requests.items():
                if exchange != self.exchanges[2] or client not in self._lost:
                    self._exchange(exchange, client, request)
            with self._timed(f"{exchange} server"):
                self._server.close()
        with self._timed(f"{self.exchanges[3]} server"):
            total = self._open()
        assert (total == self._expected).all()

    def _exchange(self, exchange: str, client: int, request: bytes) -> None:
        self.down[exchange] += len(request)
        if exchange != self.exchanges[2]:
            with self._timed(f"{exchange} client"):
                reply = self._answer(exchange, client, request)
            self.up[exchange] += len(reply)
        else:
            with self._timed(f"{exchange} client"):
                integers = self._quantizer.quantize(self._update, 1, self._rng)
                concealed = self._conceal(client, request, integers)
            self._expected += integers
            self.up[exchange] += len(memoryview(concealed).cast("B"))
            with self._timed(f"{exchange} server"):
                self._add(concealed)
            reply = b""
        with self._timed(f"{exchange} server"):
            self._server.receive(client, reply)

    def _make_server(self, clients: int, neighbours: int | None) -> Any:
        raise NotImplementedError

    def _requests(self) -> dict[int, bytes]:
        return self._server.requests()

    def _answer(self, exchange: str, client: int, request: bytes) -> bytes:
        raise NotImplementedError

    def _conceal(self, client: int, request: bytes, integers: np.ndarray) -> Any:
        raise NotImplementedError

    def _add(self, concealed: Any) -> None:
        raise NotImplementedError

    def _open(self) -> np.ndarray:
        raise NotImplementedError


class MaskedRound(Round):
    """A round with pairwise masks."""

    exchanges = EXCHANGES

    def _make_server(self, clients: int, neighbours: int | None) -> SecureAggregationServer:
        self._total = np.zeros_like(self._expected)
        return SecureAggregationServer(self._setting, make_neighbourhoods(range(clients), neighbours, self._rng))

    def _answer(self, exchange: str, client: int, request: bytes) -> bytes:
        if exchange == "advertise_keys":
            self._secrets[client], reply = advertise_keys(client, self._setting)
        else:
            answer = share_keys if exchange == "share_keys" else reveal_shares
            self._secrets[client], reply = answer(self._secrets[client], self._setting, request)
        return reply

    def _conceal(self, client: int, request: bytes, integers: np.ndarray) -> np.ndarray:
        self._secrets[client], masked = mask_vector(self._secrets[client], self._setting, request, integers)
        return masked

    def _add(self, concealed: np.ndarray) -> None:
        self._total += concealed

    def _open(self) -> np.ndarray:
        return self._server.unmask(self._total)


class EncryptedRound(Round):
    """A round with homomorphic encryption."""

    exchanges = SUM_EXCHANGES

    def _make_server(self, clients: int, neighbours: int | None) -> HomomorphicServer:
        self._total, self._sum = None, CiphertextSum(bfv.PARAMETERS[32])
        self._sums = SumSetting(self._setting, bfv.PARAMETERS[32], KEEPERS)
        return HomomorphicServer(self._sums, range(clients))

    def _requests(self) -> dict[int, bytes]:
        return self._server.requests([] if self._total is None else unpack_parts(to_bytes(self._total)))

    def _answer(self, exchange: str, client: int, request: bytes) -> bytes:
        if exchange == "advertise_keys":
            self._secrets[client], reply = advertise_key(client, self._sums)
        elif exchange == "share_context":
            self._secrets[client], reply = deal_key(self._secrets[client], self._sums, request)
        else:
            reply = decrypt_sum(self._secrets[client], self._sums, request)
        return reply

    def _conceal(self, client: int, request: bytes, integers: np.ndarray) -> bytes:
        bfv._load_public.cache_clear()  # each client loads the public key itself
        signed = self._quantizer.signed(integers)
        self._secrets[client], content = encrypt_vector(self._secrets[client], self._sums, request, signed)
        return content

    def _add(self, concealed: bytes) -> None:
        self._total = self._sum.add(self._total, to_vector(concealed), 1.0)

    def _open(self) -> np.ndarray:
        return self._server.opened().astype(np.uint32)


def main() -> None:
    """Print a table, and write a JSON file if wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 50, 100])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--neighbours", type=int, default=32, help="k of the sparse graph")
    parser.add_argument("--lost", type=float, default=0.1, help="part of the clients that is lost when updates are due")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print(
        f"{'clients':>7} {'numbers':>9} {'kind':>8} {'lost':>4} {'total s':>8} {'up/fp32':>8}  seconds by exchange and role"
    )
    for clients in options.clients:
        for size in options.sizes:
            for kind in options.kinds:
                if kind == "sparse" and options.neighbours + 1 >= clients:
                    continue
                row = measure(kind, clients, size, options.neighbours, int(options.lost * clients))
                figures = ", ".join(f"{name} {value:.3f}" for name, value in row["seconds"].items())
                print(
                    f"{clients:>7} {size:>9} {row['kind']:>8} {row['lost']:>4} {row['total_s']:>8.2f} "
                    f"{row['up_ratio']:>8.3f}  {figures}",
                    flush=True,
                )
                rows.append(row)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))


KINDS = {"complete": MaskedRound, "sparse": MaskedRound, "he": EncryptedRound}


def measure(kind: str, clients: int, size: int, neighbours: int, lost: int) -> dict[str, Any]:
    """Run one round, and return its figures."""
    round = KINDS[kind](clients, size, neighbours if kind == "sparse" else None, lost)
    round.run()
    seconds = {
        f"{exchange} {role}": round.seconds[f"{exchange} {role}"]
        for exchange in round.exchanges
        for role in ("client", "server")
    }
    return {
        "clients": clients,
        "numbers": size,
        "kind": f"k={neighbours}" if kind == "sparse" else kind,
        "lost": lost,
        "seconds": seconds,
        "total_s": sum(seconds.values()),
        "up_bytes": dict(round.up),
        "down_bytes": dict(round.down),
        "up_ratio": sum(round.up.values()) / (4 * size * (clients - lost)),
    }


if __name__ == "__main__":
    main()
