"""Samplers: how often they take whom, and that the seed alone decides it."""

from itertools import permutations

import numpy as np
import pytest

from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.core.streams import Purpose, stream
from fedlit.server.sampling import Available, Poisson, PowerOfChoice, RoundRobin, Uniform, Weighted
from fedlit.server.sampling.sampler import ClientPool


def pool(clients, round=0, losses=None, seed=0):
    """A pool of so many clients, or of clients of these sizes."""
    sizes = np.ones(clients, dtype=np.int64) if isinstance(clients, int) else np.asarray(clients)
    return ClientPool(sizes, round, seed, losses or (lambda ids: np.zeros(len(ids))))


def cohort(sampler, *args, **kwargs):
    one = pool(*args, **kwargs)
    drawn = sampler(one, stream(one.seed, Purpose.COHORT, one.round))
    assert len(set(drawn.tolist())) == len(drawn)
    return drawn


def shares(sampler, rounds, clients):
    """In what share of the rounds each client is."""
    counts = np.zeros(len(pool(clients)))
    for number in range(rounds):
        counts[cohort(sampler, clients, number)] += 1
    return counts / rounds


def close(found, exact, rounds, errors=4.0):
    return np.all(np.abs(found - exact) <= errors * np.sqrt(exact * (1 - exact) / rounds))


def one_by_one(sizes, size):
    """Probability of each client to be among `size` that are drawn one by one by their sizes, over all orders."""
    p, inside = np.asarray(sizes) / np.sum(sizes), np.zeros(len(sizes))
    for order in permutations(range(len(sizes)), size):
        left, probability = 1.0, 1.0
        for client in order:
            probability *= p[client] / left
            left -= p[client]
        inside[list(order)] += probability
    return inside


def facts(sizes, cohort=3, **more):
    return FederationFacts(np.asarray(sizes), cohort, ("val",), False, **more)


def told(sampler, *args, **kwargs):
    return {(mistake.key, mistake.warning) for mistake in sampler.check(facts(*args, **kwargs))}


def test_a_cohort_has_no_client_twice_and_all_are_as_likely():
    generator = np.random.default_rng(0)
    counts = np.zeros(10)
    for _ in range(3000):
        cohort = Uniform(3)(pool(10), generator)
        assert len(set(cohort.tolist())) == 3
        counts[cohort] += 1
    assert np.abs(counts / 3000 - 0.3).max() < 4 * (0.3 * 0.7 / 3000) ** 0.5


def test_the_weighted_are_drawn_one_by_one_by_their_examples():
    sizes = [1, 2, 3, 4, 0, 10]
    exact = one_by_one(sizes, 2)
    assert exact.sum() == pytest.approx(2)
    found = shares(Weighted(2), 2000, sizes)
    assert close(found, exact, 2000)
    assert found[4] == 0
    assert not close(found, np.full(6, 2 / 6), 2000)


def test_those_without_examples_cannot_be_drawn_by_them():
    assert told(Weighted(3), [5, 0, 0, 1]) == told(PowerOfChoice(3), [5, 0, 0, 1]) == {("sampler", False)}
    assert told(Weighted(2), [5, 0, 0, 1]) == told(PowerOfChoice(2), [5, 0, 0, 1]) == set()


@pytest.mark.parametrize(("clients", "size"), [(10, 3), (10, 5), (7, 4), (5, 5), (9, 8), (4, 1), (100, 7)])
def test_every_client_has_its_turn_before_any_has_another(clients, size):
    rounds = 3 * clients
    turns = np.concatenate([cohort(RoundRobin(size), clients, number) for number in range(rounds)])
    passes = turns.reshape(-1, clients)
    assert all(sorted(one) == list(range(clients)) for one in passes.tolist())
    assert clients < 7 or not np.array_equal(passes[0], passes[1])


def test_a_turn_is_known_from_the_round_and_the_seed_alone():
    sampler, spoilt = RoundRobin(4), np.random.default_rng(9)
    late = cohort(sampler, 10, 37)
    assert np.array_equal(sampler(pool(10, 37), spoilt), late)
    assert any(not np.array_equal(cohort(sampler, 10, t), cohort(sampler, 10, t, seed=1)) for t in range(3))


