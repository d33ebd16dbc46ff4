"""Distributed noise: the sensitivity of integers, the noise of the fewest survivors, charges, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from private import facts, layout, unit
from test_canary import lower_bound

from fedlit.aggregation import Channel, SumTicket
from fedlit.aggregation.compression import RandK
from fedlit.aggregation.privacy import CentralDP, DistributedDP
from fedlit.aggregation.privacy.skellam import grid as grid_module
from fedlit.aggregation.secure import IdealSum
from fedlit.aggregation.secure.protocol.setting import LostGroup
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.facts import Sampling

COHORT, DELTA = 10, 1e-2
STAGE = DistributedDP(noise_multiplier=1.0)
FIXED = Sampling("fixed", size=COHORT)


def channel_of(stage, encryption=None, size=10, others=(), **given):
    """A bound channel with distributed noise, for cohorts of ten clients."""
    defaults = {"cohort_size": COHORT, "sampling": FIXED, "update_numbers": {"parameters": size}}
    return Channel.of([stage, encryption or IdealSum(), *others]).bind(facts(**{**defaults, **given}))


def integers(channel, update, *, client=0, round=0, seed=0):
    """One client's integers, with its noise, as the signed numbers of the ring."""
    its, states = layout(len(update)), channel.init(layout(len(update)))
    facts = {"round": round, "client": client, "seed": seed, "states": states, "own": {}}
    encoded, _ = channel.encode(its, update.clone(), 1.0, **facts)
    return channel.decode(its, encoded).vector


def total_of(channel, updates, **facts):
    """The sum of clients 0, 1, ..., as the secure sum opens it: signed integers."""
    total = None
    for client, update in enumerate(updates):
        total = channel.secure.aggregator.add(total, integers(channel, update, client=client, **facts), 1.0)
    return total.to(torch.int64)


def release(channel, updates, *, round=0, seed=0, states=None, size=10):
    """One round on these updates: the opened sum, and the stages' new states."""
    stage, its = channel.stages[0], layout(size)
    total = total_of(channel, updates, round=round, seed=seed)
    opened = channel.secure.open_sum(total, stage.encoded_layout(its)).total
    clients = tuple(range(len(updates)))
    ticket = SumTicket(round=round, seed=seed, clients=clients, updates=len(updates), clipped=0, weight=1.0)
    return channel.open(its, opened, ticket, states or channel.init(its))


def zeros(clients, size=10):
    return [torch.zeros(size)] * clients


HARD = {
    "one number": unit(50, length=70.0),
    "equal numbers": torch.full((50,), 3.0),
    "alternating": torch.tensor([1.0, -1.0] * 25),
    "halfway between grid points": torch.full((50,), 0.5 / 1024),
    "small": unit(50, length=1e-6),
    "random": torch.randn(50, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize("granularity", [None, 0.3])
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in ("one number", "small") else pytest.mark.slow) for kind in HARD]
)
def test_a_client_moves_the_integers_of_the_sum_by_the_stated_norm_at_most(kind, rotate, granularity):
    """The neighbour sends zeros and the same noise. A coarse grid makes rounding the larger part."""
    stage = DistributedDP(noise_multiplier=0.0, rotate=rotate, granularity=granularity)
    channel = channel_of(stage, size=50)
    square = channel.stages[0].accountant.square
    assert square == channel.secure.noise.square
    for seed in range(3):
        own = integers(channel, HARD[kind], seed=seed).double()
        others = zeros(3, 50)
        moved = total_of(channel, [*others, HARD[kind]], seed=seed) - total_of(channel, others, seed=seed)
        assert float(own.dot(own)) <= square
        assert channel.stages[0].accountant.size == len(own)
        assert float(moved.double().dot(moved.double())) <= square
    least = 1.02 if granularity is None else 40
    assert square <= least * (1.0 / channel.secure.noise.step) ** 2


@pytest.mark.parametrize("granularity", [None, 1e-6])
def test_a_mean_without_noise_is_that_of_the_clipped_updates(granularity):
    channel = channel_of(DistributedDP(epsilon=math.inf, clip=2.0, granularity=granularity))
    opened, _ = release(channel, [unit(length=9.0), unit(at=3, length=1.0)])
    step = channel.secure.noise.step
    assert granularity in (None, step)
    assert opened.tolist() == pytest.approx([2.0, 0, 0, 1.0, *[0.0] * 6], abs=8 * step)
    assert channel.denominator == COHORT  # failed clients count as zeros


