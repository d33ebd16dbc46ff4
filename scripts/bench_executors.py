"""Benchmark of worker processes: rounds in two of them against inline, and against a lower bound of a round.

    python scripts/bench_executors.py                    all parts, on random images of the right shape
    python scripts/bench_executors.py --part speed       w2 of scripts/floor.py: 100 clients of 60 images, three steps each
    python scripts/bench_executors.py --part bound       clients of very different sizes: a fifth of each of the tutorial's
    python scripts/bench_executors.py --part commits     checkpoints of the tutorial's model, written and synced

speed: seconds of a round inline, divided by seconds of the same round in two processes; both alternate in one run.
bound: no round is shorter than the training of its busier worker process. The training time is measured inside the workers, in
the same rounds. The result is this bound divided by the wall time of the round, which includes the sum and the server's step.
commits: milliseconds of a checkpoint of the tutorial's model, without the syncs of the disk.
"""

import argparse
import os
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import floor
import torch
from bench_local import images, make_worker

from fedlit.aggregation.aggregator import ReductionTree
from fedlit.aggregation.jobs import make_train_jobs
from fedlit.client.worker import ClientWorker
from fedlit.core.files import LocalFilesystem
from fedlit.executors import Inline, Processes
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.client_store import ClientStateStore

WORKERS = 2


@dataclass(frozen=True)
class Timed:
    """A worker whose partial aggregates have a metric with the id of the process and the seconds of the job."""

    worker: ClientWorker
    device = torch.device("cpu")

    def on_device(self, device):
        return replace(self, worker=self.worker.on_device(device))

    def merge(self, parts):
        return self.worker.merge(parts)

    def __call__(self, job, state):
        start = time.perf_counter()
        partial = self.worker(job, state)
        return replace(partial, metrics={str(os.getpid()): (time.perf_counter() - start, 1.0)})


def one_round(number, worker, execute, cohort, state):
    """Run a round.

    Returns:
        (wall seconds of the round, list of the training seconds of each process).
    """
    start, tree, busy = time.perf_counter(), ReductionTree(worker.aggregator), defaultdict(float)
    for partial in execute(make_train_jobs(number, cohort), state):
        tree.add(partial)
        for process, (seconds, _) in partial.metrics.items():
            busy[process] += seconds
    total, weight = tree.root()
    opened, _ = worker.channel.open(total, len(tree.members), state.channel)
    worker.algorithm.server(state, tree.finish(opened, weight))
    return time.perf_counter() - start, list(busy.values())


def prepare(w, every=1):
    """Prepare a workload.

    Args:
        w: a workload of scripts/floor.py.
        every: keep one of `every` samples of each client.

    Returns:
        (worker, server state before round 1, samples of each client).
    """
    x, y = images(w, None)
    parts = [part[::every] for part in w.split(y)]
    worker, state = make_worker(w, x, y, parts)
    return Timed(worker), state, parts


def summarize(values):
    """Return the median, the range and the number of values as text."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}; n={len(values)})"


def speed(repeats):
    w = floor.W2
    worker, state, parts = prepare(w)
    times = []
    with Inline().open(worker, repeats) as here, Processes(WORKERS).open(worker, repeats) as there:
        for number, cohort in enumerate(w.schedule(parts, repeats + 1)):
            pair = {}
            for side in (here, there) if number % 2 else (there, here):
                pair[side], _ = one_round(number, worker.worker, side, cohort, state)
            times.append((pair[here], pair[there]))
    times = times[1:]  # the first is a warm-up
    inline_s, processes_s = (statistics.median(side) for side in zip(*times, strict=True))
    print(
        f"speed: {WORKERS} processes are {summarize([a / b for a, b in times])} times as fast as inline; "
        f"{w.cohort} clients take {inline_s:.3f} s inline, {processes_s:.3f} s in processes",
        flush=True,
    )


def bound(repeats):
    w = floor.W1
    worker, state, parts = prepare(w, every=5)
    by_size = sorted(range(len(parts)), key=lambda client: (-len(parts[client]), client))
    with Processes(WORKERS).open(worker, repeats) as execute:
        for cohort in (sorted(w.schedule(parts, 2)[1], key=by_size.index), by_size):
            rounds = [one_round(t, worker.worker, execute, cohort, state) for t in range(repeats + 1)][1:]
            wall, least = (statistics.median(side) for side in zip(*((a, max(b)) for a, b in rounds), strict=True))
            print(
                f"bound: a round of clients with {[len(parts[c]) for c in cohort]} images takes {wall:.3f} s, its bound is "
                f"{least:.3f} s; bound over round: {summarize([max(busy) / seconds for seconds, busy in rounds])}",
                flush=True,
            )


class TimedDisk(LocalFilesystem):
    """A disk that measures the seconds of its syncs."""

    seconds = 0.0

    def sync(self, path):
        start = time.perf_counter()
        super().sync(path)
        self.seconds += time.perf_counter() - start


def commits(repeats):
    _, state, _ = prepare(floor.W1, every=100)
    numbers = sum(tensor.numel() for tensor in state.model.parameters.values())
    totals, sync_times = [], []
    with TemporaryDirectory(dir=".") as folder:  # not in /tmp, which may be memory
        disk = TimedDisk()
        checkpointer = DiskCheckpointer(Path(folder), filesystem=disk)
        for number in range(1, repeats + 1):
            record = RoundRecord(
                number=number, cohort=(0,), metrics={"train/loss": 0.5}, sha256="0" * 64, model=state.model
            )
            disk.seconds, start = 0.0, time.perf_counter()
            checkpointer.commit(replace(state, round=number), ClientStateStore(), record)
            totals.append(time.perf_counter() - start)
            sync_times.append(disk.seconds)
    without_sync = [1000 * (a - b) for a, b in zip(totals, sync_times, strict=True)]
    without_sync = without_sync[3:]  # the first three checkpoints remove no older one
    print(
        f"commits: a checkpoint of {numbers:,} parameters takes {summarize(without_sync)} ms without the sync of the disk; the "
        f"sync takes {1000 * statistics.median(sync_times):.1f} ms "
        f"({1000 * min(sync_times):.1f} to {1000 * max(sync_times):.1f})",
        flush=True,
    )


PARTS = {"speed": speed, "bound": bound, "commits": commits}
REPEATS = {"speed": 9, "bound": 5, "commits": 40}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="run one part; default all")
    parser.add_argument(
        "--repeats", type=int, help="measured rounds, or checkpoints, of each part; more than 3 for commits"
    )
    arguments = parser.parse_args()
    for name, part in PARTS.items():
        if arguments.part in (None, name):
            part(arguments.repeats or REPEATS[name])


if __name__ == "__main__":
    from bench_executors import main as module_main  # worker processes cannot import the classes of __main__

    module_main()
