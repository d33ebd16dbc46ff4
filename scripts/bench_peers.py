"""Benchmark of other simulators of federated learning beside ours, through their public APIs.

    python scripts/bench_peers.py                            all peers that are installed
    python scripts/bench_peers.py --repeats 9 --json FILE    more rounds; also as JSON
    python scripts/bench_peers.py --data DIR                 on DIR/fmnist.npz; also the accuracy after the last round
    python scripts/bench_peers.py --threads 2                each way with two torch threads, apart from worker processes

The workload is w2 of scripts/floor.py: 100 of 1,000 clients with 60 images each, three steps of the 2NN. Each way trains the
same clients on the same images with the same number of torch threads, from the same weights. The rounds of all ways alternate,
in turning order. For each way the median and the range of its wall time are printed, and the median of its ratios to the bare
loop and to each peer in the same repeat. Ratios are also printed in CPU time, which other programs disturb less, for ways of
one process.

A peer has no cost that it can avoid: its batches are slices of one normalised tensor, without a DataLoader, its optimizer is
fused as ours is, and it evaluates and logs nothing. Ours logs loss and accuracy in each step. A peer that is not installed is
left out, and named. Install peers in an environment of their own: `pip install pfl fedlab` has pfl-research and FedLab.
"""

import argparse
import json
import logging
import statistics
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import floor
import torch
from bench import EXECUTORS, Setting

IN_ONE_PROCESS = ("bare", "inline", "vectorized", "one group", "pfl-research", "fedlab")
"""Ways whose CPU time is that of this process."""


class Peer:
    """The workload as a peer needs it: normalised images, labels, shuffled rows of each client."""

    def __init__(self, setting):
        self.w, self.cohorts = setting.w, setting.cohorts
        self.x = torch.from_numpy(setting.x).float().div_(255).sub_(0.5).div_(0.5)
        self.y = torch.from_numpy(setting.y)
        self.parts = [torch.from_numpy(part) for part in setting.parts]

    def samples(self, client):
        """Images and labels of a client, shuffled."""
        rows = self.parts[client][torch.randperm(len(self.parts[client]))]
        return self.x[rows], self.y[rows]


def run_pfl(setting):
    """Return a function that runs a round by pfl-research: FederatedAveraging on a simulated backend."""
    import numpy as np
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel

    peer, w = Peer(setting), setting.w

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = w.net()

        def loss(self, inputs, labels):
            return torch.nn.functional.cross_entropy(self.net(inputs), labels)

        def metrics(self, inputs, labels):
            raise NotImplementedError("nothing is evaluated")

    net = Net()
    model = PyTorchModel(net, partial(torch.optim.SGD, fused=True), torch.optim.SGD(net.parameters(), lr=1.0))
    clients = iter([client for cohort in setting.cohorts for client in cohort])
    data = FederatedDataset(lambda client: Dataset(peer.samples(client), user_id=str(client)), lambda: next(clients))
    backend = SimulatedBackend(training_data=data, val_data=None)
    train = NNTrainHyperParams(local_learning_rate=w.lr, local_num_epochs=w.epochs, local_batch_size=w.batch)
    params = NNAlgorithmParams(
        central_num_iterations=10**9, evaluation_frequency=10**9, train_cohort_size=w.cohort, val_cohort_size=0
    )
    np.random.seed(0)
    algorithm = FederatedAveraging()

    def run(number):
        contexts, _, _ = algorithm.get_next_central_contexts(model, number + 1, params, train)
        for context in contexts:
            update, metrics = backend.gather_results(model=model, training_algorithm=algorithm, central_context=context)
            algorithm.process_aggregated_statistics(context, metrics, model, update)
        return list(net.parameters())

    return run


def run_fedlab(setting):
    """Return a function that runs a round by FedLab: its serial trainer and synchronous server."""
    from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
    from fedlab.contrib.algorithm.basic_server import SyncServerHandler
    from fedlab.contrib.dataset.basic_dataset import FedDataset

    logging.getLogger().setLevel(logging.WARNING)  # FedLab sets it to INFO when it is imported
    peer, w, net = Peer(setting), setting.w, setting.w.net()

    class Images(FedDataset):
        def get_dataloader(self, id, batch_size=None):
            x, y = peer.samples(id)
            return list(zip(x.split(batch_size), y.split(batch_size), strict=True))

    trainer = SGDSerialClientTrainer(net, w.clients)
    trainer.setup_dataset(Images())
    trainer.setup_optim(w.epochs, w.batch, w.lr)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), w.lr, fused=True)
    server = SyncServerHandler(net, global_round=10**9, sample_ratio=w.cohort / w.clients)
    server.num_clients = w.clients

    def run(number):
        trainer.local_process(server.downlink_package, setting.cohorts[number])
        for update in trainer.uplink_package:
            server.load(update)
        return list(server.model.parameters())

    return run


