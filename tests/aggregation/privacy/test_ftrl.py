"""DP-FTRL: correlated noise by substitution, its history, its accounting."""

import numpy as np
import pytest
import torch
from private import channel_of, facts, layout, release, separated, unit

from fedlit.aggregation.privacy import DPFTRL
from fedlit.aggregation.privacy.banded import _dense, optimal_columns, total_error
from fedlit.aggregation.privacy.ledger import list_releases
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.facts import Sampling

ROUNDS, BANDS = 12, 4


def ftrl(multiplier=1.0, clip=1.0, **arguments):
    stage = DPFTRL(clip=clip, noise_multiplier=multiplier, **arguments)
    return channel_of(stage, rounds=ROUNDS, sampling=separated(BANDS))


def run(channel, size, seed=0, rounds=ROUNDS):
    """The noise of each round on empty sums, shape (rounds, size), and the last states."""
    states, noises = channel.init(layout(size)), []
    for round in range(rounds):
        noise, states = release(channel, [], states, size=size, round=round, seed=seed)
        noises.append(noise)
    return torch.stack(noises), states


def test_the_strategy_times_the_noise_is_independent_noise():
    """C w = Z: each number has the multiplier times the clipping norm, and no two rounds go together."""
    noises, _ = run(ftrl(multiplier=2.0, clip=0.5), size=20_000)
    independent = torch.from_numpy(_dense(optimal_columns(ROUNDS, BANDS))) @ noises
    covariance = (independent @ independent.T / 20_000).numpy()
    assert np.abs(covariance - np.eye(ROUNDS)).max() <= 5 * np.sqrt(2 / 20_000)


def test_prefix_sums_have_the_error_that_the_factorisation_states():
    noises, _ = run(ftrl(), size=20_000)
    error = float(noises.cumsum(0).square().mean().sqrt())
    assert error == pytest.approx(total_error(optimal_columns(ROUNDS, BANDS)), rel=0.03)
    assert error < 0.75 * total_error(optimal_columns(ROUNDS, 1))  # than independent noise


def test_the_history_has_the_last_rounds_and_continues_after_a_checkpoint():
    channel = ftrl()
    noises, states = run(channel, size=10)
    assert torch.equal(states["privacy"].private["noise"], noises[-(BANDS - 1) :].flip(0))
    _, before = run(channel, size=10, rounds=7)
    again, _ = release(channel, [], before, round=7)
    assert torch.equal(again, noises[7])


def test_no_round_repeats_the_noise_of_another():
    noises, _ = run(ftrl(), size=10)
    others, _ = run(ftrl(), size=10, seed=1)
    assert len(set(torch.cat([noises, others]).flatten().tolist())) == 2 * ROUNDS * 10


def test_one_band_is_independent_noise_without_history():
    channel = ftrl(bands=1)
    noises, states = run(channel, size=10)
    assert states["privacy"].private["noise"].shape == (0, 10)
    assert len(set(noises.flatten().tolist())) == ROUNDS * 10


def test_updates_are_clipped_and_added():
    channel = ftrl()
    states = channel.init(layout(10))
    empty, _ = release(channel, [], states)
    full, after = release(channel, [unit(length=9.0), unit(at=1, length=0.5)], states)
    assert (full - empty).tolist() == pytest.approx([1.0, 0.5] + [0.0] * 8)
    assert channel.metrics(after)["privacy/clipped_fraction"] == 0.5


def test_a_client_is_charged_for_each_turn_of_its_group():
    channel = ftrl(multiplier=2.0)
    bound = channel.stages[0]
    _, states = run(channel, size=10, rounds=BANDS + 1)
    assert list_releases(states["privacy"].private["releases"]) == ((2.0, BANDS + 1),)
    spent = channel.metrics(states)["privacy/epsilon"]
    assert spent == bound.accountant.epsilon(2 * BANDS) > bound.accountant.epsilon(BANDS)
    assert bound.accountant.epsilon(1) == bound.accountant.epsilon(BANDS)


def test_fewer_bands_than_the_separation_are_charged_as_such():
    few, all_of_them = (ftrl(bands=bands).stages[0] for bands in (2, None))
    assert few.accountant.epsilon(ROUNDS) > all_of_them.accountant.epsilon(ROUNDS)


def test_the_bands_are_the_separation_and_at_most_the_rounds():
    assert ftrl().stages[0].bands == BANDS
    long = channel_of(DPFTRL(noise_multiplier=1.0), rounds=3, sampling=separated(50))
    assert long.stages[0].bands == 3


def test_the_noise_is_calibrated_to_the_planned_rounds():
    bound = channel_of(DPFTRL(epsilon=4.0), rounds=ROUNDS, sampling=separated(BANDS)).stages[0]
    assert 3.9 <= bound.accountant.epsilon(ROUNDS) <= 4.0


@pytest.mark.parametrize(
    "sampling",
    [Sampling("poisson", probability=0.1), Sampling("fixed", probability=0.1, size=10), Sampling("every", 1.0)],
)
def test_a_sampler_without_separation_is_refused(sampling):
    errors = list(DPFTRL(noise_multiplier=1.0).check(facts(sampling=sampling)))
    assert [error.key for error in errors] == ["sampler"]
    assert "min_separation" in errors[0].hint


def test_more_bands_than_the_separation_are_refused():
    (error,) = DPFTRL(noise_multiplier=1.0, bands=5).check(facts(sampling=separated(4)))
    assert error.key == "privacy.bands"
    assert "4 rounds" in error.problem


@pytest.mark.parametrize(("argument", "value"), [("clip", 0.0), ("bands", 0)])
def test_an_argument_out_of_range_is_refused_with_its_name(argument, value):
    with pytest.raises((ConfigError, ConfigErrors), match=argument):
        DPFTRL(noise_multiplier=1.0, **{argument: value})
