#!/usr/bin/env python
"""Makes everything go wrong that can on one machine, one row after the other, and says what held.

    scripts/fault_matrix.py                        # all rows
    scripts/fault_matrix.py --fast                 # those that take no seconds
    scripts/fault_matrix.py --row "power cut"      # those with that in their name
    scripts/fault_matrix.py --break sync --row "power cut"   # with a part of fedlit left out: must not hold

Exit status 1 if a row does not hold. "Same bits" are those of the run that nothing happened to: the states' digests,
rounds.jsonl less its times, the clients' memories and the files of the commits, byte by byte.
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
from matrix import client_rows, commit_rows, disks, run_rows, signal_rows, spoilt_rows, worker_rows  # noqa: E402
from matrix.lab import Broken, Row, listening  # noqa: E402

from fedlit.aggregation.mean import ReductionTree  # noqa: E402
from fedlit.client.worker import ClientWorker  # noqa: E402
from fedlit.core.messages import ClientFailure, PartialAggregate  # noqa: E402
from fedlit.server.checkpoint import format as commits  # noqa: E402

PARTS = (commit_rows, spoilt_rows, client_rows, worker_rows, signal_rows, run_rows)
ROWS: Sequence[Row] = [row for part in PARTS for row in part.ROWS]


def held(row: Row) -> tuple[str, str]:
    """Nothing and the row's remark if what had to hold did; otherwise what did not."""
    with TemporaryDirectory(prefix="fedlit-matrix-") as folder, listening():
        try:
            return "", row.run(Path(folder))
        except Broken as broken:
            return str(broken), ""
        except Exception:  # of a row whose fault nothing was prepared for
            return traceback.format_exc(), ""


def _without_sync() -> Any:
    return patch.object(disks.Recording, "sync", lambda self, path: None)


def _without_manifest() -> Any:
    return patch.object(commits, "_checked", lambda path, wanted: path.read_bytes())


def _swallowing() -> Any:
    ask = ClientWorker._try

    def swallow(self: ClientWorker, chunk: Any, client: int, state: Any) -> Any:
        try:
            return ask(self, chunk, client, state)
        except BaseException as error:
            return ClientFailure(client, "exception", repr(error))

    return patch.object(ClientWorker, "_try", swallow)


@contextmanager
def _as_they_come() -> Iterator[None]:
    add = ReductionTree.add

    def anyhow(self: ReductionTree, partial: PartialAggregate) -> None:
        add(self, replace(partial, index=self._next))

    with (
        patch.object(ReductionTree, "add", anyhow),
        patch.object(worker_rows.LastFirst, "sent", lambda self, results: results),
    ):
        yield


BREAKS: dict[str, tuple[str, Callable[[], Any]]] = {
    "sync": ("power cut at every step of a run", _without_sync),
    "manifest": ("bit-flipped file in the newest checkpoint", _without_manifest),
    "system-exit": ("SIGINT in a fit", _swallowing),
    "arrival": ("workers that finish in another order", _as_they_come),
}
"""What can be left out, so that the row that is named does not hold: the sync of a commit, the check of its manifest, the
difference between a client's failure and a wish to stop, the order of the sum."""


def main() -> None:
    torch.set_num_threads(1)  # before there are others: the rows fork
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--row", default="", help="rows with this in their name")
    parser.add_argument("--fast", action="store_true", help="leave out what takes seconds")
    parser.add_argument("--break", dest="broken", choices=BREAKS, help="leave out a part of fedlit")
    typed = parser.parse_args()
    rows = [row for row in ROWS if typed.row.lower() in row.name.lower() and not (typed.fast and row.slow)]
    count = 0
    for row in rows:
        begin = time.perf_counter()
        if typed.broken:
            with BREAKS[typed.broken][1]():
                wrong, remark = held(row)
        else:
            wrong, remark = held(row)
        count += not wrong
        seconds = time.perf_counter() - begin
        line = f"{'NOT HELD' if wrong else 'held'} | {_named(row, remark)} | {row.holds} | {seconds:.1f} s"
        print(textwrap.fill(line, 80, subsequent_indent="    ", break_on_hyphens=False), flush=True)
        if wrong:
            print("    " + wrong.strip().replace("\n", "\n    "), flush=True)
    print(f"{count} of {len(rows)} rows held")
    sys.exit(count < len(rows) or not rows)


def _named(row: Row, remark: str) -> str:
    return f"{row.name} ({remark})" if remark else row.name


if __name__ == "__main__":
    main()
