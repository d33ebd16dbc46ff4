"""An attack that distinguishes whether a canary took part: its lower bound on epsilon stays below the stated epsilon.

The canary is as long as the clipping norm. The attacker sees each round's opened sum, knows all other updates, and adds up what
lies in the canary's direction, which is the best statistic against Gaussian noise.
"""

import math

import numpy as np
import pytest
import torch
from private import POISSON, channel_of, layout, release, separated, unit
from scipy.stats import beta

from fedlit.aggregation.privacy import DPFTRL, CentralDP, LocalDP
from fedlit.aggregation.privacy.vectors import add_gaussian
from fedlit.core.facts import Sampling

TRIALS, SIZE, DELTA = 2000, 3, 1e-2
pytestmark = pytest.mark.slow


def lower_bound(inside, outside, delta=DELTA, alpha=0.01):
    """The largest epsilon that the scores refute, with probability 1 - alpha.

    For each threshold, epsilon >= log((true positive rate - delta) / false positive rate) by the definition of differential
    privacy. Thresholds come from the first half of the trials, rates from the second half: Clopper-Pearson bounds.
    """
    half = len(inside) // 2
    best = max(
        np.quantile(outside[:half], np.linspace(0.5, 0.99, 50)),
        key=lambda t: _ratio(inside[:half], outside[:half], t, delta),
    )
    hits, false_alarms = int((inside[half:] > best).sum()), int((outside[half:] > best).sum())
    n = len(inside) - half
    low = beta.ppf(alpha / 2, hits, n - hits + 1) if hits else 0.0
    high = beta.ppf(1 - alpha / 2, false_alarms + 1, n - false_alarms)
    return math.log((low - delta) / high) if low > delta else 0.0


def _ratio(inside, outside, threshold, delta):
    return ((inside > threshold).mean() - delta) / ((outside > threshold).mean() + 1 / len(outside))


def scores(channel, takes_part, rounds=1):
    """The attacker's score in each trial, shape (TRIALS,)."""
    values, others = np.empty(TRIALS), [unit(SIZE, at=1)]
    for trial in range(TRIALS):
        states, score = channel.init(layout(SIZE)), 0.0
        for round in range(rounds):
            updates = others + [unit(SIZE, length=50.0)] * takes_part(trial, round)
            opened, states = release(channel, updates, states, size=SIZE, round=round, seed=trial)
            score += float(opened[0])
        values[trial] = score
    return values


def attack(channel, takes_part, rounds=1):
    """The attack's lower bound, and the accountant's epsilon."""
    inside, outside = scores(channel, takes_part, rounds), scores(channel, lambda trial, round: False, rounds)
    return lower_bound(inside, outside[::-1]), channel.stages[0].accountant.epsilon(rounds)


def always(trial, round):
    return True


def poisson(trial, round):
    return np.random.default_rng((trial, round)).random() < POISSON.probability


def first_of_group(trial, round):
    return round % 4 == 0


MECHANISMS = {
    "every": (CentralDP(noise_multiplier=1.0, delta=DELTA), Sampling("every", 1.0, 1000), always, 1),
    "poisson": (CentralDP(noise_multiplier=0.5, delta=DELTA), POISSON, poisson, 1),
    "adaptive": (
        CentralDP(clip="adaptive", initial_clip=1.0, noise_multiplier=1.0, delta=DELTA),
        Sampling("every", 1.0, 1000),
        always,
        1,
    ),
    "ftrl": (DPFTRL(noise_multiplier=1.0, delta=DELTA), separated(4), first_of_group, 4),
}


@pytest.mark.parametrize("name", MECHANISMS)
def test_the_lower_bound_of_an_attack_is_below_the_stated_epsilon(name):
    stage, sampling, takes_part, rounds = MECHANISMS[name]
    bound, stated = attack(channel_of(stage, sampling=sampling, rounds=rounds), takes_part, rounds)
    assert 0.1 * stated < bound < stated, (bound, stated)  # the attack sees something


def test_an_attack_on_a_local_message_stays_below_the_stated_epsilon():
    """The neighbours are two data sets of one client, with opposite updates."""
    channel = channel_of(LocalDP(noise_multiplier=2.0, delta=DELTA))
    states, values = channel.init(layout(SIZE)), []
    for sign in (1, -1):
        vectors = [
            release(channel, [unit(SIZE, length=9.0 * sign)], states, size=SIZE, seed=t)[0] for t in range(TRIALS)
        ]
        values.append(np.array([float(vector[0]) for vector in vectors]))
    bound, stated = lower_bound(values[0], values[1][::-1]), channel.stages[0].accountant.epsilon(1)
    assert 0.1 * stated < bound < stated, (bound, stated)


@pytest.mark.parametrize("fault", ["half of the noise", "twice the clipping norm"])
def test_the_attack_finds_a_mechanism_that_protects_less_than_it_states(fault, monkeypatch):
    stage, sampling, takes_part, rounds = MECHANISMS["every"]
    if fault == "half of the noise":
        monkeypatch.setattr(
            "fedlit.aggregation.privacy.mechanisms.central.add_gaussian",
            lambda vector, generator, std: add_gaussian(vector, generator, std / 2),
        )
    else:
        monkeypatch.setattr(
            "fedlit.aggregation.privacy.mechanisms.sum_noise.clip_factor",
            lambda vector, clip: min(1.0, 2 * clip / float(torch.linalg.vector_norm(vector))),
        )
    bound, stated = attack(channel_of(stage, sampling=sampling, rounds=rounds), takes_part, rounds)
    assert bound > stated
