"""Local training against a bare PyTorch loop on the same tensors, threads and steps, interleaved in one process.

    python scripts/bench_local.py                       both workloads on random images of the right shape
    python scripts/bench_local.py --data DIR            on DIR/cifar10.npz and DIR/fmnist.npz (x_train, y_train)
    python scripts/bench_local.py --workload w2 --repeats 15

w1 is the tutorial's federation (few large clients), w2 a thousand small ones, both as in scripts/floor.py, whose functions
are the bare loop. Ours is all that a client costs in one process: Trainer, logging of loss and accuracy in every step,
seeding, serialising, finite check, adding up. A repeat times one client set both ways; the ratio's median and range are
printed.
"""

import argparse
import statistics
import time

import floor
import numpy as np
import torch

from fedlit.algorithms import FedAvg
from fedlit.client.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.messages import ServerState, Shared, TrainJob
from fedlit.data import Normalise, Population, TensorSamples
from fedlit.data.client_data import ClientData
from fedlit.data.samples import Loading
from fedlit.models import Classifier

NETWORKS = {"w1": "fedlit.models.SimpleCNN", "w2": "fedlit.models.MLP"}


def images(w, folder):
    """uint8 images (n, c, h, w) and labels."""
    if folder is None:
        generator = np.random.default_rng(0)
        shape, count = ((3, 32, 32), 50_000) if w.name == "w1" else ((1, 28, 28), 60_000)
        return generator.integers(0, 256, (count, *shape), dtype=np.uint8), generator.integers(0, 10, count)
    archive = np.load(f"{folder}/{w.file}.npz")
    x = archive["x_train"]
    return (x.transpose(0, 3, 1, 2).copy() if x.ndim == 4 else x[:, None]), archive["y_train"].astype(np.int64)


def ours(w, x, y, parts):
    """A worker of ours on the same shards."""
    channels = x.shape[1]
    module = Classifier(
        NETWORKS[w.name], list(x.shape[1:]), 10, {"name": "sgd", "lr": w.lr, "momentum": w.momentum, "fused": True}
    )
    samples = TensorSamples(torch.from_numpy(x), torch.from_numpy(y), Normalise((0.5,) * channels, (0.5,) * channels))
    owner = np.zeros(len(y), dtype=np.int64)
    for client, part in enumerate(parts):
        owner[part] = client
    recipe = TrainerConfig({"accelerator": "cpu"}, list, epochs=w.epochs)
    bench = ModuleReplica(module)
    loading = Loading(batch_size=w.batch)
    worker = ClientWorker(
        FedAvg(), bench, recipe, ClientData(samples, Population.of(owner, len(parts)), {}, loading, seed=0)
    )
    return worker, ServerState(0, Shared(bench.read()))


def bare(w, model, x, y, parts, cohort):
    """The loop of floor.py over a cohort."""
    start, total = floor.vector(model), torch.zeros_like(floor.vector(model))
    for client in cohort:
        floor.load(model, start)
        floor.fit(w, model, x, y, parts[client])
        total += floor.vector(model) / len(cohort)
    floor.load(model, start)


def measure(w, folder, repeats):
    """Seconds of (ours, bare) for each repeat."""
    x, y = images(w, folder)
    parts = w.split(y)
    worker, state = ours(w, x, y, parts)
    prepared = torch.from_numpy(x).float().div_(255).sub_(0.5).div_(0.5)
    labels, indices, model = torch.from_numpy(y), [torch.from_numpy(part) for part in parts], w.net().train()
    cohorts = w.schedule(parts, repeats + 1)
    times = []
    for number, cohort in enumerate(cohorts):
        pair = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            begin = time.perf_counter()
            if side == 0:
                partial = worker(TrainJob(number, 0, tuple(cohort)), state)
                assert len(partial.members) == len(cohort)
            else:
                bare(w, model, prepared, labels, indices, cohort)
            pair[side] = time.perf_counter() - begin
        times.append(pair)
    return times[1:]  # the first is a warm-up


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--workload", choices=["w1", "w2"])
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for w in (floor.W1, floor.W2):
        if arguments.workload in (None, w.name):
            times = measure(w, arguments.data, arguments.repeats or (3 if w.name == "w1" else 9))
            ratios = [mine / theirs for mine, theirs in times]
            mine, theirs = (statistics.median(side) for side in zip(*times, strict=True))
            print(
                f"{w.name}: {statistics.median(ratios):.2f} times the bare loop ({min(ratios):.2f} to {max(ratios):.2f} "
                f"in {len(ratios)} repeats); {w.cohort} clients {mine:.3f} s, bare {theirs:.3f} s, "
                f"{arguments.threads} thread(s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