@pytest.mark.parametrize("threshold", [None, 0.51, 1.0])
def test_the_fewest_survivors_add_the_stated_noise_and_more_add_more(threshold):
    size = 4000
    channel = channel_of(DistributedDP(noise_multiplier=1.5), IdealSum(threshold=threshold), size=size)
    grid, needed = channel.secure.noise, channel.secure.thresholds(COHORT).group
    assert grid.survivors == needed == {None: 7, 0.51: 6, 1.0: 10}[threshold]
    assert grid.variance == pytest.approx(1.5**2 * grid.square)
    for clients in {needed, COHORT}:
        noise = total_of(channel, zeros(clients, size)).double()[:-1]
        found = float(noise.square().mean()) / (1.5**2 * grid.square * clients / needed)
        assert abs(found - 1) <= 4 * math.sqrt(2 / len(noise))


def test_each_group_of_a_cohort_has_enough_noise_alone():
    """The server sees the sum of each group: seven clients make groups of four and three, of which three survive."""
    encryption, given = IdealSum(group_size=3), {"cohort_size": 7, "sampling": Sampling("fixed", size=7)}
    channel = channel_of(DistributedDP(noise_multiplier=1.0), encryption, **given)
    assert [len(group) for group in channel.secure.groups(range(7))] == [4, 3]
    assert channel.secure.noise.survivors == 3
    assert channel.secure.noise.variance == pytest.approx(channel.secure.noise.square)
    assert [channel.secure.thresholds(clients).group for clients in (3, 4, 5)] == [3, 3, 4]


def test_a_bound_channel_is_bound_again_for_a_smaller_cohort():
    again = channel_of(STAGE).bind(facts(cohort_size=4, sampling=Sampling("fixed", size=4)))
    fresh = channel_of(STAGE, cohort_size=4, sampling=Sampling("fixed", size=4))
    assert again.secure.noise == fresh.secure.noise
    assert again.secure.noise.survivors == 3


def test_members_of_a_sparse_graph_need_as_many_neighbours_as_the_noise_needs_survivors():
    secagg = pytest.importorskip("fedlit.aggregation.secure.secagg", reason="the extra secure is not installed").SecAgg
    plain, noisy = secagg(neighbours=4), channel_of(STAGE, secagg(neighbours=4)).secure
    assert (plain.thresholds(8).group, noisy.thresholds(8).group) == (6, 7)
    assert (plain.thresholds(8).neighbourhood, noisy.thresholds(8).neighbourhood) == (4, 5)


def test_a_sum_with_too_little_noise_is_never_opened():
    """A sampler may find fewer clients than planned. A group of 8 needs 6 survivors by itself, and 7 for the noise."""
    channel = channel_of(DistributedDP(noise_multiplier=1.0))
    assert IdealSum().thresholds(8).group == 6
    assert channel.secure.thresholds(8).group == 7
    figures = {"round": 0, "seed": 0, "layout": layout(10)}
    with pytest.raises(LostGroup, match="a group of 6 clients is too small: it needs 7"):
        channel.secure.begin(0, range(6), **figures)
    session = channel.secure.begin(0, range(8), **figures)
    for client in range(6):
        session.receive(client, b"")
    with pytest.raises(LostGroup, match="6 of 8 clients sent their update, and 7 are needed"):
        session.close()


def test_no_noise_is_used_twice():
    channel = channel_of(DistributedDP(noise_multiplier=50.0))
    keys = [(client, round, seed) for client in range(3) for round in range(3) for seed in (0, 1)]
    noises = [integers(channel, torch.zeros(10), client=client, round=round, seed=seed) for client, round, seed in keys]
    assert len(set(torch.cat(noises).tolist())) >= 0.99 * sum(map(len, noises))
    assert torch.equal(noises[0], integers(channel, torch.zeros(10)))


def test_noise_is_not_clipped_and_wraps_around_the_ring(monkeypatch):
    """Noise that leaves the ring in each client's integers cancels in the sum."""
    shares = iter([5 * 2**32 + 7, -(3 * 2**33) + 4, 2**34 - 1])
    monkeypatch.setattr(grid_module, "draw_skellam", lambda variance, size, generator: np.full(size, next(shares)))
    channel = channel_of(DistributedDP(noise_multiplier=1.0))
    assert total_of(channel, zeros(3)).tolist()[:-1] == [10] * 16  # sixteen rotated numbers


def test_epsilon_is_that_of_the_client_with_the_most_rounds_lost_ones_included():
    channel = channel_of(DistributedDP(noise_multiplier=4.0), clients=50)
    states = channel.init(layout(10))
    assert channel.metrics(states) == {"privacy/epsilon": 0.0, "privacy/clip": 1.0}
    for round, clients in enumerate((9, 7, 8)):
        _, states = release(channel, zeros(clients), round=round, states=states)
    assert states["privacy"].private["participations"].tolist() == [3] * 7 + [2, 1] + [0] * 41
    ticket = SumTicket(round=3, seed=0, clients=(0, 4), updates=0, clipped=0, weight=0.0)
    states = channel.lose(ticket, states)
    accountant = channel.stages[0].accountant
    assert channel.metrics(states) == {"privacy/epsilon": accountant.epsilon(4), "privacy/clip": 1.0}


