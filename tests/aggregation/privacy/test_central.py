"""Noise on the sum: its size and its stream, the ledger of releases, adaptive clipping, limits."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from private import channel_of, facts, layout, release, unit

from fedlit.aggregation.privacy import CentralDP
from fedlit.aggregation.privacy.ledger import charge, list_releases, new_ledger
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.facts import Sampling

SIZE = 20_000


def noises(channel, seeds, size=10, round=0):
    """The noise on an empty sum for each seed, float64 of shape (seeds, size)."""
    states = channel.init(layout(size))
    return torch.stack([release(channel, [], states, size=size, seed=seed, round=round)[0] for seed in seeds])


@pytest.mark.parametrize(("clip", "multiplier"), [(0.5, 2.0), (3.0, 0.7)])
def test_the_noise_on_a_sum_has_the_multiplier_times_the_clipping_norm(clip, multiplier):
    channel = channel_of(CentralDP(clip=clip, noise_multiplier=multiplier))
    noise = noises(channel, [0], SIZE)[0] / (clip * multiplier)
    assert abs(float(noise.mean())) <= 4 / math.sqrt(SIZE)
    assert abs(float(noise.square().mean()) - 1) <= 4 * math.sqrt(2 / SIZE)
    assert abs(float(noise.pow(4).mean()) - 3) <= 4 * math.sqrt(96 / SIZE)


def test_the_noise_does_not_grow_with_the_cohort():
    channel = channel_of(CentralDP(clip=1.0, noise_multiplier=1.0))
    states = channel.init(layout(10))
    empty = release(channel, [], states)[0]
    full = release(channel, [unit(at=i) for i in range(3)], states)[0]
    assert (full - empty).tolist() == pytest.approx([1.0] * 3 + [0.0] * 7)


def test_no_number_of_the_noise_occurs_twice():
    """Over rounds, seeds and coordinates; seed 0 is a seed as any other."""
    channel = channel_of(CentralDP(noise_multiplier=1.0))
    rounds = [noises(channel, [0, 1], round=number) for number in range(4)]
    numbers = torch.cat(rounds).flatten()
    assert len(set(numbers.tolist())) == len(numbers) == 80
    assert torch.equal(rounds[0], noises(channel, [0, 1]))  # and a round that is repeated has its noise again


def test_every_round_is_charged_once_and_equal_releases_share_a_row():
    channel = channel_of(CentralDP(noise_multiplier=1.0))
    states = channel.init(layout(10))
    assert list_releases(states["privacy"].private["releases"]) == ()
    for round in range(3):
        _, states = release(channel, [unit()], states, round=round)
    assert list_releases(states["privacy"].private["releases"]) == ((1.0, 3),)
    assert list_releases(charge(charge(new_ledger(1.0), 2.0), 2.0)) == ((2.0, 2),)


def test_a_repeated_round_is_charged_once():
    channel = channel_of(CentralDP(noise_multiplier=1.0))
    states = channel.init(layout(10))
    first = release(channel, [unit()], states)
    again = release(channel, [unit()], states)  # after a crash the state is that of before
    assert torch.equal(first[0], again[0])
    assert list_releases(again[1]["privacy"].private["releases"]) == ((1.0, 1),)


def test_the_record_has_epsilon_and_the_figures_of_the_round():
    channel = channel_of(CentralDP(clip=2.0, noise_multiplier=1.0))
    states = channel.init(layout(10))
    assert channel.metrics(states) == {"privacy/epsilon": 0.0}
    _, states = release(channel, [unit(length=8.0), unit(length=1.0)], states)
    metrics = channel.metrics(states)
    bound = channel.stages[0]
    assert metrics["privacy/epsilon"] == bound.accountant.epsilon(1)
    assert metrics["privacy/clip"] == 2.0
    assert metrics["privacy/clipped_fraction"] == 0.5
    assert metrics["privacy/signal_to_noise"] == pytest.approx(3.0 / (2.0 * math.sqrt(10)))
    _, states = release(channel, [], states, round=1)
    assert "privacy/clipped_fraction" not in channel.metrics(states)
    assert channel.metrics(states)["privacy/epsilon"] == bound.accountant.epsilon(2)


def test_without_noise_epsilon_is_infinite_and_not_in_the_record():
    channel = channel_of(CentralDP(epsilon=math.inf))
    states = channel.init(layout(10))
    opened, states = release(channel, [unit(length=0.5)], states)
    assert torch.equal(opened, unit(length=0.5).double())
    assert channel.metrics(states) == {"privacy/clip": 1.0, "privacy/clipped_fraction": 0.0}
    assert channel.stages[0].accountant.epsilon(1) == math.inf


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling("poisson", probability=0.03), 30.0),
        (Sampling("fixed", probability=0.05, size=50), 50.0),
        (Sampling("every", probability=1.0, size=1000), 1000.0),
        (Sampling("other"), 100.0),
    ],
)
def test_the_divisor_is_the_expected_cohort(sampling, expected):
    assert channel_of(CentralDP(noise_multiplier=1.0), sampling=sampling).denominator == pytest.approx(expected)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_the_noise_is_calibrated_to_the_planned_rounds(epsilon):
    bound = channel_of(CentralDP(epsilon=epsilon), rounds=50).stages[0]
    assert bound.delta == 1000**-1.1
    assert 0.98 * epsilon <= bound.accountant.epsilon(50) <= epsilon


def test_a_bound_mechanism_is_pinned_by_plain_fields():
    bound = channel_of(CentralDP(noise_multiplier=1.0)).stages[0]
    assert (bound.sampling, bound.population, bound.expected) == (facts().sampling, 1000, 100.0)
    assert replace(bound, clip=2.0).denominator == 100.0


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"epsilon": 1.0, "noise_multiplier": 1.0}, "epsilon"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": 1.0, "delta": 0.0}, "delta"),
        ({"noise_multiplier": 1.0, "delta": 1.0}, "delta"),
        ({"noise_multiplier": 1.0, "clip": 0.0}, "clip"),
        ({"noise_multiplier": 1.0, "clip": "adaptiv"}, "clip"),
        ({"noise_multiplier": 1.0, "clip": "adaptive", "quantile": 2.0}, "quantile"),
    ],
)
def test_an_argument_out_of_range_is_refused_with_its_name(arguments, key):
    with pytest.raises((ConfigError, ConfigErrors)) as error:
        CentralDP(**arguments)
    assert [one.key for one in error.value.errors] == [key]


def adaptive(multiplier=1.0, **arguments):
    return channel_of(CentralDP(clip="adaptive", noise_multiplier=multiplier, **arguments), clients=1000)


def norms_of_updates(channel, norms, rounds, size=10):
    """The clipping norm of each round, for updates with these norms in every round."""
    states, clips = channel.init(layout(size)), []
    updates = [unit(size, length=norm) for norm in norms]
    for round in range(rounds):
        clips.append(float(states["privacy"].shared["clip"]))
        _, states = release(channel, updates, states, size=size, round=round)
    return clips


def test_noise_uses_the_norm_that_clipped_the_round():
    channel = adaptive(initial_clip=2.0, clip_lr=1.0, count_noise=0.6, quantile=0.1)
    states = channel.init(layout(SIZE))
    opened, states = release(channel, [], states, size=SIZE)
    std = 2.0 / math.sqrt(1 - 1.2**-2)  # the joint multiplier is 1
    assert float(opened.square().mean().sqrt()) == pytest.approx(std, rel=4 / math.sqrt(2 * SIZE))
    assert channel.metrics(states)["privacy/clip"] == 2.0
    assert float(states["privacy"].shared["clip"]) != 2.0


@pytest.mark.slow
@pytest.mark.parametrize("initial", [0.05, 20.0])
def test_the_norm_settles_at_the_median_from_below_and_above(initial):
    norms = np.exp(np.random.default_rng(0).normal(size=101))  # the median is about 1
    clips = norms_of_updates(adaptive(initial_clip=initial), norms, rounds=100)
    assert np.mean(clips[-30:]) == pytest.approx(float(np.median(norms)), rel=0.1)
    assert (clips[10] > clips[0]) == (initial < 1)


def test_the_count_has_its_own_noise():
    channel = adaptive(initial_clip=1.0, clip_lr=1.0, quantile=0.5)
    states = channel.init(layout(10))
    logs = []
    for seed in range(200):
        _, after = release(channel, [], states, seed=seed)
        logs.append(-math.log(float(after["privacy"].shared["clip"])) * 100)  # the noise in clients
    assert abs(np.mean(logs)) <= 4 * 5.0 / math.sqrt(200)
    assert abs(np.std(logs) - 5.0) <= 4 * 5.0 / math.sqrt(400)


def test_a_cohort_that_is_too_small_for_the_noise_on_the_count_is_refused():
    with pytest.raises(ConfigError, match=r"privacy.count_noise.*must exceed 2.5"):
        channel_of(CentralDP(clip="adaptive", noise_multiplier=5.0), clients=100, cohort_size=10)


def test_the_accountant_charges_the_joint_multiplier():
    channel = adaptive(multiplier=1.0)
    _, states = release(channel, [], channel.init(layout(10)))
    assert list_releases(states["privacy"].private["releases"]) == ((1.0, 1),)
    assert channel.stages[0].update_multiplier > 1.0


def test_the_statement_names_the_unit_the_attacker_and_the_accountant():
    assert CentralDP(noise_multiplier=1.0).statement() is None
    text = channel_of(CentralDP(noise_multiplier=1.0)).stages[0].statement()
    assert "all data of one client" in text.lower()
    assert "the server is trusted" in text
    assert "PLD" in text
    assert "seed" in text
    assert "Nothing is protected" in channel_of(CentralDP(epsilon=math.inf)).stages[0].statement()


def test_an_unbound_mechanism_has_no_accountant():
    stage = CentralDP(noise_multiplier=1.0)
    assert stage.accountant is None
    with pytest.raises(ValueError, match="before `bind`"):
        stage.metrics(channel_of(stage).init(layout(10))["privacy"])
