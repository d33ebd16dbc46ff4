"""Samplers: the probability of each client, and that only the seed decides the cohort."""

from itertools import permutations

import numpy as np
import pytest

from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts, Sampling
from fedlit.core.streams import Purpose, stream
from fedlit.server.sampling import Available, Poisson, PowerOfChoice, RoundRobin, Uniform, Weighted
from fedlit.server.sampling.sampler import ClientPool


def pool(clients, round=0, losses=None, seed=0):
    """Make a pool of this number of clients with one example each, or of clients with these sizes."""
    sizes = np.ones(clients, dtype=np.int64) if isinstance(clients, int) else np.asarray(clients)
    return ClientPool(sizes, round, seed, losses or (lambda ids: np.zeros(len(ids))))


def cohort(sampler, *args, **kwargs):
    """Draw the cohort of `pool(*args, **kwargs)`, and check that its ids are distinct."""
    clients = pool(*args, **kwargs)
    ids = sampler(clients, stream(clients.seed, Purpose.COHORT, clients.round))
    assert len(set(ids.tolist())) == len(ids)
    return ids


def shares(sampler, rounds, clients):
    """Return for each client the share of rounds whose cohort has it, shape (clients,)."""
    counts = np.zeros(len(pool(clients)))
    for number in range(rounds):
        counts[cohort(sampler, clients, number)] += 1
    return counts / rounds


def is_close(share, exact, rounds, errors=4.0):
    """Return True if all shares are within `errors` standard errors of the exact probabilities."""
    return np.all(np.abs(share - exact) <= errors * np.sqrt(exact * (1 - exact) / rounds))


def exact_probabilities(sizes, size):
    """Return the probability of each client in a draw of `size` clients one by one by their sizes.

    It is a sum over all orders.
    """
    p, inside = np.asarray(sizes) / np.sum(sizes), np.zeros(len(sizes))
    for order in permutations(range(len(sizes)), size):
        left, probability = 1.0, 1.0
        for client in order:
            probability *= p[client] / left
            left -= p[client]
        inside[list(order)] += probability
    return inside


def facts(sizes, **others):
    return FederationFacts(sizes=np.asarray(sizes), cohort_size=3, splits=("val",), has_client_tests=False, **others)


def errors(sampler, *args, **kwargs):
    """Return the pairs (key, warning) of the errors of `sampler.check(facts(*args, **kwargs))`."""
    return {(error.key, error.warning) for error in sampler.check(facts(*args, **kwargs))}


def test_uniform_draws_distinct_clients_with_equal_probability():
    generator = np.random.default_rng(0)
    counts = np.zeros(10)
    for _ in range(3000):
        ids = Uniform(3)(pool(10), generator)
        assert len(set(ids.tolist())) == 3
        counts[ids] += 1
    assert np.abs(counts / 3000 - 0.3).max() < 4 * (0.3 * 0.7 / 3000) ** 0.5


def test_weighted_draws_clients_one_by_one_by_their_examples():
    sizes = [1, 2, 3, 4, 0, 10]
    exact = exact_probabilities(sizes, 2)
    assert exact.sum() == pytest.approx(2)
    share = shares(Weighted(2), 2000, sizes)
    assert is_close(share, exact, 2000)
    assert share[4] == 0
    assert not is_close(share, np.full(6, 2 / 6), 2000)


def test_too_few_clients_with_examples_are_an_error():
    assert errors(Weighted(3), [5, 0, 0, 1]) == errors(PowerOfChoice(3), [5, 0, 0, 1]) == {("sampler", False)}
    assert errors(Weighted(2), [5, 0, 0, 1]) == errors(PowerOfChoice(2), [5, 0, 0, 1]) == set()


@pytest.mark.parametrize(("clients", "size"), [(10, 3), (10, 5), (7, 4), (5, 5), (9, 8), (4, 1), (100, 7)])
def test_round_robin_draws_every_client_once_before_any_client_again(clients, size):
    rounds = 3 * clients
    turns = np.concatenate([cohort(RoundRobin(size), clients, number) for number in range(rounds)])
    passes = turns.reshape(-1, clients)
    assert all(sorted(ids) == list(range(clients)) for ids in passes.tolist())
    assert clients < 7 or not np.array_equal(passes[0], passes[1])


def test_a_round_robin_cohort_depends_on_round_and_seed_only():
    sampler, other_generator = RoundRobin(4), np.random.default_rng(9)
    assert np.array_equal(sampler(pool(10, 37), other_generator), cohort(sampler, 10, 37))
    assert any(not np.array_equal(cohort(sampler, 10, t), cohort(sampler, 10, t, seed=1)) for t in range(3))


