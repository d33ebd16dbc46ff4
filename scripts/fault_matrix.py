#!/usr/bin/env python
"""Injects every fault that is possible on one machine, one row after the other, and prints which rows held.

    scripts/fault_matrix.py                        # all rows
    scripts/fault_matrix.py --fast                 # rows that do not take seconds
    scripts/fault_matrix.py --row "power cut"      # rows with this text in their name
    scripts/fault_matrix.py --break sync --row "power cut"   # without a part of fedlit: the row must not hold

The exit status is 1 if a row does not hold. "Same bits" means bit-identical to the run without a fault: the digests of the
server state, rounds.jsonl without its times, the client state, and the files of the checkpoints.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import torch  # noqa: E402
from matrix import (  # noqa: E402
    checkpoint_rows,
    client_rows,
    damage_rows,
    disk_rows,
    disks,
    homomorphic_rows,
    run_rows,
    secure_rows,
    signal_rows,
    worker_rows,
)
from matrix.lab import Broken, Row, capture_logs  # noqa: E402

from fedlit.aggregation.aggregator import ReductionTree  # noqa: E402
from fedlit.client.worker import ClientWorker  # noqa: E402
from fedlit.core.messages import ClientFailure, PartialAggregate  # noqa: E402
from fedlit.server.checkpoint import format as checkpoint_format  # noqa: E402

PARTS = (
    *(checkpoint_rows, damage_rows, client_rows, worker_rows, signal_rows, disk_rows),
    *(run_rows, secure_rows, homomorphic_rows),
)
ROWS: Sequence[Row] = [row for part in PARTS for row in part.ROWS]


def check_row(row: Row) -> tuple[str, str]:
    """Run a row.

    Returns:
        (problem, remark): an empty problem and the row's remark if the row holds; otherwise the problem and no remark.
    """
    with TemporaryDirectory(prefix="fedlit-matrix-") as folder, capture_logs():
        try:
            return "", row.run(Path(folder))
        except Broken as broken:
            return str(broken), ""
        except Exception:  # fedlit does not handle the fault of this row
            return traceback.format_exc(), ""


def _without_sync() -> Any:
    return patch.object(disks.Recording, "sync", lambda self, path: None)


def _without_manifest() -> Any:
    return patch.object(checkpoint_format, "_verified", lambda path, digest: path.read_bytes())


def _catching_everything() -> Any:
    original = ClientWorker._train_client

    def catch_everything(self: ClientWorker, job: Any, state: Any, spent: Any, client: int, *rest: Any) -> Any:
        try:
            return original(self, job, state, spent, client, *rest)
        except BaseException as error:
            return ClientFailure(client, "exception", repr(error))

    return patch.object(ClientWorker, "_train_client", catch_everything)


@contextmanager
def _in_order_of_arrival() -> Iterator[None]:
    original = ReductionTree.add

    def add(self: ReductionTree, partial: PartialAggregate) -> None:
        original(self, replace(partial, index=self._next))

    with (
        patch.object(ReductionTree, "add", add),
        patch.object(worker_rows.LastFirst, "in_order", lambda self, results: results),
    ):
        yield


BREAKS: dict[str, tuple[str, Callable[[], Any]]] = {
    "sync": ("power cut at every step of a run", _without_sync),
    "manifest": ("bit-flipped file in the newest checkpoint", _without_manifest),
    "system-exit": ("SIGINT in a fit", _catching_everything),
    "arrival": ("workers that finish in another order", _in_order_of_arrival),
}
"""Parts of fedlit that can be left out, each with the row that must not hold without it.

The parts are the sync of a checkpoint, the check of its manifest, the difference between the failure of a client and a request
to stop, and the order of the sum.
"""


def main() -> None:
    torch.set_num_threads(1)  # before torch starts others: the rows fork
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--row", default="", help="run the rows with this text in their name")
    parser.add_argument("--fast", action="store_true", help="skip the rows that take seconds")
    parser.add_argument("--break", dest="broken", choices=BREAKS, help="run without a part of fedlit")
    arguments = parser.parse_args()
    rows = [row for row in ROWS if arguments.row.lower() in row.name.lower() and not (arguments.fast and row.slow)]
    count = 0
    for row in rows:
        start = time.perf_counter()
        if arguments.broken:
            with BREAKS[arguments.broken][1]():
                problem, remark = check_row(row)
        else:
            problem, remark = check_row(row)
        count += not problem
        seconds = time.perf_counter() - start
        line = f"{'NOT HELD' if problem else 'held'} | {_full_name(row, remark)} | {row.holds} | {seconds:.1f} s"
        print(textwrap.fill(line, 80, subsequent_indent="    ", break_on_hyphens=False), flush=True)
        if problem:
            print("    " + problem.strip().replace("\n", "\n    "), flush=True)
    print(f"{count} of {len(rows)} rows held")
    sys.exit(count < len(rows) or not rows)


def _full_name(row: Row, remark: str) -> str:
    return f"{row.name} ({remark})" if remark else row.name


if __name__ == "__main__":
    main()
