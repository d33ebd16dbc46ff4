"""What worker processes are worth: rounds in two of them against inline, and against the bound that the work itself sets.

    python scripts/bench_executors.py                    all parts, on random images of the right shape
    python scripts/bench_executors.py --part speed       w2 of scripts/floor.py: 100 clients of 60 images, three steps each
    python scripts/bench_executors.py --part bound       clients of very different sizes: the tutorial's, a fifth of each
    python scripts/bench_executors.py --part commits     a round of the tutorial's model, written and synced

speed: seconds of a round inline, over seconds of the same round in two processes, interleaved in one process.
bound: no round can be shorter than the longer of its two workers' summed seconds of training, measured inside the workers in
the same rounds; printed is that bound over the wall time of the round, which includes the sum and the server's step.
commits: milliseconds of a commit of the tutorial's model, less what the disk takes for the syncs in it.
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
from bench_local import images, ours

from fedlit.aggregation.mean import ReductionTree, make_train_jobs
from fedlit.client.worker import ClientWorker
from fedlit.core.files import LocalFilesystem
from fedlit.executors import Inline, Processes
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.client_store import ClientStateStore

WORKERS = 2


@dataclass(frozen=True)
class Timed:
    """A worker whose partials say, as a metric, which process they come from and how long they took."""

    worker: ClientWorker
    device = torch.device("cpu")

    def placed(self, device):
        return replace(self, worker=self.worker.on_device(device))

    def __call__(self, job, state):
        begin = time.perf_counter()
        partial = self.worker(job, state)
        return replace(partial, metrics={str(os.getpid()): (time.perf_counter() - begin, 1.0)})


def one_round(number, algorithm, execute, cohort, state):
    """Wall seconds of a round, and the summed seconds of each process in it."""
    begin, tally, busy = time.perf_counter(), ReductionTree(), defaultdict(float)
    for partial in execute(make_train_jobs(number, cohort), state):
        tally.add(partial)
        for process, (seconds, _) in partial.metrics.items():
            busy[process] += seconds
    algorithm.server(state, tally.finish()[0])
    return time.perf_counter() - begin, list(busy.values())


def prepared(w, every=1):
    """A worker, the state before round 1, and whose samples are whose."""
    x, y = images(w, None)
    parts = [part[::every] for part in w.split(y)]
    worker, state = ours(w, x, y, parts)
    return Timed(worker), state, parts


def told(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f} in {len(values)} rounds)"


def speed(repeats):
    w = floor.W2
    worker, state, parts = prepared(w)
    times = []
    with Inline().open(worker, repeats) as here, Processes(WORKERS).open(worker, repeats) as there:
        for number, cohort in enumerate(w.schedule(parts, repeats + 1)):
            pair = {}
            for side in (here, there) if number % 2 else (there, here):
                pair[side], _ = one_round(number, worker.worker.algorithm, side, cohort, state)
            times.append((pair[here], pair[there]))
    times = times[1:]  # the first is a warm-up
    mine, other = (statistics.median(side) for side in zip(*times, strict=True))
    print(
        f"speed: {WORKERS} processes are {told([a / b for a, b in times])} times as fast as inline; {w.cohort} clients "
        f"{mine:.3f} s inline, {other:.3f} s in processes",
        flush=True,
    )


def bound(repeats):
    w = floor.W1
    worker, state, parts = prepared(w, every=5)
    by_size = sorted(range(len(parts)), key=lambda client: (-len(parts[client]), client))
    with Processes(WORKERS).open(worker, repeats) as execute:
        for cohort in (sorted(w.schedule(parts, 2)[1], key=by_size.index), by_size):
            rounds = [one_round(t, worker.worker.algorithm, execute, cohort, state) for t in range(repeats + 1)][1:]
            wall, least = (statistics.median(side) for side in zip(*((a, max(b)) for a, b in rounds), strict=True))
            print(
                f"bound: {least:.3f} s is the bound of a round of clients of {[len(parts[c]) for c in cohort]} images, which "
                f"takes {wall:.3f} s: {told([max(busy) / seconds for seconds, busy in rounds])} of it",
                flush=True,
            )


class TimedDisk(LocalFilesystem):
    """A disk that knows how long it was waited for."""

    seconds = 0.0

    def sync(self, path):
        begin = time.perf_counter()
        super().sync(path)
        self.seconds += time.perf_counter() - begin


def commits(repeats):
    _, state, _ = prepared(floor.W1, every=100)
    numbers = sum(tensor.numel() for tensor in state.model.parameters.values())
    whole, waited = [], []
    with TemporaryDirectory(dir=".") as folder:  # not in /tmp, which may be memory
        disk = TimedDisk()
        kept = DiskCheckpointer(Path(folder), filesystem=disk)
        for number in range(1, repeats + 1):
            record = RoundRecord(number, (0,), {"train/loss": 0.5}, (), None, "0" * 64, state.model)
            disk.seconds, begin = 0.0, time.perf_counter()
            kept.commit(replace(state, round=number), ClientStateStore(), record)
            whole.append(time.perf_counter() - begin)
            waited.append(disk.seconds)
    beyond = [1000 * (a - b) for a, b in zip(whole, waited, strict=True)][3:]  # nothing is pruned before the third
    print(
        f"commits: {numbers:,} parameters take {told(beyond)} ms beyond the disk's own sync, which takes "
        f"{1000 * statistics.median(waited):.1f} ms ({1000 * min(waited):.1f} to {1000 * max(waited):.1f})",
        flush=True,
    )


PARTS = {"speed": speed, "bound": bound, "commits": commits}
REPEATS = {"speed": 9, "bound": 5, "commits": 40}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--repeats", type=int)
    arguments = parser.parse_args()
    for name, part in PARTS.items():
        if arguments.part in (None, name):
            part(arguments.repeats or REPEATS[name])


if __name__ == "__main__":
    from bench_executors import main as main_of_a_module  # worker processes find its classes there, not in __main__

    main_of_a_module()