def test_a_budget_holds_for_the_most_rounds_of_a_client():
    every = channel_of(DistributedDP(epsilon=4.0), rounds=12).stages[0]
    apart = Sampling("separated", size=COHORT, separation=4)
    few = channel_of(DistributedDP(epsilon=4.0), rounds=12, sampling=apart).stages[0]
    assert 3.9 <= every.accountant.epsilon(12) <= 4.0
    assert 3.9 <= few.accountant.epsilon(3) <= 4.0
    assert few.noise_multiplier < every.noise_multiplier
    assert every.accountant.relation == "zero-out"
    central = CentralDP(epsilon=4.0).bind(facts(rounds=12, sampling=Sampling("other")))
    assert central.noise_multiplier < every.noise_multiplier < 1.25 * central.noise_multiplier


def test_figures_of_the_record_come_from_the_noisy_sum():
    channel, many = channel_of(DistributedDP(noise_multiplier=0.01)), [unit(length=5.0)] * 6
    _, states = release(channel, [*many, *zeros(2)])
    metrics = channel.metrics(states)
    assert metrics["privacy/clipped_fraction"] == pytest.approx(6 / 8, abs=0.05)
    step, share = channel.secure.noise.step, channel.secure.noise.share
    signal = math.hypot(6, 0.1 * (6 - 2))
    assert metrics["privacy/signal_to_noise"] == pytest.approx(signal / (step * math.sqrt(17 * 8 * share)), rel=0.05)
    loud = channel_of(DistributedDP(noise_multiplier=1.0))
    fractions = {round: loud.metrics(release(loud, zeros(8), round=round)[1]) for round in range(5)}
    assert len({metrics["privacy/clipped_fraction"] for metrics in fractions.values()}) > 1


def test_a_projection_before_the_clip_is_opened_after_it():
    channel = channel_of(DistributedDP(noise_multiplier=0.0, clip=100.0), others=[RandK(fraction=0.5)])
    states, updates = channel.init(layout(10)), [torch.arange(10.0)] * 2
    total = total_of(channel, updates)
    opened = channel.secure.open_sum(total, channel.encoded_layout(layout(10))).total
    ticket = SumTicket(round=0, seed=0, clients=(0, 1), updates=2, clipped=0, weight=1.0)
    mean = channel.open(layout(10), opened, ticket, states)[0]
    kept = mean != 0
    assert int(kept.sum()) in (4, 5)
    assert mean[kept].tolist() == pytest.approx((4 * torch.arange(10.0)[kept]).tolist(), abs=1.0)


def errors(stage, encryption=None, **given):
    """The errors and warnings of an unbound channel, by key."""
    defaults = {"cohort_size": COHORT, "sampling": FIXED}
    channel = Channel.of([stage, *([] if encryption is None else [encryption])])
    return {error.key: error for error in channel.check(facts(**{**defaults, **given}))}


class Deaf(IdealSum):
    """A secure sum that takes no noise."""

    takes_noise = False


@pytest.mark.parametrize(
    ("encryption", "given", "key", "reason"),
    [
        (None, {}, "encryption", "protects sums, and no single update"),
        (Deaf(), {}, "encryption", "must be secagg, or ideal to simulate it"),
        (IdealSum(), {"sampling": Sampling("poisson", probability=0.1)}, "sampler", "fewest survivors"),
        (IdealSum(), {"weighting": "examples"}, "algorithm.weights", "no largest norm"),
        (IdealSum(), {"quorum": 5}, "schedule.quorum", "depends on the clients' data"),
        (IdealSum(), {"over_select": 1.5}, "schedule.over_select", "one client decides"),
        (IdealSum(), {"sampling": Sampling("other", by_loss=True)}, "sampler", "losses"),
    ],
)
def test_settings_whose_noise_would_not_suffice_are_refused(encryption, given, key, reason):
    found = errors(STAGE, encryption, **given)
    assert reason in found[key].problem
    assert not found[key].warning


def test_every_sampler_of_known_cohorts_is_accepted_and_the_secure_sums_own_grid_is_not_checked():
    assert errors(STAGE, IdealSum()) == {}
    assert errors(STAGE, IdealSum(bits=32), update_numbers={"parameters": 5, "extra": 5}).keys() == {"encryption.bits"}
    for sampling in (Sampling("every", 1.0), Sampling("separated", size=COHORT, separation=2), Sampling("other")):
        assert errors(STAGE, IdealSum(), sampling=sampling) == {}


