"""Measure the cost of a population that is generated on demand, and of the states of many clients.

    python scripts/bench_population.py [--clients 1000000] [--samples 20] [--cohort 100] [--rounds 9] [--stored 100000]

Prints the seconds and the resident memory of a population of synthetic clients. Then it interleaves rounds of this
population and of one with a thousand clients, and prints the median and the range of the ratios of their times.

Then it commits checkpoints of a federation in which every client has a state, and prints the milliseconds that a round needs
to read the states of its cohort and to commit the new ones, next to those of a federation with a thousand such clients.
"""

import argparse
import gc
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from fedlit.algorithms import FedAvg
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.messages import ServerState, Shared
from fedlit.core.model import Model
from fedlit.core.streams import Purpose, stream
from fedlit.data import Natural
from fedlit.data.client_data import ClientData
from fedlit.data.loading import Loading
from fedlit.data.sources.synthetic import synthetic
from fedlit.models import Classifier
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.client_store import ClientStateStore
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


class StoredStates:
    """The checkpoints of a federation in which every client has a state.

    Args:
        folder: folder of the checkpoints.
        clients: clients with a state; all of them get one, `cohort` a round.
        cohort: clients in a round.
        numbers: float32 numbers in a state.
    """

    def __init__(self, folder, clients, cohort, numbers):
        self.folder, self.clients, self.cohort, self.numbers = folder, clients, cohort, numbers
        self.checkpointer, self.store, self.round = DiskCheckpointer(folder), ClientStateStore(), 0
        folder.mkdir()
        for begin in range(0, clients, cohort):
            self.run_round(range(begin, min(begin + cohort, clients)))

    def run_round(self, clients):
        """Read, update and commit the states of some clients; return the seconds of the reading and of the commit."""
        self.round += 1
        state = ServerState(self.round, Shared(Model({"w": torch.zeros(self.numbers)}, {})))
        facts = {"metrics": {"train/loss": 1.0}, "failures": (), "lost": None, "sha256": "0" * 64}
        record = RoundRecord(number=self.round, cohort=tuple(clients), **facts)
        begin = time.perf_counter()
        self.store.read(clients)
        read = time.perf_counter()
        self.store.update({client: {"control": {"w": torch.full((self.numbers,), 1.0)}} for client in clients})
        update = time.perf_counter()
        self.checkpointer.commit(state, self.store, record)
        return read - begin, time.perf_counter() - update

    def draw_round(self, generator):
        """Run a round with a cohort that is drawn: see `run_round`."""
        return self.run_round(generator.choice(self.clients, self.cohort, replace=False).tolist())


def measure_stored_states(clients, cohort, numbers, rounds):
    """Print the cost of the states of many clients."""
    generator = np.random.default_rng(0)
    with TemporaryDirectory(prefix="fedlit-") as folder:
        small = StoredStates(Path(folder) / "small", 1000, cohort, numbers)
        gc.collect()
        before, begin = resident_mb(), time.perf_counter()
        large = StoredStates(Path(folder) / "large", clients, cohort, numbers)
        seconds, filled = time.perf_counter() - begin, resident_mb()
        times = np.array([(large.draw_round(generator), small.draw_round(generator)) for _ in range(rounds)]) * 1000
        gc.collect()
        after, disk = resident_mb(), sum(path.stat().st_size for path in large.folder.rglob("*") if path.is_file())
        begin = time.perf_counter()
        restored = DiskCheckpointer(large.folder).load().client_states
        load_s = time.perf_counter() - begin
        assert len(restored) == clients
    print(
        f"{clients:,} clients with a state of {numbers:,} numbers, {cohort} a round: stored in {large.round - rounds} "
        f"rounds and {seconds:.0f} s, {filled - before:.0f} MB of memory, {after - filled:+.0f} MB after {rounds} rounds "
        f"more, {disk / 1e6:.0f} MB on disk, loaded in {load_s:.2f} s"
    )
    for place, name in enumerate(("the states of a cohort are read", "a commit")):
        (middle, high), (few, _) = (np.quantile(times[:, side, place], [0.5, 0.9]) for side in (0, 1))
        print(f"{name}: median {middle:.1f} ms, 9 of 10 within {high:.1f} ms; with 1,000 clients median {few:.1f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1_000_000, help="clients of the large population")
    parser.add_argument("--samples", type=int, default=20, help="samples of each client")
    parser.add_argument("--cohort", type=int, default=100, help="clients in a round")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds")
    parser.add_argument("--stored", type=int, default=100_000, help="clients with a state; 0 skips this part")
    parser.add_argument("--numbers", type=int, default=610, help="float32 numbers in a client's state")
    parser.add_argument("--commits", type=int, default=200, help="measured commits")
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
    if arguments.stored:
        measure_stored_states(arguments.stored, arguments.cohort, arguments.numbers, arguments.commits)


if __name__ == "__main__":
    main()
