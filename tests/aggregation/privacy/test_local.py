"""Local differential privacy: noise of each client, charges of each client."""

import math

import numpy as np
import pytest
import torch
from private import channel_of, facts, layout, messages, release, separated, unit

from fedlit.aggregation.privacy import LocalDP
from fedlit.aggregation.privacy.mechanisms.local import most_participations
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.facts import Sampling

SIZE = 20_000


def noises(channel, clients, size=10, round=0, seed=0):
    """The noise in each client's message, shape (clients, size)."""
    updates = [torch.zeros(size)] * clients
    states = channel.init(layout(size))
    return torch.stack([m.vector for m in messages(channel, updates, states, round=round, seed=seed)])


def test_a_message_is_the_clipped_update_and_noise_of_the_multiplier_times_the_norm():
    channel = channel_of(LocalDP(clip=0.5, noise_multiplier=3.0))
    long = unit(SIZE, length=7.0)
    states = channel.init(layout(SIZE))
    (with_update,), noise = messages(channel, [long], states), noises(channel, 1, SIZE)[0]
    assert (with_update.vector - noise)[:2].tolist() == pytest.approx([0.5, 0.0], abs=1e-5)
    assert with_update.vector.dtype == torch.float64
    scaled = noise / 1.5
    assert abs(float(scaled.mean())) <= 4 / math.sqrt(SIZE)
    assert abs(float(scaled.square().mean()) - 1) <= 4 * math.sqrt(2 / SIZE)
    assert abs(float(scaled.pow(4).mean()) - 3) <= 4 * math.sqrt(96 / SIZE)


def test_no_noise_is_used_twice():
    channel = channel_of(LocalDP(noise_multiplier=1.0))
    numbers = [noises(channel, 3, round=round, seed=seed) for round in range(3) for seed in (0, 1)]
    assert len(set(torch.cat(numbers).flatten().tolist())) == 3 * 10 * 6
    assert torch.equal(numbers[0], noises(channel, 3))


def test_each_client_is_charged_for_its_own_rounds():
    channel = channel_of(LocalDP(noise_multiplier=4.0), clients=50)
    states = channel.init(layout(10))
    assert channel.metrics(states) == {"privacy/epsilon": 0.0, "privacy/clip": 1.0}
    for round, updates in enumerate((3, 1, 2)):
        _, states = release(channel, [unit()] * updates, states, round=round)
    assert states["privacy"].private["participations"].tolist() == [3, 2, 1] + [0] * 47
    assert channel.metrics(states)["privacy/epsilon"] == channel.stages[0].accountant.epsilon(3)


def test_noise_is_charged_by_twice_the_clipping_norm():
    """Two data sets of a client have clipped updates that are up to 2 * clip apart."""
    bound = channel_of(LocalDP(noise_multiplier=2.0)).stages[0]
    gap = 2.0 / bound.multiplier  # in standard deviations
    epsilon = bound.accountant.epsilon(1)
    upper = 0.5 * math.erfc((epsilon / gap - gap / 2) / math.sqrt(2))
    lower = 0.5 * math.erfc((epsilon / gap + gap / 2) / math.sqrt(2))
    assert upper - math.exp(epsilon) * lower == pytest.approx(bound.delta, rel=0.05)  # Balle and Wang 2018, Theorem 8


def test_a_budget_holds_for_the_client_with_the_most_rounds():
    every = channel_of(LocalDP(epsilon=4.0), rounds=12, sampling=Sampling("every", 1.0)).stages[0]
    apart = channel_of(LocalDP(epsilon=4.0), rounds=12, sampling=separated(4)).stages[0]
    assert 3.9 <= every.accountant.epsilon(12) <= 4.0
    assert 3.9 <= apart.accountant.epsilon(3) <= 4.0
    assert apart.multiplier < every.multiplier
    assert most_participations(separated(4), 13) == 4


def test_the_mean_is_over_the_clients_that_sent():
    channel = channel_of(LocalDP(noise_multiplier=1.0))
    assert channel.denominator is None
    assert channel.hides_clients


def test_without_noise_epsilon_is_not_in_the_record():
    channel = channel_of(LocalDP(noise_multiplier=0.0))
    opened, states = release(channel, [unit(length=5.0)], channel.init(layout(10)))
    assert opened.tolist() == pytest.approx(unit().tolist())
    assert channel.metrics(states) == {"privacy/clip": 1.0}


@pytest.mark.parametrize(
    "arguments",
    [{"epsilon": 1.0, "noise_multiplier": 1.0}, {"noise_multiplier": 1.0, "clip": -1.0}, {"epsilon": -1}],
)
def test_an_argument_out_of_range_is_refused(arguments):
    with pytest.raises((ConfigError, ConfigErrors)):
        LocalDP(**arguments)


def test_every_sampler_is_accounted_but_one_that_reads_losses():
    assert not list(LocalDP(noise_multiplier=1.0).check(facts(sampling=Sampling("other"))))
    (error,) = LocalDP(noise_multiplier=1.0).check(facts(sampling=Sampling("other", by_loss=True)))
    assert error.key == "sampler"


def test_noise_of_clients_averages_out():
    channel = channel_of(LocalDP(noise_multiplier=1.0))
    mean = noises(channel, 400, size=50).mean(0)
    assert float(np.abs(mean.numpy()).max()) <= 5 / 20


def test_the_statement_does_not_trust_the_server():
    assert LocalDP(noise_multiplier=1.0).statement() is None
    text = channel_of(LocalDP(noise_multiplier=1.0)).stages[0].statement()
    assert "against the server" in text
    assert "replace-one" in text