def test_round_robin_gives_all_clients_equal_probability():
    first = np.zeros(10)
    for seed in range(2000):
        first[cohort(RoundRobin(3), 10, seed=seed)] += 1
    assert is_close(first / 2000, 0.3, 2000)


def test_round_robin_warns_about_over_selection():
    assert errors(RoundRobin(3), [1] * 9, over_select=1.5) == {("schedule.over_select", True)}
    assert errors(RoundRobin(3), [1] * 9) == set()


@pytest.mark.parametrize(("sampler", "q"), [(Poisson(2), 0.25), (Poisson(2, q=0.6), 0.6)])
def test_poisson_draws_each_client_independently_with_probability_q(sampler, q):
    rounds, inside = 3000, np.zeros((3000, 8))
    for number in range(rounds):
        inside[number, cohort(sampler, 8, number)] = 1
    assert is_close(inside.mean(axis=0), q, rounds)
    both = (inside[:, 0] * inside[:, 1]).mean()
    assert is_close(both, q * q, rounds)
    size = inside.sum(axis=1)
    variance = 8 * q * (1 - q)
    assert abs(size.var() - variance) < 4 * variance * (2 / rounds) ** 0.5  # 0 for a fixed size


def test_a_poisson_cohort_can_be_empty_and_can_be_all_clients():
    assert 0 in {len(cohort(Poisson(1, q=0.05), 4, number)) for number in range(20)}
    assert len(cohort(Poisson(1, q=1.0), 6)) == 6
    assert Poisson(1).max_cohort(6) == 6


def test_poisson_warns_about_rounds_with_too_few_clients_and_refuses_over_selection():
    (warning,) = Poisson(3).check(facts([1] * 10))
    assert (warning.key, warning.warning) == ("sampler.q", True)
    assert "in 3% of the rounds" in str(warning)  # 0.7 ** 10
    (warning,) = Poisson(3).check(facts([1] * 10, quorum=2))
    assert "in 15% of the rounds" in str(warning)  # + 10 * 0.3 * 0.7 ** 9
    assert errors(Poisson(3), [1] * 10, releases_empty=True) == set()  # no round is lost
    assert errors(Poisson(5, q=1.0), [1] * 10, quorum=10) == errors(Poisson(50), [1] * 1000) == set()
    assert ("schedule.over_select", False) in errors(Poisson(3), [1] * 10, over_select=1.5)


def test_power_of_choice_takes_the_candidates_with_the_highest_losses():
    losses = np.array([3.0, 9.0, 1.0, 7.0, 5.0, 8.0])
    for number in range(20):
        candidates = []

        def measure(ids, candidates=candidates):
            candidates.extend(ids)
            return losses[ids]

        ids = cohort(PowerOfChoice(2, candidates=4), 6, number, measure)
        assert len(set(candidates)) == 4
        assert ids.tolist() == sorted(candidates, key=lambda client: -losses[client])[:2]


def test_candidates_are_drawn_by_their_examples():
    sizes = [1, 2, 3, 4, 0, 10]
    counts = np.zeros(6)

    def losses(ids):
        counts[ids] += 1
        return np.zeros(len(ids))

    for number in range(2000):
        cohort(PowerOfChoice(1, candidates=2), sizes, number, losses)
    assert is_close(counts / 2000, exact_probabilities(sizes, 2), 2000)
    assert not is_close(counts / 2000, np.full(6, 2 / 6), 2000)


def test_power_of_choice_takes_the_lower_id_of_equal_losses_and_no_failed_candidate():
    sampler = PowerOfChoice(2, candidates=5)
    assert cohort(sampler, 5).tolist() == [0, 1]
    losses = np.array([np.nan, 1.0, np.nan, 2.0, np.nan])
    assert cohort(sampler, 5, 0, lambda ids: losses[ids]).tolist() == [3, 1]
    assert cohort(PowerOfChoice(3, candidates=5), 5, 0, lambda ids: losses[ids]).tolist() == [3, 1]
    assert cohort(sampler, 5, 0, lambda ids: np.full(len(ids), np.nan)).tolist() == []


def test_power_of_choice_has_twice_the_cohort_as_candidates_or_all_with_examples():
    for clients, count in (([1] * 9, 6), ([1] * 5, 5), ([1, 0, 1, 1, 1], 4)):
        candidates = []

        def measure(ids, candidates=candidates):
            candidates.extend(ids)
            return np.zeros(len(ids))

        cohort(PowerOfChoice(3), clients, 0, measure)
        assert len(candidates) == count


