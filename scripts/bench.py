"""Benchmark of all ways to train the same clients: seconds of a round, start-up, peak memory.

    python scripts/bench.py                                  both workloads, all ways, on random images of the right shape
    python scripts/bench.py --workload w2 --repeats 9        many small clients
    python scripts/bench.py --ways bare inline vectorized    some ways
    python scripts/bench.py --data DIR --json bench.json     on DIR/cifar10.npz and DIR/fmnist.npz; also as JSON

w1 is the tutorial's federation with few large clients, w2 has a thousand small ones; both are workloads of scripts/floor.py.
The ways are the bare loop of floor.py, the same loop vectorised by hand (w2), the way of many tutorials (a copy of the model
and a DataLoader for each client), a plain `lightning.Trainer` for each client, and each of our executors through
`Federation.run`; `one group` is executor=vectorized with groups of 100 clients. Each process has one torch thread, or two if
the way says so. All train the same clients in each repeat, one way after the other, in turning order. The median, the range
and the median of the ratios to the bare loop in the same repeat are printed. A way's start-up and peak memory are those of a
process of its own: the seconds until its first round ends, and the largest sum of the proportional set sizes (PSS) of the
process and its children.
"""

import argparse
import copy
import json
import logging
import os
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path

import floor
import torch
from bench_local import images, make_worker, run_bare_loop

from fedlit.client.lightning_internals import quiet_warnings
from fedlit.executors import Inline, Processes, Vectorized
from fedlit.server.monitor import Monitor
from fedlit.server.sampling.sampler import Sampler
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation

EXECUTORS = {
    "inline": Inline(),
    "processes 2": Processes(2),
    "vectorized": Vectorized(),
    "vectorized 2": Vectorized(workers=2),
    "one group": Vectorized(group_size=100),
    "one group, 2 threads": Vectorized(group_size=100, threads=2),
}
PLAIN = ("bare", "bare, 2 threads", "bare vectorised", "bare vectorised, 2 threads", "tutorial", "naive trainer")
WAYS = (*PLAIN, *EXECUTORS)
WORKLOADS = {"w1": floor.W1, "w2": floor.W2}
REPEATS = {"w1": 3, "w2": 9}


class FixedCohorts(Sampler):
    """Draws the cohorts of the workload."""

    def __init__(self, cohorts):
        self.cohorts = cohorts

    def __call__(self, pool, generator):
        return self.cohorts[pool.round]


class Setting:
    """A workload, its data and its cohorts."""

    def __init__(self, name, folder, rounds):
        self.w = WORKLOADS[name]
        self.x, self.y = images(self.w, folder)
        self.parts = self.w.split(self.y)
        self.cohorts = self.w.schedule(self.parts, rounds)

    def federation(self, executor):
        """The workload as a federation without evaluations."""
        worker, state = make_worker(self.w, self.x, self.y, self.parts)
        schedule = Schedule(rounds=len(self.cohorts), clients_per_round=self.w.cohort, local_epochs=self.w.epochs)
        return Federation.assemble(
            initial=state.model,
            worker=worker,
            sampler=FixedCohorts(self.cohorts),
            schedule=schedule,
            monitor=Monitor(None),
            executor=executor,
        )

    def runner(self, way):
        """A function of a round's number that trains its cohort."""
        if way in EXECUTORS:
            run = self.federation(EXECUTORS[way]).run()
            return lambda number: next(run)
        x = torch.from_numpy(self.x).float().div_(255).sub_(0.5).div_(0.5)
        y, parts, model = (
            torch.from_numpy(self.y),
            [torch.from_numpy(part) for part in self.parts],
            self.w.net().train(),
        )
        rounds = {"bare": run_bare_loop, "bare vectorised": _run_vectorised, "tutorial": _run_tutorial}
        one = rounds.get(way.split(",")[0], _run_trainers)
        return lambda number: one(self.w, model, x, y, parts, self.cohorts[number])


def _run_vectorised(w, model, x, y, parts, cohort):
    floor.batched_round(w, model, x, y, parts, cohort, chunk=25)


def _loader(w, x, y, part):
    data = torch.utils.data.Subset(torch.utils.data.TensorDataset(x, y), part.tolist())
    return torch.utils.data.DataLoader(data, batch_size=w.batch, shuffle=True)


def _average(model, states, parts, cohort):
    total = sum(len(parts[client]) for client in cohort)
    mean = {
        name: sum(state[name] * (len(parts[client]) / total) for state, client in zip(states, cohort, strict=True))
        for name in states[0]
    }
    model.load_state_dict(mean)


def _run_tutorial(w, model, x, y, parts, cohort):
    """Train a copy of the model for each client, with a DataLoader; average the state dicts."""
    states = []
    for client in cohort:
        local = copy.deepcopy(model)
        optimizer = torch.optim.SGD(local.parameters(), lr=w.lr, momentum=w.momentum)
        loader = _loader(w, x, y, parts[client])
        for _ in range(w.epochs):
            for inputs, labels in loader:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(local(inputs), labels).backward()
                optimizer.step()
        states.append(local.state_dict())
    _average(model, states, parts, cohort)


