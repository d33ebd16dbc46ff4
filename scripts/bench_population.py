"""What a population costs that is made when it is asked for: memory, time to stand, time of a round.

    python scripts/bench_population.py [--clients 1000000] [--samples 20] [--cohort 100] [--rounds 9]

Prints the seconds and the resident memory of a population of so many synthetic clients, and the time of a round of it
against one of a thousand clients, interleaved: the median of the ratios and their range.
"""

import argparse
import gc
import statistics
import time
from pathlib import Path

import torch

from fedlit.algorithms import FedAvg
from fedlit.client.trainer import ModuleReplica, TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.streams import Purpose, stream
from fedlit.data import Natural
from fedlit.data.client_data import ClientData
from fedlit.data.samples import Loading
from fedlit.data.sources.synthetic import synthetic
from fedlit.models import Classifier
from fedlit.server.federation import Federation
from fedlit.server.monitor import Monitor
from fedlit.server.sampling import Uniform
from fedlit.server.schedule import Schedule


def resident():
    """Resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def stand(clients, samples):
    """Data and population."""
    data = synthetic(clients, samples)
    return data, Natural()(data.train, stream(0, Purpose.PARTITION))


def rounds(data, population, cohort, count):
    """A federation's rounds, one by one."""
    module = Classifier("fedlit.models.Logistic", list(data.shape), 10, {"name": "sgd", "lr": 0.05, "fused": True})
    bench = ModuleReplica(module)
    held = ClientData(data.train, population, {}, Loading(batch_size=10), 0)
    worker = ClientWorker(FedAvg(), bench, TrainerConfig({"accelerator": "cpu"}), held)
    schedule = Schedule(rounds=count, clients_per_round=cohort, local_epochs=1)
    return Federation(bench.read(), worker, Uniform(cohort), schedule, 0, monitor=Monitor(None)).run()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--cohort", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    small = stand(1000, arguments.samples)
    gc.collect()
    before, begin = resident(), time.perf_counter()
    large = stand(arguments.clients, arguments.samples)
    seconds = time.perf_counter() - begin
    gc.collect()
    print(
        f"{arguments.clients:,} clients of {arguments.samples} samples stand after {seconds:.2f} s, "
        f"{resident() - before:.0f} MB"
    )
    begin = time.perf_counter()
    listed = large[1].statistics(large[0].train.labels, 10)
    print(f"partition.json lists {len(listed['sizes']):,} of them: {time.perf_counter() - begin:.2f} s")
    pairs = []
    for mine, other in zip(
        *(rounds(*made, arguments.cohort, arguments.rounds + 1) for made in (large, small)), strict=True
    ):
        pairs.append((mine.metrics["time/train_s"], other.metrics["time/train_s"]))
    pairs = pairs[1:]  # the first is a warm-up
    ratios = [mine / other for mine, other in pairs]
    mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(
        f"a round of {arguments.cohort}: {statistics.median(ratios):.2f} times one of a thousand clients "
        f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds; {mine:.3f} s, {other:.3f} s)"
    )
    print(f"resident memory beyond the process's own after the rounds: {resident() - before:.0f} MB")


if __name__ == "__main__":
    main()
