#!/usr/bin/env python
"""q-FedAvg in plain NumPy, with q-FFL's settings, on `data=synthetic_hybrid`: an independent reference for long runs.

    python scripts/qfedavg_reference.py --rounds 20000 --seeds 1 2 3 4 5
    python scripts/qfedavg_reference.py --rounds 4000 --plot fairness.png       the figure of docs/results/fairness.md

It prints, for q = 0 and 1 and some of the rounds, the mean accuracy over the devices' test samples, the mean of the devices'
accuracies, the worst and the best tenth of the devices, and the variance over devices, each in percent.

Li, Sanjabi, Beirami, Smith, "Fair Resource Allocation in Federated Learning", ICLR 2020, https://arxiv.org/abs/1905.10497,
Algorithm 2. As in the authors' program (litian96/fair_flearn), a device has 80 % of its samples for training and 10 % for its
test, ten devices a round are drawn without replacement by their numbers of samples, and F_k is the loss before training.
"""

from __future__ import annotations

import argparse

import numpy as np

from fedlit.data import synthetic_hybrid

DEVICES, COHORT, BATCH, RATE, TINY = 100, 10, 10, 0.1, 1e-10


class Devices:
    """The devices' samples, padded to the largest one; the last input is 1."""

    def __init__(self, seed: int, random: np.random.Generator) -> None:
        samples = synthetic_hybrid(DEVICES, 0, seed).train
        shards = []
        self.tests = []
        for device in range(DEVICES):
            rows = samples.subset(samples.natural().shard(device))
            x, y = np.pad(rows.x.double().numpy(), ((0, 0), (0, 1)), constant_values=1), rows.y.numpy()
            order, end, test = random.permutation(len(y)), int(0.8 * len(y)), int(0.9 * len(y))
            shards.append((x[order[:end]], y[order[:end]]))
            self.tests.append((x[order[test:]], y[order[test:]]))
        self.sizes = np.array([len(y) for _, y in shards])
        most = self.sizes.max()
        self.x, self.y, self.real = (
            np.zeros((DEVICES, most, 61)),
            np.zeros((DEVICES, most, 10)),
            np.zeros((DEVICES, most)),
        )
        for device, (x, y) in enumerate(shards):
            self.x[device, : len(y)], self.real[device, : len(y)] = x, 1
            self.y[device, np.arange(len(y)), y] = 1

    def results(self, w: np.ndarray) -> tuple[float, ...]:
        """Accuracy over samples, over devices, of the worst and best tenth, and the variance over devices."""
        correct = [((x @ w).argmax(1) == y).mean() for x, y in self.tests]
        tenth, weights = DEVICES // 10, [len(y) for _, y in self.tests]
        ordered = 100 * np.sort(correct)
        whole = 100 * np.average(correct, weights=weights)
        return whole, ordered.mean(), ordered[:tenth].mean(), ordered[-tenth:].mean(), ordered.var()


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of the classes, the last axis."""
    power = np.exp(logits - logits.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


def train(q: float, seed: int, rounds: int, shown: set[int]) -> tuple[float, ...]:
    """Run q-FedAvg, print the results of the rounds `shown`, and return those of the last one."""
    random = np.random.default_rng(seed)
    devices = Devices(seed, random)
    w = np.vstack([random.uniform(-1, 1, (60, 10)) * np.sqrt(6 / 70), np.zeros((1, 10))])
    for number in range(1, rounds + 1):
        cohort = random.choice(DEVICES, COHORT, replace=False, p=devices.sizes / devices.sizes.sum())
        most = devices.sizes[cohort].max()
        x, y, real = (tensor[cohort, :most] for tensor in (devices.x, devices.y, devices.real))
        chosen = (softmax(x @ w) * y).sum(2)
        loss = -(np.log(np.where(real > 0, chosen, 1)) * real).sum(1) / devices.sizes[cohort] + TINY
        gradient = (w - fit(w, x, y, real, random)) / RATE
        h = q * loss ** (q - 1) * (gradient**2).sum((1, 2)) + loss**q / RATE
        w = w - np.tensordot(loss**q, gradient, 1) / h.sum()
        if number in shown:
            print(
                f"q={q:g} seed={seed} round={number}:",
                " ".join(f"{value:.1f}" for value in devices.results(w)),
                flush=True,
            )
    return devices.results(w)


def plot(results: dict[tuple[int, float], tuple[float, ...]], path: str) -> None:
    """Draw the results of each seed with q = 0 and 1, and their means, beside the published ones."""
    from matplotlib.figure import Figure

    panels = [
        ("mean accuracy (%)", 1, None),
        ("worst tenth (%)", 2, (18.8, 31.1)),
        ("variance over devices", 4, (724, 472)),
    ]
    figure = Figure(figsize=(8, 3.2), dpi=110, layout="constrained")
    for axes, (title, index, published) in zip(figure.subplots(1, 3), panels, strict=True):
        rows = np.array([[results[seed, q][index] for q in (0, 1)] for seed in sorted({seed for seed, _ in results})])
        axes.plot([0, 1], rows.T, color="0.7", marker="o", markersize=3)
        axes.plot([0, 1], rows.mean(0), color="#0072b2", marker="D", linewidth=2, label="mean of the seeds")
        if published is not None:
            axes.plot([0, 1], published, color="#d55e00", marker="s", linestyle="--", label="published, one data set")
            axes.legend(fontsize=7)
        axes.set(title=title, xticks=[0, 1], xticklabels=["q=0", "q=1"], xlim=(-0.25, 1.25))
        axes.set_ylim(0, 1.25 * max(rows.max(), *(published or (0,))))
    figure.savefig(path)


def fit(w: np.ndarray, x: np.ndarray, y: np.ndarray, real: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One epoch of SGD on each device of the cohort, in random order; returns its weights."""
    order = np.where(real > 0, random.random(real.shape), 2).argsort(1)
    own, device = np.repeat(w[None], len(x), 0), np.arange(len(x))[:, None]
    for start in range(0, x.shape[1], BATCH):
        rows = order[:, start : start + BATCH]
        inputs, is_real = x[device, rows], real[device, rows]
        error = (softmax(inputs @ own) - y[device, rows]) * is_real[:, :, None]
        own = own - RATE * inputs.transpose(0, 2, 1) @ error / np.maximum(is_real.sum(1), 1)[:, None, None]
    return own


def main() -> None:
    """Read the arguments, and train for each seed and q."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--plot", metavar="FILE", help="draw the results of the last round")
    arguments = parser.parse_args()
    shown = {200, 1000, 2000, 4000, 10_000, arguments.rounds}
    results = {(seed, q): train(q, seed, arguments.rounds, shown) for seed in arguments.seeds for q in (0.0, 1.0)}
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
