"""Ditto's point estimation: the error of personal models for several strengths of the pull, and its closed form.

    python examples/point_estimation.py [FIGURE.png]

Li, Hu, Beirami, Smith, "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021, section 3.3 and the
authors' notebook point_estimation.ipynb, https://arxiv.org/abs/2012.04221. Client k estimates w_k ~ N(0, TAU^2) from SAMPLES
observations N(w_k, SIGMA^2). A model has one such problem in each of its TRIALS coordinates, so a run has TRIALS federations.
"""

import sys

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import nn

from fedlit import FedAvg, Federation, Loading, Natural, Schedule
from fedlit.algorithms import Ditto
from fedlit.data import Population
from fedlit.data.samples import ClientTestSet, Data, TensorSamples

CLIENTS, SAMPLES, SIGMA, TAU, TRIALS, SEEDS = 8, 30, 0.8, 0.1, 1000, 5
NOISE = SIGMA**2 / SAMPLES  # variance of the mean of a client's observations
BEST = NOISE / TAU**2  # the pull with the smallest error: lambda* in the paper
PULLS = (0.0, 0.5, 1.0, BEST, 4.0, 8.0)


class Mean(LightningModule):
    """A vector w with the loss |w - x|^2 / 2; one full-batch step ends at the minimum of the loss and the pull."""

    def __init__(self, pull: float):
        super().__init__()
        self.w, self.pull = nn.Parameter(torch.zeros(TRIALS)), pull

    def training_step(self, batch, batch_idx):
        return ((self.w - batch[0]) ** 2).sum(1).mean() / 2

    def test_step(self, batch, batch_idx):
        self.log("test/error", ((self.w - batch[0]) ** 2).mean(), batch_size=len(batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1 / (1 + self.pull))


def make_data(seed: int) -> Data:
    """Observations of the clients; a client's test set is its true w_k."""
    random = np.random.default_rng(seed)
    truth = random.normal(0, TAU, (CLIENTS, TRIALS)).astype(np.float32)
    seen = random.normal(truth[:, None], SIGMA, (CLIENTS, SAMPLES, TRIALS)).astype(np.float32).reshape(-1, TRIALS)
    train, test = (
        TensorSamples(
            torch.from_numpy(x),
            torch.zeros(len(x), dtype=torch.long),
            owner=np.repeat(np.arange(CLIENTS), n),
            clients=CLIENTS,
        )
        for x, n in ((seen, SAMPLES), (truth, 1))
    )
    tests = ClientTestSet(test, Population.of(test.owner, CLIENTS))
    return Data("point estimation", train, test, (TRIALS,), ("value",), client_tests=tests)


def measure(pull: float | None, seed: int) -> float:
    """Train, and return the mean squared error over clients and trials; without a pull, that of FedAvg's model."""
    federation = Federation.of(
        Mean(pull or 0.0),
        make_data(seed),
        Natural(),
        FedAvg(weights="uniform") if pull is None else Ditto(pull=pull),
        Schedule(rounds=10, client_fraction=1.0, local_epochs=10, eval_every=10),
        loading=Loading(batch_size="full", val_fraction=0.0),
        seed=seed,
    )
    *_, record = federation.run()
    return record.metrics["own/error"]


def expected(pull: float | None) -> float:
    """The error in closed form.

    A client's model is (its mean + pull * the mean of all) / (1 + pull).
    """
    own = 0.0 if pull is None else 1 / (1 + pull)
    shared = 1 - own
    return (
        own**2 * NOISE + shared**2 * (TAU**2 * (1 - 1 / CLIENTS) + NOISE / CLIENTS) + 2 * own * shared * NOISE / CLIENTS
    )


def draw(measured: dict[float | None, list[float]], path: str) -> None:
    """Draw the measured errors beside the closed form."""
    import matplotlib.pyplot as plt

    pulls = np.linspace(0, max(PULLS), 200)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(pulls, [expected(pull) for pull in pulls], color="0.4", label="closed form")
    axes.errorbar(
        PULLS,
        [np.mean(measured[pull]) for pull in PULLS],
        [np.std(measured[pull], ddof=1) for pull in PULLS],
        fmt="o",
        capsize=4,
        label=f"Ditto, {SEEDS} seeds",
    )
    axes.axhline(np.mean(measured[None]), linestyle="--", color="C1", label="FedAvg")
    axes.axvline(BEST, linestyle=":", color="0.6", label=f"best pull, {BEST:.2f}")
    axes.set(xlabel="pull", ylabel="mean squared error", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print a table: the pull, the closed form, and the mean and standard deviation over seeds."""
    print("pull    closed form  measured  std over seeds")
    measured = {}
    for pull in (*PULLS, None):
        measured[pull] = errors = [measure(pull, seed) for seed in range(1, SEEDS + 1)]
        name = "FedAvg" if pull is None else f"{pull:<6.4g}"
        print(f"{name}  {expected(pull):.5f}      {np.mean(errors):.5f}   {np.std(errors, ddof=1):.5f}", flush=True)
    if len(sys.argv) > 1:
        draw(measured, sys.argv[1])


if __name__ == "__main__":
    main()
