"""Benchmark of other simulators of federated learning beside ours, through their public APIs.

    python scripts/bench_peers.py                            all peers that are installed
    python scripts/bench_peers.py --repeats 7 --json FILE    more rounds; also as JSON

The workload is w2 of scripts/floor.py: 100 of 1,000 clients with 60 images each, three steps of the 2NN. Each way trains the
same clients on the same random images with one torch thread. The rounds of all ways alternate. The median, the range and the
median of the ratios to the bare loop in the same repeat are printed. A peer that is not installed is left out, and named.
Install peers in an environment of their own: `pip install pfl` has pfl-research.
"""

import argparse
import json
import statistics
import time
from importlib.util import find_spec
from pathlib import Path

import floor
import torch
from bench import EXECUTORS, Setting

PEERS = {"pfl-research": "pfl"}
"""Name of each peer, and the module that it installs."""


def run_pfl(setting):
    """Return a function that runs one round by pfl-research: FederatedAveraging on a simulated backend."""
    import numpy as np
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Weighted
    from pfl.model.pytorch import PyTorchModel

    w = setting.w
    x = torch.from_numpy(setting.x).float().div_(255).sub_(0.5).div_(0.5)
    y = torch.from_numpy(setting.y)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = w.net()

        def loss(self, inputs, labels, eval=False):
            return torch.nn.functional.cross_entropy(self.net(inputs), labels)

        @torch.no_grad()
        def metrics(self, inputs, labels, eval=False):
            return {"loss": Weighted(self.loss(inputs, labels).item() * len(labels), len(labels))}

    net = Net()
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    clients = iter([client for cohort in setting.cohorts for client in cohort])

    def make_dataset(client):
        rows = torch.from_numpy(setting.parts[client])[torch.randperm(len(setting.parts[client]))]
        return Dataset(raw_data=[x[rows], y[rows]], user_id=str(client))

    data = FederatedDataset(make_dataset, lambda: next(clients))
    backend = SimulatedBackend(training_data=data, val_data=None)
    train = NNTrainHyperParams(local_learning_rate=w.lr, local_num_epochs=w.epochs, local_batch_size=w.batch)
    params = NNAlgorithmParams(
        central_num_iterations=10**9, evaluation_frequency=10**9, train_cohort_size=w.cohort, val_cohort_size=0
    )
    algorithm = FederatedAveraging()
    np.random.seed(0)

    def run(number):
        contexts, _, _ = algorithm.get_next_central_contexts(model, number + 1, params, train)
        for context in contexts:
            statistics_of, metrics = backend.gather_results(
                model=model, training_algorithm=algorithm, central_context=context
            )
            algorithm.process_aggregated_statistics(context, metrics, model, statistics_of)

    return run


RUNNERS = {"pfl-research": run_pfl}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="folder of fmnist.npz; default random images")
    parser.add_argument("--repeats", type=int, default=7, help="measured rounds; default 7")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to a file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting("w2", arguments.data, arguments.repeats + 1)
    runners = {way: setting.runner(way) for way in ("bare", *EXECUTORS)}
    for name, module in PEERS.items():
        if find_spec(module) is None:
            print(f"{name} is not installed")
        else:
            runners[name] = RUNNERS[name](setting)
    seconds = {way: [] for way in runners}
    for number in range(arguments.repeats + 1):
        for way, run in runners.items():
            begin = time.perf_counter()
            run(number)
            seconds[way].append(time.perf_counter() - begin)
    print(f"{floor.W2.cohort} clients, {arguments.repeats} repeats")
    for way, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values[1:], seconds["bare"][1:], strict=True))
        median, span = statistics.median(values[1:]), f"{min(values[1:]):.3f} to {max(values[1:]):.3f}"
        print(f"{way:<14}{median:>8.3f} s ({span}){ratio:>7.2f} x bare")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(seconds, indent=1) + "\n")


if __name__ == "__main__":
    from bench_peers import main as module_main  # worker processes cannot import the classes of __main__

    module_main()
