"""An attack on DP-SGD: an attacker sees each private gradient, and looks for one known example.

The smallest epsilon that explains its success must be below the stated one: Jagielski, Ullman, Oprea, "Auditing Differentially
Private Machine Learning: How Private is Private SGD?", NeurIPS 2020, https://arxiv.org/abs/2006.07709.
"""

import math

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from private_fits import Tiny, fit, worker
from scipy.stats import beta
from small import holdings
from torch import nn

from fedlit.client.dp_sgd.accounting import ReleaseHistory, epsilon_of
from fedlit.data import TensorSamples

STEPS, DELTA = 2000, 0.01


class Watcher(Callback):
    """Sees the private gradients, as everyone who receives the update of one step could."""

    def __init__(self, seen):
        self.seen = seen

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(float(pl_module.net[0].weight.grad[0, 0]))


class Linear(Tiny):
    """A module whose gradient is the mean of the inputs, whatever its weights."""

    def __init__(self):
        super().__init__(nn.Linear(4, 1, bias=False), lr=1e-9)

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).mean()


def releases(has_canary):
    """The first number of the sum of clipped gradients in each step, with noise of standard deviation 1."""
    x = torch.zeros(20, 4)
    x[3, 0] = 100.0 if has_canary else 0.0
    data, seen = holdings(TensorSamples(x, torch.zeros(20, dtype=torch.int64)), seed=int(has_canary)), []
    one = worker(Linear(), {"noise_multiplier": 1.0}, data, callbacks=lambda: [Watcher(seen)], steps=STEPS)
    assert fit(one)[0].steps == len(seen) == STEPS
    return 20 * np.array(seen)


def least_epsilon(without, present):
    """A lower bound of epsilon with confidence 95 %, at a threshold that the first half of the releases chooses."""
    half = STEPS // 2

    def bound(threshold, part):
        false, true = (int((values[part] > threshold).sum()) for values in (without, present))
        false_rate = beta.ppf(0.975, false + 1, half - false)
        true_rate = beta.ppf(0.025, true, half - true + 1) if true else 0.0
        return math.log(max(true_rate - DELTA, 1e-9) / false_rate)

    thresholds = np.quantile(present, np.linspace(0.05, 0.99, 40))
    chosen = max(thresholds, key=lambda threshold: bound(threshold, slice(None, half)))
    return bound(chosen, slice(half, None))


@pytest.mark.slow
def test_the_attack_explains_at_most_the_stated_epsilon():
    found, stated = least_epsilon(releases(False), releases(True)), epsilon_of(ReleaseHistory(((1.0, 1.0, 1),)), DELTA)
    assert found <= stated
    assert found > stated / 3  # the attack works