def test_turns_are_as_likely_for_all():
    first = np.zeros(10)
    for seed in range(2000):
        first[cohort(RoundRobin(3), 10, seed=seed)] += 1
    assert close(first / 2000, 0.3, 2000)


def test_who_is_late_misses_a_turn_which_is_told():
    assert told(RoundRobin(3), [1] * 9, over_select=1.5) == {("schedule.over_select", True)}
    assert told(RoundRobin(3), [1] * 9) == set()


@pytest.mark.parametrize(("sampler", "q"), [(Poisson(2), 0.25), (Poisson(2, q=0.6), 0.6)])
def test_a_poisson_client_comes_with_probability_q_whatever_others_do(sampler, q):
    rounds, inside = 3000, np.zeros((3000, 8))
    for number in range(rounds):
        inside[number, cohort(sampler, 8, number)] = 1
    assert close(inside.mean(axis=0), q, rounds)
    both = (inside[:, 0] * inside[:, 1]).mean()
    assert close(both, q * q, rounds)
    size = inside.sum(axis=1)
    variance = 8 * q * (1 - q)
    assert abs(size.var() - variance) < 4 * variance * (2 / rounds) ** 0.5  # of a fixed size it would be 0


def test_a_poisson_cohort_can_be_empty_and_everybody():
    assert 0 in {len(cohort(Poisson(1, q=0.05), 4, number)) for number in range(20)}
    assert len(cohort(Poisson(1, q=1.0), 6)) == 6
    assert Poisson(1).max_cohort(6) == 6


def test_rounds_that_poisson_leaves_without_clients_are_told():
    short = next(iter(Poisson(3).check(facts([1] * 10))))
    assert (short.key, short.warning) == ("sampler.q", True)
    assert "in 3% of the rounds" in str(short)  # 0.7 ** 10
    (two,) = Poisson(3).check(facts([1] * 10, quorum=2))
    assert "in 15% of the rounds" in str(two)  # + 10 * 0.3 * 0.7 ** 9
    assert told(Poisson(5, q=1.0), [1] * 10, quorum=10) == told(Poisson(50), [1] * 1000) == set()
    assert ("schedule.over_select", False) in told(Poisson(3), [1] * 10, over_select=1.5)


def test_the_candidates_with_the_highest_losses_are_taken():
    losses = np.array([3.0, 9.0, 1.0, 7.0, 5.0, 8.0])
    for number in range(20):
        asked = []
        taken = cohort(
            PowerOfChoice(2, candidates=4), 6, number, lambda ids, asked=asked: asked.extend(ids) or losses[ids]
        )
        assert len(set(asked)) == 4
        assert taken.tolist() == sorted(asked, key=lambda client: -losses[client])[:2]


def test_candidates_are_drawn_by_their_examples():
    sizes = [1, 2, 3, 4, 0, 10]
    counts = np.zeros(6)

    def losses(ids):
        counts[ids] += 1
        return np.zeros(len(ids))

    for number in range(2000):
        cohort(PowerOfChoice(1, candidates=2), sizes, number, losses)
    assert close(counts / 2000, one_by_one(sizes, 2), 2000)
    assert not close(counts / 2000, np.full(6, 2 / 6), 2000)


def test_of_equal_losses_the_lower_id_is_taken_and_those_who_fail_are_not():
    everybody = PowerOfChoice(2, candidates=5)
    assert cohort(everybody, 5).tolist() == [0, 1]
    losses = np.array([np.nan, 1.0, np.nan, 2.0, np.nan])
    assert cohort(everybody, 5, 0, lambda ids: losses[ids]).tolist() == [3, 1]
    assert cohort(PowerOfChoice(3, candidates=5), 5, 0, lambda ids: losses[ids]).tolist() == [3, 1]
    assert cohort(everybody, 5, 0, lambda ids: np.full(len(ids), np.nan)).tolist() == []


