#!/usr/bin/env python
"""SCAFFOLD and FedAvg on the four hospitals in plain NumPy, with clients weighted by examples and alike.

    python scripts/flamby_scaffold.py

FLamby's setting: its initial weights of the seeds 42 to 46, batch 4, SGD 0.001, 15 rounds of 100 steps. FLamby weighs the
hospitals by their patients, and the SCAFFOLD paper weighs clients alike. It prints the mean accuracy at the hospitals over 20
orders of the batches, for each seed.
"""

from __future__ import annotations

import numpy as np
import torch

from fedlit.data import heart_disease
from fedlit.data.samples import TensorSamples

SEEDS, ORDERS, RATE, STEPS, ROUNDS, BATCH = range(42, 47), 20, 0.001, 100, 15, 4
Hospital = tuple[np.ndarray, np.ndarray]


def hospitals(samples: TensorSamples) -> list[Hospital]:
    """Features with a last column of 1, shape (n, 14), and labels of each hospital."""
    x = np.pad(samples.x.double().numpy(), ((0, 0), (0, 1)), constant_values=1)
    return [(x[samples.owner == client], samples.y.numpy()[samples.owner == client]) for client in range(4)]


def initial_weights() -> np.ndarray:
    """FLamby's initial weights, `ORDERS` times for each seed, shape (runs, 14)."""
    rows = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        layer = torch.nn.Linear(13, 1)
        rows += [np.append(layer.weight.detach().numpy(), layer.bias.detach().numpy())] * ORDERS
    return np.array(rows)


def train(train_sets: list[Hospital], weights: np.ndarray, has_controls: bool) -> np.ndarray:
    """Train all runs side by side.

    Returns:
        The global model of each run, shape (runs, 14).
    """
    random, model = np.random.default_rng(0), initial_weights()
    controls = np.zeros((4, *model.shape))
    queues = [np.empty((len(model), 0), dtype=int) for _ in train_sets]
    for _ in range(ROUNDS):
        mean, local = np.tensordot(weights, controls, 1), []
        for client, (x, y) in enumerate(train_sets):
            own, correction = model, (controls[client] - mean) * has_controls
            for _ in range(STEPS):
                if queues[client].shape[1] == 0:
                    queues[client] = random.random((len(model), len(y))).argsort(1)
                rows, queues[client] = np.split(queues[client], [BATCH], axis=1)
                error = 1 / (1 + np.exp(-(x[rows] * own[:, None]).sum(2))) - y[rows]
                own = own - RATE * ((error[:, :, None] * x[rows]).mean(1) - correction)
            local.append(own)
        controls = controls - mean + (model - np.array(local)) / (STEPS * RATE)  # option 2
        model = np.tensordot(weights, np.array(local), 1)
    return model


def main() -> None:
    """Print the accuracies of FedAvg, and of SCAFFOLD with both weights."""
    data = heart_disease()
    train_sets, tests = hospitals(data.train), hospitals(data.client_tests.samples)
    sizes = np.array([len(y) for _, y in train_sets])
    for name, weights, has_controls in (
        ("FedAvg, by examples", sizes / sizes.sum(), False),
        ("SCAFFOLD, by examples", sizes / sizes.sum(), True),
        ("SCAFFOLD, alike", np.full(4, 0.25), True),
    ):
        model = train(train_sets, weights, has_controls)
        accuracies = np.mean([((x @ model.T > 0) == (y[:, None] > 0)).mean(0) for x, y in tests], axis=0)
        by_seed = accuracies.reshape(len(SEEDS), ORDERS).mean(1)
        print(f"{name}: {by_seed.mean():.4f};", " ".join(f"{value:.4f}" for value in by_seed), flush=True)


if __name__ == "__main__":
    main()