PEERS = {"pfl-research": ("pfl", run_pfl), "fedlab": ("fedlab", run_fedlab)}
"""For each peer, the module that it installs, and the function that makes its runner."""


def make_runners(setting):
    """A function for each way, which runs a round and returns its weights."""
    runners = {}
    for way in ("bare", *(way for way in EXECUTORS if not way.endswith("threads"))):
        torch.manual_seed(0)
        runners[way] = setting.runner(way)
    for name, (module, make) in PEERS.items():
        if find_spec(module) is None:
            print(f"{name} is not installed")
        else:
            torch.manual_seed(0)
            runners[name] = make(setting)
    return runners


def measure(runners, repeats, threads):
    """Run a warm-up and the repeats.

    Returns:
        (seconds by way, CPU seconds by way, weights after the last round by way).
    """
    seconds, cpu_seconds, weights = {way: [] for way in runners}, {way: [] for way in runners}, {}
    for number in range(repeats + 1):
        turn = number % len(runners)
        for way in (*list(runners)[turn:], *list(runners)[:turn]):
            torch.set_num_threads(threads)  # a run of ours sets its own as it begins
            begin, cpu = time.perf_counter(), time.process_time()
            weights[way] = runners[way](number)
            cpu_seconds[way].append(time.process_time() - cpu)
            seconds[way].append(time.perf_counter() - begin)
    return seconds, cpu_seconds, weights


def parameters(result):
    """The weights that a runner returned: those of a record, or a list of tensors."""
    return list(result.model.parameters.values()) if hasattr(result, "model") else result


def accuracy(w, weights, x, y):
    """The accuracy of the workload's network with some weights."""
    net = w.net().eval()
    with torch.no_grad():
        for own, weight in zip(net.parameters(), weights, strict=True):
            own.copy_(weight)
        return (net(x).argmax(1) == y).double().mean().item()


def ratios(values, way, other):
    """The median of the ratios of two ways in the same repeat."""
    return statistics.median(a / b for a, b in zip(values[way][1:], values[other][1:], strict=True))


def print_table(seconds, cpu_seconds, scores):
    """Print a row for each way."""
    others = [way for way in seconds if way == "bare" or way in PEERS]
    print(
        f"{'way':<14}{'round s':>8}{'range':>17}" + "".join(f"{'/ ' + way:>16}" for way in others) + f"{'accuracy':>10}"
    )
    for way, values in seconds.items():
        cells = []
        for other in others:
            cpu = f"{ratios(cpu_seconds, way, other):.2f}" if way in IN_ONE_PROCESS else "-"
            cells.append(f"{ratios(seconds, way, other):.2f} (cpu {cpu})")
        median, span = statistics.median(values[1:]), f"{min(values[1:]):.3f} to {max(values[1:]):.3f}"
        score = f"{scores[way]:.3f}" if scores else "-"
        print(f"{way:<14}{median:>8.3f}{span:>17}" + "".join(f"{cell:>16}" for cell in cells) + f"{score:>10}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="folder of fmnist.npz; default random images")
    parser.add_argument("--repeats", type=int, default=7, help="measured rounds; default 7")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of a way of one process; default 1")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to a file")
    arguments = parser.parse_args()
    setting = Setting("w2", arguments.data, arguments.repeats + 1)
    seconds, cpu_seconds, weights = measure(make_runners(setting), arguments.repeats, arguments.threads)
    test = floor.tensors(arguments.data, setting.w, "test") if arguments.data else None
    scores = {way: accuracy(setting.w, parameters(result), *test) for way, result in weights.items()} if test else {}
    print(f"{floor.W2.cohort} clients, {arguments.repeats} repeats, {arguments.threads} thread(s)")
    print_table(seconds, cpu_seconds, scores)
    if arguments.json:
        rows = {"seconds": seconds, "cpu_seconds": cpu_seconds, "accuracy": scores}
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    from bench_peers import main as module_main  # worker processes cannot import the classes of __main__

    module_main()