def test_there_are_twice_as_many_candidates_as_are_taken_or_all_who_have_samples():
    for clients, count in (([1] * 9, 6), ([1] * 5, 5), ([1, 0, 1, 1, 1], 4)):
        asked = []
        cohort(PowerOfChoice(3), clients, 0, lambda ids, asked=asked: asked.extend(ids) or np.zeros(len(ids)))
        assert len(asked) == count


def test_wrong_candidates_are_told():
    with pytest.raises(ConfigError) as error:
        PowerOfChoice(3, candidates=2)
    assert error.value.key == "candidates"
    assert told(PowerOfChoice(3, candidates=9), [1] * 8) == {("sampler.candidates", False)}
    assert told(PowerOfChoice(3, candidates=4), [1, 1, 1, 0]) == {("sampler", False)}
    assert told(PowerOfChoice(3), [1] * 8, clock=True) == {("clock", True)}


def test_a_client_is_awake_for_its_share_of_each_day():
    sampler = Available(3, period=8, awake=0.25, spread=1.0)
    there = np.stack([sampler.there(pool(500, number)) for number in range(24)])
    assert set(there[:8].sum(axis=0)) == {2}
    assert np.array_equal(there[:8], there[8:16])
    falls_asleep = there & ~np.roll(there, -1, axis=0)
    assert set(falls_asleep.sum(axis=0)) == {3}  # once a day: its hours are in a row
    assert close(there[:8].mean(axis=1), 0.25, 500)


def test_with_one_time_zone_all_sleep_at_once():
    sampler = Available(3, period=4, awake=0.5, spread=0.0)
    assert [sampler.metrics(pool(10, number))["clients/available"] for number in range(5)] == [10, 10, 0, 0, 10]
    assert [len(cohort(sampler, 10, number)) for number in range(5)] == [3, 3, 0, 0, 3]


def test_those_awake_are_as_likely_and_fewer_than_are_asked_for_are_all_taken():
    sampler = Available(3, period=4, awake=0.5)
    there = sampler.there(pool(12))
    counts = np.zeros(12)
    for number in range(3000):
        counts[sampler(pool(12), stream(0, Purpose.COHORT, number))] += 1
    assert close(counts[there] / 3000, 3 / there.sum(), 3000)
    assert not counts[~there].any()
    few = Available(8, period=4, awake=0.25)
    assert np.array_equal(cohort(few, 12), np.flatnonzero(few.there(pool(12))))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Poisson(3, q=0.0), "q"),
        (lambda: Poisson(3, q=1.5), "q"),
        (lambda: Available(3, period=0), "period"),
        (lambda: Available(3, awake=0.0), "awake"),
        (lambda: Available(3, awake=1.1), "awake"),
        (lambda: Available(3, spread=-0.1), "spread"),
    ],
)
def test_wrong_values_are_named(make, key):
    with pytest.raises(ConfigError) as error:
        make()
    assert error.value.key == key


@pytest.mark.parametrize(
    "sampler",
    [Uniform(9), Weighted(9), RoundRobin(9), Poisson(9), PowerOfChoice(9), Available(9)],
    ids=lambda s: type(s),
)
def test_a_million_clients_are_no_obstacle(sampler):
    drawn = cohort(sampler, 1_000_000, 12)
    assert 0 < len(drawn) < 30
    assert drawn.max() > 1000


def test_the_rounds_own_generators_are_not_to_be_had_twice():
    with pytest.raises(ValueError, match="must be at least 1"):
        pool(3).stream(0)
    draws = [pool(3, t).stream(*key).random() for t in (0, 5) for key in ((1,), (2,), (1, 1))]
    assert draws[:3] == draws[3:]
    assert len({*draws, stream(0, Purpose.COHORT).random()}) == 4


def test_a_late_turn_costs_no_more_than_an_early_one(monkeypatch):
    streams, ask = [], ClientPool.stream
    monkeypatch.setattr(ClientPool, "stream", lambda self, *key: streams.append(key) or ask(self, *key))
    for clients, size in ((10, 10), (10, 5), (10, 3), (15, 10), (7, 6)):
        cohort(RoundRobin(size), clients, 10_000)
        assert len(streams) <= 2 * size, (clients, size)
        streams.clear()
