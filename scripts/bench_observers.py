"""Benchmark of a run's observers: CPU time of TensorBoard and of the partition's figure, as a share of a run.

    python scripts/bench_observers.py                        the default experiment (digits), and many small clients
    python scripts/bench_observers.py --workload digits --rounds 20

Two federations of a workload train the same rounds in turn, one with the observers and one without. The time of each observer
is measured by itself too, since it is smaller than the spread of the rounds. `start` is the time before round 1, with the
import of matplotlib and TensorBoard; `end` is the time after the last round, with the confusion matrix of the best model.
`sketches` is the time in which a worker projects the updates for their cosines, which every run's record has.
"""

import argparse
import logging
import statistics
import time
from contextlib import contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory
from unittest import mock

import floor
import torch
from bench import FixedCohorts
from bench_local import images, make_module
from hydra import compose

import fedlit.aggregation.chunk as chunk
from fedlit import FedAvg, Federation, Schedule
from fedlit.cli.command_line import config_loader
from fedlit.client.trainer import TrainerConfig
from fedlit.data import Data, Normalise, TensorSamples
from fedlit.data.loading import Loading
from fedlit.data.population import Population
from fedlit.experiment.config.build import build_run
from fedlit.experiment.config.plain import to_plain
from fedlit.experiment.observers import Observer, PartitionFigure, TensorBoard
from fedlit.experiment.observers.script import Observers


class Timed(Observer):
    """An observer whose CPU time is measured.

    Args:
        observer: the observer.
    """

    def __init__(self, observer):
        self._observer, self.seconds = observer, {"start": 0.0, "round": 0.0, "end": 0.0}

    def _measure(self, call, argument):
        begin = time.process_time()
        getattr(self._observer, call)(argument)
        self.seconds[call] += time.process_time() - begin

    def start(self, run):
        self._measure("start", run)

    def round(self, record):
        self._measure("round", record)

    def end(self, summary):
        self._measure("end", summary)


def digits(rounds, folder):
    """The default experiment of the command line, in one process."""
    with config_loader():
        config = to_plain(compose("config", ["executor=inline", f"schedule.rounds={rounds}", "observers=none"]))
    run, _ = build_run(config, folder, {})
    return replace(run.federation, data=run.data)


def small_clients(rounds, folder):
    """100 of 1,000 clients with 60 images each, evaluated after each round."""
    w = floor.W2
    x, y = images(w, None)
    parts = w.split(y)
    owner = torch.empty(len(y), dtype=torch.int64)
    for client, part in enumerate(parts):
        owner[part] = client
    samples = TensorSamples(torch.from_numpy(x), torch.from_numpy(y), Normalise((0.5,), (0.5,)))
    classes = tuple(map(str, range(10)))
    test = samples.subset(torch.arange(10_000).numpy())
    data = Data("images", samples, test, tuple(x.shape[1:]), classes)
    federation = Federation.of(
        lambda: make_module(w, x.shape[1:]),
        data,
        lambda samples, generator: Population.of(owner.numpy(), w.clients),
        FedAvg(),
        Schedule(rounds=rounds, clients_per_round=w.cohort, local_epochs=w.epochs),
        sampler=lambda _: FixedCohorts(w.schedule(parts, rounds)),
        loading=Loading(batch_size=w.batch, val_fraction=0.0),
        trainer_config=TrainerConfig({"accelerator": "cpu"}),
    )
    return replace(federation, data=data)


WORKLOADS = {"digits": (digits, 10), "w2": (small_clients, 6)}


@contextmanager
def timed_sketches(seconds):
    """Add the CPU time of each projection of an update to `seconds`."""
    sketch = chunk.sketch

    def timed(*arguments):
        begin = time.process_time()
        result = sketch(*arguments)
        seconds.append(time.process_time() - begin)
        return result

    with mock.patch.object(chunk, "sketch", timed):
        yield


def measure(name, rounds):
    """Run a workload with and without observers; print a table."""
    make, usual = WORKLOADS[name]
    rounds, times, sketches = rounds or usual, {True: [], False: []}, []
    observers = {"TensorBoard": Timed(TensorBoard()), "PartitionFigure": Timed(PartitionFigure())}
    with TemporaryDirectory() as folder, timed_sketches(sketches):
        runs = {
            has: Observers(list(observers.values()) if has else [], f"{folder}/{has}").watch(make(rounds, folder))
            for has in (True, False)
        }
        for number in range(rounds):
            for has in (True, False) if number % 2 else (False, True):
                begin = time.process_time()
                next(runs[has])
                times[has].append(time.process_time() - begin)
        for run in runs.values():
            list(run)  # the end
    plain, ratios = sum(times[False][1:]), [a / b for a, b in zip(times[True][1:], times[False][1:], strict=True)]
    print(f"{name}: {rounds} rounds, {plain / (rounds - 1):.3f} s of CPU time a round without observers")
    print(f"{'with / without':<18}{statistics.median(ratios):>8.3f}  ({min(ratios):.2f} to {max(ratios):.2f})")
    share = sum(sketches) / (sum(times[True]) + sum(times[False]))
    print(f"{'sketches':<18}{share:>8.2%} of a round")
    for label, observer in observers.items():
        seconds = observer.seconds
        share = seconds["round"] / rounds / (plain / (rounds - 1))
        print(f"{label:<18}{share:>8.2%} of a round; start {seconds['start']:.2f} s, end {seconds['end']:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, help="one workload; default both")
    parser.add_argument("--rounds", type=int, help="rounds; default 10 of digits and 6 of w2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    for name in WORKLOADS:
        if arguments.workload in (None, name):
            measure(name, arguments.rounds)


if __name__ == "__main__":
    main()
