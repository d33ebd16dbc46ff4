"""Privacy of single examples in the plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedlit.aggregation.privacy.accounting import signal_to_noise
from fedlit.client.dp_sgd.accounting import ReleaseHistory, epsilon_of
from fedlit.client.dp_sgd.planning import make_private_training
from fedlit.experiment.run import Run


@dataclass(frozen=True)
class ExampleEstimate:
    """Privacy of the examples of some clients after the planned rounds.

    Each client takes part in as many rounds as possible.

    Args:
        examples: numbers of examples of the clients: the smallest, a median and the largest.
        noise_multipliers: their noise multipliers.
        epsilons: their epsilons.
        delta: the delta of epsilon.
        rounds: the largest possible number of rounds of one client.
        signal_to_noise: the largest possible ratio in one step of one of the clients.
    """

    examples: Sequence[int]
    noise_multipliers: Sequence[float]
    epsilons: Sequence[float]
    delta: float
    rounds: int
    signal_to_noise: float

    def rows(self) -> dict[str, str]:
        """Rows of the plan's table."""
        ratio = f"; signal to noise of a step at most {self.signal_to_noise:.3g}"
        return {
            "privacy": f"epsilon {_span(self.epsilons)} of an example at delta {self.delta:.3g}, after {self.rounds:,} rounds "
            f"of its client with {_span(self.examples)} examples; zero-out, by PLD",
            "noise multiplier": _span(self.noise_multipliers) + (ratio if self.signal_to_noise < math.inf else ""),
        }


def _span(values: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(f"{value:.4g}" for value in (min(values), max(values))))


def estimate_examples(run: Run, rounds: int) -> ExampleEstimate | None:
    """Estimate the privacy of examples; None without privacy in local training.

    Args:
        run: the run.
        rounds: the largest possible number of rounds of one client.
    """
    federation, worker = run.federation, run.federation.worker
    privacy, sizes = federation.trainer_config.privacy, federation.registry.sizes
    clients = np.argsort(sizes, kind="stable")[int((sizes == 0).sum()) :]
    if privacy is None or not len(clients):
        return None
    numbers = sum(tensor.numel() for tensor in federation.initial.parameters.values())
    noises, epsilons, ratios = [], [], []
    for client in clients[[0, len(clients) // 2, -1]].tolist():
        training = make_private_training(federation.trainer_config, worker.data, 0, client, {})
        assert training is not None
        noise, rate, steps = training.noise_multiplier, training.sample_rate, training.planned_steps // privacy.rounds
        noises.append(noise)
        epsilons.append(epsilon_of(ReleaseHistory(((noise, rate, steps * rounds),)), privacy.delta))
        ratios.append(signal_to_noise(rate * int(sizes[client]), noise, numbers))
    examples = sizes[clients[[0, len(clients) // 2, -1]]].tolist()
    return ExampleEstimate(examples, noises, epsilons, privacy.delta, rounds, max(ratios))