def _run_trainers(w, model, x, y, parts, cohort):
    """Fit a copy of the model for each client by a plain Trainer."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = copy.deepcopy(model)

        def training_step(self, batch, batch_idx):
            loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=w.lr, momentum=w.momentum)

    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    states = []
    for client in cohort:
        local = Module()
        with quiet_warnings():  # Lightning 2.6.6 asks torch 2.14 in a deprecated way whether a tree is a leaf
            trainer = lightning.Trainer(max_epochs=w.epochs, accelerator="cpu", **off)
            trainer.fit(local, _loader(w, x, y, parts[client]))
        states.append(local.net.state_dict())
    _average(model, states, parts, cohort)


def threads_of(way):
    """The torch threads of a way: 2 if its name says so, else 1."""
    return 2 if way.endswith("2 threads") else 1


def measure(setting, ways, repeats):
    """Return the seconds of each repeat, by way; the first round is a warm-up."""
    runners, seconds = {way: setting.runner(way) for way in ways}, {way: [] for way in ways}
    for number in range(repeats + 1):
        turn = number % len(ways)
        for way in (*ways[turn:], *ways[:turn]):
            torch.set_num_threads(threads_of(way))
            begin = time.perf_counter()
            runners[way](number)
            seconds[way].append(time.perf_counter() - begin)
    return {way: values[1:] for way, values in seconds.items()}


def first_round(arguments, name, way):
    """Run two rounds in a process of its own; return seconds until the first one ends, and the peak PSS in MB."""
    options = ["--data", arguments.data] if arguments.data else []
    command = [sys.executable, __file__, "--child", way, "--workload", name, *options]
    begin, peak, startup = time.perf_counter(), 0, None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(_pss, _tree(process.pid))))
            if startup is None and select.select([process.stdout], [], [], 0.05)[0]:
                startup = time.perf_counter() - begin  # its first line
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{way} fails in a process of its own")
    return startup, peak / 1024


def _tree(pid):
    """The ids of a process and of all its descendants."""
    children = [
        int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
    ]
    return [pid, *(descendant for child in children for descendant in _tree(child))]


def _pss(pid):
    """The proportional set size of a process in kB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (OSError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def run_child(arguments):
    """Run two rounds of one way, and print a line after each."""
    torch.set_num_threads(threads_of(arguments.child))
    setting = Setting(arguments.workload, arguments.data, 2)
    run = setting.runner(arguments.child)
    for number in range(2):
        run(number)
        print("round", flush=True)


def benchmark(arguments, name):
    """Measure a workload; print its table and return its rows."""
    repeats = arguments.repeats or REPEATS[name]
    ways = [way for way in WAYS if way in arguments.ways and not (way.startswith("bare vectorised") and name == "w1")]
    seconds, rows = measure(Setting(name, arguments.data, repeats + 1), ways, repeats), []
    print(f"{name}: {repeats} repeats, 1 thread unless 2 are named, {os.cpu_count()} cores")
    print(f"{'way':<27}{'round s':>9}{'range':>16}{'x bare':>8}{'start-up s':>12}{'peak MB':>9}")
    for way in ways:
        startup, peak = (None, None) if arguments.rounds_alone else first_round(arguments, name, way)
        bare = seconds.get("bare")
        ratio = None if bare is None else statistics.median(a / b for a, b in zip(seconds[way], bare, strict=True))
        median, span = statistics.median(seconds[way]), f"{min(seconds[way]):.3f} to {max(seconds[way]):.3f}"
        texts = [
            "-" if value is None else f"{value:.{digits}f}" for value, digits in ((ratio, 2), (startup, 1), (peak, 0))
        ]
        print(f"{way:<27}{median:>9.3f}{span:>16}{texts[0]:>8}{texts[1]:>12}{texts[2]:>9}", flush=True)
        row = {"workload": name, "way": way, "seconds": seconds[way], "median_s": median, "ratio_to_bare": ratio}
        rows.append({**row, "startup_s": startup, "peak_pss_mb": peak})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="folder of cifar10.npz and fmnist.npz; default random images")
    parser.add_argument("--workload", choices=WORKLOADS, help="run one workload; default both")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="ways to measure; default all")
    parser.add_argument("--repeats", type=int, help="measured rounds; default 3 of w1 and 9 of w2")
    parser.add_argument("--rounds-alone", action="store_true", help="leave out start-up and memory")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to a file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if arguments.child:
        run_child(arguments)
        return
    rows = [row for name in WORKLOADS if arguments.workload in (None, name) for row in benchmark(arguments, name)]
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    from bench import main as module_main  # worker processes cannot import the classes of __main__

    module_main()
