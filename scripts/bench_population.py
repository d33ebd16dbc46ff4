"""Measure the cost of a population that is generated on demand.

    python scripts/bench_population.py [--clients 1000000] [--samples 20] [--cohort 100] [--rounds 9]

Prints the seconds and the resident memory of a population of synthetic clients. Then it interleaves rounds of this
population and of one with a thousand clients, and prints the median and the range of the ratios of their times.
"""

import argparse
import gc
import statistics
import time
from pathlib import Path

import torch

from fedlit.algorithms import FedAvg
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.streams import Purpose, stream
from fedlit.data import Natural
from fedlit.data.client_data import ClientData
from fedlit.data.loading import Loading
from fedlit.data.sources.synthetic import synthetic
from fedlit.models import Classifier
from fedlit.server.monitor import Monitor
from fedlit.server.sampling import Uniform
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation


def resident_mb():
    """Return the resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def make_population(clients, samples):
    """Return the data and its population."""
    data = synthetic(clients, samples)
    return data, Natural()(data.train, stream(0, Purpose.PARTITION))


def rounds(data, population, cohort, count):
    """Yield the records of a federation's rounds."""
    module = Classifier("fedlit.models.Logistic", list(data.shape), 10, {"name": "sgd", "lr": 0.05, "fused": True})
    replica = ModuleReplica(module)
    client_data = ClientData(data.train, population, {}, Loading(batch_size=10), 0)
    worker = ClientWorker(FedAvg(), replica, TrainerConfig({"accelerator": "cpu"}), client_data)
    schedule = Schedule(rounds=count, clients_per_round=cohort, local_epochs=1)
    return Federation.assemble(
        initial=replica.read(), worker=worker, sampler=Uniform(cohort), schedule=schedule, monitor=Monitor(None)
    ).run()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1_000_000, help="clients of the large population")
    parser.add_argument("--samples", type=int, default=20, help="samples of each client")
    parser.add_argument("--cohort", type=int, default=100, help="clients in a round")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    small = make_population(1000, arguments.samples)
    gc.collect()
    before, begin = resident_mb(), time.perf_counter()
    large = make_population(arguments.clients, arguments.samples)
    seconds = time.perf_counter() - begin
    gc.collect()
    print(
        f"{arguments.clients:,} clients of {arguments.samples} samples: ready in {seconds:.2f} s, "
        f"{resident_mb() - before:.0f} MB"
    )
    begin = time.perf_counter()
    listing = large[1].statistics(large[0].train.labels, 10)
    print(f"partition.json lists {len(listing['sizes']):,} clients: {time.perf_counter() - begin:.2f} s")
    pairs = []
    runs = (rounds(*population, arguments.cohort, arguments.rounds + 1) for population in (large, small))
    for of_large, of_small in zip(*runs, strict=True):
        pairs.append((of_large.metrics["time/train_s"], of_small.metrics["time/train_s"]))
    pairs = pairs[1:]  # the first pair is a warm-up
    ratios = [of_large / of_small for of_large, of_small in pairs]
    seconds_large, seconds_small = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(
        f"a round of {arguments.cohort} clients: {statistics.median(ratios):.2f} times the time with 1,000 clients "
        f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds; {seconds_large:.3f} s, {seconds_small:.3f} s)"
    )
    print(f"resident memory of the population after the rounds: {resident_mb() - before:.0f} MB")


if __name__ == "__main__":
    main()