@pytest.mark.parametrize(("weight", "warned"), [(None, False), (1, False), (7, True)])
def test_a_largest_weight_that_has_no_effect_is_a_warning_before_and_after_the_channel_is_bound(weight, warned):
    encryption = IdealSum(max_weight=weight)
    given = facts(cohort_size=COHORT, sampling=FIXED)
    for channel in (Channel.of([STAGE, encryption]), channel_of(STAGE, encryption)):
        found = {error.key: error for error in channel.check(given)}
        assert list(found) == (["encryption.max_weight"] if warned else [])
        assert all(error.warning and "gives each client the weight 1" in error.problem for error in found.values())


@pytest.mark.parametrize(
    ("stage", "clients", "reason"),
    [
        (DistributedDP(noise_multiplier=1.0, granularity=1e-9), 10, "squared norm"),
        (DistributedDP(noise_multiplier=100.0, granularity=1e-5), 10, "not drawn accurately"),
        (STAGE, 10**7, "sum of 10,000,000 clients leave the ring of 32 bits with probability 1"),
    ],
)
def test_a_grid_that_is_too_fine_is_refused(stage, clients, reason):
    with pytest.raises((ConfigError, ConfigErrors), match=reason):
        channel_of(stage, max_cohort=clients)


def test_a_larger_ring_takes_more_clients():
    assert channel_of(STAGE, IdealSum(ring=64), max_cohort=10**7).secure.noise.wraps < 1e-9


def test_a_channel_without_a_secure_sum_is_not_bound():
    with pytest.raises((ConfigError, ConfigErrors), match="privacy=distributed"):
        Channel.of([STAGE]).bind(facts(cohort_size=COHORT, sampling=FIXED))


@pytest.mark.parametrize(
    "arguments",
    [{"epsilon": 1.0, "noise_multiplier": 1.0}, {"noise_multiplier": 1.0, "clip": -1.0}, {"granularity": 0.0}],
)
def test_an_argument_out_of_range_is_refused(arguments):
    with pytest.raises((ConfigError, ConfigErrors)):
        DistributedDP(**arguments)


def test_the_statement_names_the_attacker_and_what_colluding_clients_know():
    assert STAGE.statement() is None
    text = channel_of(STAGE).stages[0].statement()
    assert "against the server and everyone" in text
    assert "zero-out" in text
    assert "if c of them collude with the server, noise_multiplier counts as 1 * sqrt(1 - c / 7)" in text
    assert "Nothing is protected" in channel_of(DistributedDP(noise_multiplier=0.0)).stages[0].statement()


def test_the_plan_states_the_noise_and_the_chance_to_leave_the_ring():
    text = channel_of(STAGE).secure.describe(COHORT)
    assert "7 must answer; each adds Skellam noise of variance" in text
    assert "so any 7 add" in text
    assert "a sum leaves the ring with probability at most" in text


TRIALS, FEW = 2000, {"cohort_size": 4, "sampling": Sampling("fixed", size=4), "size": 3}


def attack(channel, stated):
    """A lower bound on epsilon by an attacker that knows the other updates, and the stated epsilon.

    The fewest survivors take part, so that the noise is as small as it gets. The canary is as long as the clipping norm.
    """
    values = []
    for update in (unit(3, length=50.0), torch.zeros(3)):
        opened = (release(channel, [*zeros(2, 3), update], seed=seed, size=3)[0] for seed in range(TRIALS))
        values.append(np.array([float(vector[0]) for vector in opened]))
    return lower_bound(values[0], values[1][::-1]), stated.stages[0].accountant.epsilon(1)


@pytest.mark.slow
def test_an_attack_on_the_fewest_survivors_stays_below_the_stated_epsilon():
    channel = channel_of(DistributedDP(noise_multiplier=1.0, delta=DELTA), **FEW)
    assert channel.secure.noise.survivors == 3
    bound, stated = attack(channel, channel)
    assert 0.1 * stated < bound < stated


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["half of the noise", "twice the clipping norm"])
def test_the_attack_finds_a_mechanism_that_protects_less_than_it_states(fault):
    stage, secure = (right := channel_of(DistributedDP(noise_multiplier=1.0, delta=DELTA), **FEW)).stages
    if fault == "half of the noise":
        secure = secure.with_noise(replace(secure.noise, share=secure.noise.share / 4))
    else:
        stage = channel_of(DistributedDP(noise_multiplier=1.0, clip=2.0), **FEW).stages[0]
        secure = secure.with_noise(replace(secure.noise, square=5 * secure.noise.square))
    bound, stated = attack(replace(right, stages=[stage, secure]), right)
    assert bound > stated
