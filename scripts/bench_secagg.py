"""CPU seconds and bytes of a round of secure aggregation, by exchange and role.

    python scripts/bench_secagg.py [--clients 10 50 100] [--sizes 10000 100000 1000000] [--neighbours 32] [--json FILE]

Each client quantises and masks an update of random numbers. `--lost` is the part of the clients that is lost when the masked
updates are due, so that the server has to rebuild their masks. The sum is compared with that of the integers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fedlit.aggregation.secure.protocol.client import advertise_keys, mask_vector, reveal_shares, share_keys
from fedlit.aggregation.secure.protocol.graph import make_neighbourhoods, make_thresholds
from fedlit.aggregation.secure.protocol.server import SecureAggregationServer
from fedlit.aggregation.secure.protocol.setting import ProtocolSetting
from fedlit.aggregation.secure.quantizer import EXTRA, RingQuantizer

EXCHANGES = ("advertise_keys", "share_keys", "masked_input", "unmasking")


class Round:
    """One round, with the seconds of each role and the bytes of all clients.

    Args:
        clients: number of clients.
        size: numbers of an update.
        neighbours: k; None for a complete graph.
        lost: clients that are lost when the masked updates are due.
    """

    def __init__(self, clients: int, size: int, neighbours: int | None, lost: int) -> None:
        self.seconds: Counter[str] = Counter()
        self.up: Counter[str] = Counter()
        self.down: Counter[str] = Counter()
        self._rng = np.random.default_rng(0)
        self._quantizer = RingQuantizer(1.0, 20, 32)
        self._setting = ProtocolSetting(0, 0, size + EXTRA, 32, make_thresholds(clients, None, neighbours))
        neighbourhoods = make_neighbourhoods(range(clients), neighbours, self._rng)
        self._server = SecureAggregationServer(self._setting, neighbourhoods)
        self._update = self._rng.uniform(-1, 1, size).astype(np.float32)
        self._lost = set(self._rng.choice(clients, lost, replace=False).tolist())
        self._secrets: dict = {}
        self._total = np.zeros(size + EXTRA, np.uint32)
        self._expected = np.zeros(size + EXTRA, np.uint32)

    @contextmanager
    def _timed(self, name: str):
        start = time.process_time()
        yield
        self.seconds[name] += time.process_time() - start

    def run(self) -> None:
        """Run all exchanges; check the sum."""
        for exchange in EXCHANGES:
            with self._timed(f"{exchange} server"):
                requests = self._server.requests()
            for client, request in requests.items():
                if exchange != "masked_input" or client not in self._lost:
                    self._answer(exchange, client, request)
            with self._timed(f"{exchange} server"):
                self._server.close()
        with self._timed("unmasking server"):
            total = self._server.unmask(self._total)
        assert (total == self._expected).all()

    def _answer(self, exchange: str, client: int, request: bytes) -> None:
        self.down[exchange] += len(request)
        integers, reply = None, b""
        with self._timed(f"{exchange} client"):
            if exchange == "advertise_keys":
                self._secrets[client], reply = advertise_keys(client)
            elif exchange == "share_keys":
                self._secrets[client], reply = share_keys(self._secrets[client], self._setting, request)
            elif exchange == "masked_input":
                integers = self._quantizer.quantize(self._update, 1, self._rng)
                secrets, masked = mask_vector(self._secrets[client], self._setting, request, integers)
                self._secrets[client] = secrets
            else:
                self._secrets[client], reply = reveal_shares(self._secrets[client], self._setting, request)
        self.up[exchange] += masked.nbytes if integers is not None else len(reply)
        with self._timed(f"{exchange} server"):
            if integers is not None:
                self._total += masked
            self._server.receive(client, reply)
        if integers is not None:
            self._expected += integers


def main() -> None:
    """Print a table, and write a JSON file if wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 50, 100])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--neighbours", type=int, default=32, help="k of the second graph")
    parser.add_argument("--lost", type=float, default=0.1, help="part of the clients that is lost at the masked input")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    columns = [f"{exchange} {role}" for exchange in EXCHANGES for role in ("client", "server")]
    print(
        f"{'clients':>7} {'numbers':>9} {'graph':>8} {'lost':>4} {'total s':>8} {'up/fp32':>8}  seconds: {', '.join(columns)}"
    )
    for clients in options.clients:
        for size in options.sizes:
            for neighbours in (None, options.neighbours):
                if neighbours is not None and neighbours + 1 >= clients:
                    continue
                lost = int(options.lost * clients)
                round = Round(clients, size, neighbours, lost)
                round.run()
                ratio = sum(round.up.values()) / (4 * size * (clients - lost))
                seconds = {name: round.seconds[name] for name in columns}
                graph = "complete" if neighbours is None else f"k={neighbours}"
                total = sum(seconds.values())
                figures = " ".join(f"{value:.3f}" for value in seconds.values())
                print(f"{clients:>7} {size:>9} {graph:>8} {lost:>4} {total:>8.2f} {ratio:>8.3f}  {figures}", flush=True)
                rows.append(
                    {
                        "clients": clients,
                        "numbers": size,
                        "graph": graph,
                        "lost": lost,
                        "seconds": seconds,
                        "total_s": total,
                        "up_bytes": dict(round.up),
                        "down_bytes": dict(round.down),
                        "up_ratio": ratio,
                    }
                )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