def test_an_invalid_number_of_candidates_is_an_error():
    with pytest.raises(ConfigError) as error:
        PowerOfChoice(3, candidates=2)
    assert error.value.key == "candidates"
    assert errors(PowerOfChoice(3, candidates=9), [1] * 8) == {("sampler.candidates", False)}
    assert errors(PowerOfChoice(3, candidates=4), [1, 1, 1, 0]) == {("sampler", False)}
    assert errors(PowerOfChoice(3), [1] * 8, has_clock=True) == {("clock", True)}


def test_a_client_is_awake_for_its_share_of_each_day():
    sampler = Available(3, period=8, awake=0.25, spread=1.0)
    is_awake = np.stack([sampler.is_awake(pool(500, number)) for number in range(24)])
    assert set(is_awake[:8].sum(axis=0)) == {2}
    assert np.array_equal(is_awake[:8], is_awake[8:16])
    last_hours = is_awake & ~np.roll(is_awake, -1, axis=0)
    assert set(last_hours.sum(axis=0)) == {3}  # once a day, so its hours are consecutive
    assert is_close(is_awake[:8].mean(axis=1), 0.25, 500)


def test_with_one_time_zone_all_clients_are_awake_in_the_same_rounds():
    sampler = Available(3, period=4, awake=0.5, spread=0.0)
    assert [sampler.metrics(pool(10, number))["clients/available"] for number in range(5)] == [10, 10, 0, 0, 10]
    assert [len(cohort(sampler, 10, number)) for number in range(5)] == [3, 3, 0, 0, 3]


def test_available_draws_uniformly_and_takes_all_if_too_few_are_awake():
    sampler = Available(3, period=4, awake=0.5)
    is_awake = sampler.is_awake(pool(12))
    counts = np.zeros(12)
    for number in range(3000):
        counts[sampler(pool(12), stream(0, Purpose.COHORT, number))] += 1
    assert is_close(counts[is_awake] / 3000, 3 / is_awake.sum(), 3000)
    assert not counts[~is_awake].any()
    large = Available(8, period=4, awake=0.25)
    assert np.array_equal(cohort(large, 12), np.flatnonzero(large.is_awake(pool(12))))


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
def test_an_invalid_value_is_named_in_the_error(make, key):
    with pytest.raises(ConfigError) as error:
        make()
    assert error.value.key == key


@pytest.mark.parametrize(
    "sampler",
    [Uniform(9), Weighted(9), RoundRobin(9), Poisson(9), PowerOfChoice(9), Available(9)],
    ids=lambda s: type(s),
)
def test_a_cohort_is_drawn_from_a_million_clients(sampler):
    ids = cohort(sampler, 1_000_000, 12)
    assert 0 < len(ids) < 30
    assert ids.max() > 1000


def test_a_samplers_own_streams_differ_from_those_of_the_rounds():
    with pytest.raises(ValueError, match="must be at least 1"):
        pool(3).stream(0)
    draws = [pool(3, t).stream(*key).random() for t in (0, 5) for key in ((1,), (2,), (1, 1))]
    assert draws[:3] == draws[3:]
    assert len({*draws, stream(0, Purpose.COHORT).random()}) == 4


def test_a_late_round_robin_cohort_costs_no_more_streams_than_an_early_one(monkeypatch):
    streams, make_stream = [], ClientPool.stream
    monkeypatch.setattr(ClientPool, "stream", lambda self, *key: streams.append(key) or make_stream(self, *key))
    for clients, size in ((10, 10), (10, 5), (10, 3), (15, 10), (7, 6)):
        cohort(RoundRobin(size), clients, 10_000)
        assert len(streams) <= 2 * size, (clients, size)
        streams.clear()


SAMPLINGS = {
    "uniform": (Uniform(3), Sampling("fixed", probability=0.3, size=3)),
    "all clients": (Uniform(10), Sampling("every", probability=1.0, size=10)),
    "poisson": (Poisson(3), Sampling("poisson", probability=0.3)),
    "poisson with q": (Poisson(3, q=0.05), Sampling("poisson", probability=0.05)),
    "weighted": (Weighted(3), Sampling("other", size=3)),
    "round robin": (RoundRobin(3), Sampling("other", probability=0.3, size=3)),
    "round robin of all": (RoundRobin(10), Sampling("every", probability=1.0, size=10)),
    "available": (Available(3), Sampling("other")),
    "power of choice": (PowerOfChoice(3), Sampling("other", by_loss=True)),
}


@pytest.mark.parametrize(("sampler", "sampling"), SAMPLINGS.values(), ids=SAMPLINGS)
def test_a_sampler_states_how_it_chooses_cohorts(sampler, sampling):
    assert sampler.sampling(10) == sampling
