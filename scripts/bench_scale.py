"""Measure what a round costs beside the training of its clients.

    python scripts/bench_scale.py                        all parts
    python scripts/bench_scale.py --part server          100 updates of 200,000 numbers through one round of the server
    python scripts/bench_scale.py --part population      10^3 to 10^6 registered clients, cohorts of 10 to 10,000
    python scripts/bench_scale.py --part sum             updates of 10^4 to 10^8 numbers in the sum, against a memory copy
    python scripts/bench_scale.py --part sum --largest 10000000

The clients of the first two parts do not train: each returns the same update. So a round has everything else: the plan, jobs,
packing, unpacking, checks, the sum, the step of the server, digest, record, and with `server` a checkpoint that is synced.
Everything runs in one process with one thread. Medians and ranges are printed, of wall time and of CPU time, which other
programs disturb less; the sum is in CPU time. docs/cluster.md computes with them.
"""

import argparse
import gc
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from bench_population import make_population, resident_mb
from lightning.pytorch import LightningModule

from fedlit.aggregation import MeanAggregator
from fedlit.aggregation.blocks import Float64Blocks
from fedlit.algorithms import FedAvg
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.messages import Update
from fedlit.data.client_data import ClientData
from fedlit.data.loading import Loading
from fedlit.server.checkpoint.checkpointer import NoCheckpoints
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.monitor import Monitor
from fedlit.server.sampling import Uniform
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation


@dataclass(frozen=True)
class Untrained(FedAvg):
    """FedAvg with clients that return a constant update."""

    def client(self, local, shared, client_state):
        """Return the update, without training."""
        groups = {"parameters": {name: torch.full_like(w, 1e-3) for name, w in shared.model.parameters.items()}}
        return Update(groups | {"buffers": {}}, weight=1.0)


class Numbers(LightningModule):
    """A module of so many parameters, in ten tensors."""

    def __init__(self, size):
        super().__init__()
        self.parts = torch.nn.ParameterList(torch.zeros(size // 10) for _ in range(10))

    def training_step(self, batch, index):
        """Return a loss that no client computes."""
        return self.parts[0].sum()

    def configure_optimizers(self):
        """Return an optimizer that no client uses."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def round_seconds(population, cohort, size, rounds, checkpointer):
    """Return (wall seconds, CPU seconds), each of every round but the first."""
    data, owners = population
    replica = ModuleReplica(Numbers(size))
    client_data = ClientData(data.train, owners, {}, Loading(batch_size=10), 0)
    worker = ClientWorker(Untrained(), replica, TrainerConfig({"accelerator": "cpu"}), client_data)
    schedule = Schedule(rounds=rounds + 1, clients_per_round=cohort)
    parts = {"initial": replica.read(), "worker": worker, "sampler": Uniform(cohort), "schedule": schedule}
    federation = Federation.assemble(**parts, monitor=Monitor(None), checkpointer=checkpointer)
    readings = [(time.perf_counter(), time.process_time())]
    for record in federation.run():
        assert len(record.cohort) == cohort
        readings.append((time.perf_counter(), time.process_time()))
    return [[after - before for before, after in pairwise(clock[1:])] for clock in zip(*readings, strict=True)]


def spread(values, digits=1):
    """The median and the range of values as text."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def measure_server(rounds):
    """Print the cost of 100 updates of 200,000 numbers."""
    population = make_population(1000, 20)
    with TemporaryDirectory(prefix="fedlit-") as folder:
        times = {}
        for name, checkpointer in (("without", NoCheckpoints()), ("with", DiskCheckpointer(Path(folder)))):
            times[name] = round_seconds(population, 100, 200_000, rounds, checkpointer)
    for name, clocks in times.items():
        wall, cpu = ([1000 * s for s in seconds] for seconds in clocks)
        print(f"100 updates of 200,000 numbers, {name} checkpoints: {spread(wall)} ms a round; CPU {spread(cpu)} ms")


def measure_population(rounds):
    """Print the cost of a round for each number of registered clients and each cohort."""
    for clients in (10**3, 10**4, 10**5, 10**6):
        gc.collect()
        before, begin = resident_mb(), time.perf_counter()
        population = make_population(clients, 20)
        ready, memory = time.perf_counter() - begin, resident_mb() - before
        print(f"{clients:>9,} registered clients: ready in {ready:.2f} s, {memory:.0f} MB")
        for cohort in (10, 100, 1000, 10_000):
            if cohort <= clients:
                wall, cpu = round_seconds(population, cohort, 1000, rounds, NoCheckpoints())
                each = [[1000 * s / cohort for s in seconds] for seconds in (wall, cpu)]
                figures = f"{spread(each[0], 3)} ms a client, CPU {spread(each[1], 3)} ms"
                print(f"{'':>9} cohort of {cohort:>6,}: {spread(wall, 3)} s a round, {figures}")


def measure_sum(largest, repeats):
    """Print the speed of the sum against that of a memory copy."""
    aggregator, size = MeanAggregator(), 10**4
    while size <= largest:
        vector, total = torch.full((size,), 1e-3), torch.zeros(size, dtype=torch.float64)
        ratios, speeds = [], []
        for _ in range(max(3, min(repeats, 10**9 // size))):
            start = time.process_time()
            copy = vector.clone()
            copied = time.process_time()
            total = aggregator.add_float32(total, Float64Blocks(copy), 1.0)
            added = time.process_time()
            ratios.append((copied - start) / (added - copied))
            speeds.append(4 * size / (added - copied) / 1e9)
        print(f"sum of updates of {size:>11,} numbers: {spread(speeds, 2)} GB/s, {spread(ratios, 2)} of a copy")
        size *= 10


def main():
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("server", "population", "sum"), help="one part; all by default")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds of each case")
    parser.add_argument("--repeats", type=int, default=101, help="largest number of repeats of a sum")
    parser.add_argument("--largest", type=int, default=10**8, help="largest number of numbers in a sum")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.part in (None, "server"):
        measure_server(arguments.rounds)
    if arguments.part in (None, "population"):
        measure_population(arguments.rounds)
    if arguments.part in (None, "sum"):
        measure_sum(arguments.largest, arguments.repeats)


if __name__ == "__main__":
    main()
