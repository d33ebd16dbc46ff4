"""Benchmark of local training against a bare PyTorch loop on the same tensors, threads and steps.

    python scripts/bench_local.py                       both workloads on random images of the right shape
    python scripts/bench_local.py --data DIR            on DIR/cifar10.npz and DIR/fmnist.npz (x_train, y_train)
    python scripts/bench_local.py --workload w2 --repeats 15

w1 is the tutorial's federation with few large clients, w2 has a thousand small ones. Both are workloads of scripts/floor.py,
whose functions are the bare loop. The time of fedlit includes everything that a client needs in one process: the Trainer, the
logged loss and accuracy of each step, seeding, serialisation, the check for finite numbers and the sum. A repeat times one
cohort in both ways. The median and the range of the ratios are printed.
"""

import argparse
import statistics
import time

import floor
import numpy as np
import torch

from fedlit.algorithms import FedAvg
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.messages import TrainJob
from fedlit.data import Normalise, Population, TensorSamples
from fedlit.data.client_data import ClientData
from fedlit.data.loading import Loading
from fedlit.models import Classifier

NETWORKS = {"w1": "fedlit.models.SimpleCNN", "w2": "fedlit.models.MLP"}


def images(w, folder):
    """Return the images and labels of a workload.

    Args:
        w: a workload of scripts/floor.py.
        folder: folder of the archives; None for random images.

    Returns:
        (images, labels): uint8 of shape (n, channels, height, width), and int64 of shape (n,).
    """
    if folder is None:
        generator = np.random.default_rng(0)
        shape, count = ((3, 32, 32), 50_000) if w.name == "w1" else ((1, 28, 28), 60_000)
        return generator.integers(0, 256, (count, *shape), dtype=np.uint8), generator.integers(0, 10, count)
    archive = np.load(f"{folder}/{w.file}.npz")
    x = archive["x_train"]
    return (x.transpose(0, 3, 1, 2).copy() if x.ndim == 4 else x[:, None]), archive["y_train"].astype(np.int64)


def make_module(w, shape):
    """Make the module of a workload for images of a shape."""
    return Classifier(
        NETWORKS[w.name], list(shape), 10, {"name": "sgd", "lr": w.lr, "momentum": w.momentum, "fused": True}
    )


def make_worker(w, x, y, parts):
    """Make a worker of fedlit on the shards of a workload.

    Returns:
        (worker, server state before round 1).
    """
    channels, module = x.shape[1], make_module(w, x.shape[1:])
    samples = TensorSamples(torch.from_numpy(x), torch.from_numpy(y), Normalise((0.5,) * channels, (0.5,) * channels))
    owner = np.zeros(len(y), dtype=np.int64)
    for client, part in enumerate(parts):
        owner[part] = client
    config, replica = TrainerConfig({"accelerator": "cpu"}, list, epochs=w.epochs), ModuleReplica(module)
    data = ClientData(samples, Population.of(owner, len(parts)), {}, Loading(batch_size=w.batch), seed=0)
    worker = ClientWorker(FedAvg(), replica, config, data)
    return worker, worker.algorithm.init(replica.read())


def run_bare_loop(w, model, x, y, parts, cohort):
    """Run a round of the bare loop of floor.py, which leaves the cohort's average in the model; return its parameters."""
    start, total = floor.vector(model), torch.zeros_like(floor.vector(model))
    samples = sum(len(parts[client]) for client in cohort)
    for client in cohort:
        floor.load(model, start)
        floor.fit(w, model, x, y, parts[client])
        total += floor.vector(model) * (len(parts[client]) / samples)
    floor.load(model, total)
    return list(model.parameters())


def measure(w, folder, repeats):
    """Return (seconds of fedlit, seconds of the bare loop) for each repeat."""
    x, y = images(w, folder)
    parts = w.split(y)
    worker, state = make_worker(w, x, y, parts)
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
                run_bare_loop(w, model, prepared, labels, indices, cohort)
            pair[side] = time.perf_counter() - begin
        times.append(pair)
    return times[1:]  # the first is a warm-up


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="folder of cifar10.npz and fmnist.npz; default random images")
    parser.add_argument("--workload", choices=["w1", "w2"], help="run one workload; default both")
    parser.add_argument("--repeats", type=int, help="measured repeats; default 3 of w1 and 9 of w2")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; default 1")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for w in (floor.W1, floor.W2):
        if arguments.workload in (None, w.name):
            times = measure(w, arguments.data, arguments.repeats or (3 if w.name == "w1" else 9))
            ratios = [seconds / bare for seconds, bare in times]
            seconds, bare = (statistics.median(side) for side in zip(*times, strict=True))
            print(
                f"{w.name}: {statistics.median(ratios):.2f} times the bare loop ({min(ratios):.2f} to {max(ratios):.2f} "
                f"in {len(ratios)} repeats); {w.cohort} clients {seconds:.3f} s, bare {bare:.3f} s, "
                f"{arguments.threads} thread(s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
