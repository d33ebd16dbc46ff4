"""The privacy history of a client, and figures of the round's record from it."""

import math

import pytest

from fedlit.client.dp_sgd.accounting import HISTORY, ReleaseHistory, epsilon_of, noise_multiplier_for, privacy_metrics
from fedlit.client.dp_sgd.settings import ExamplePrivacy

GRID = [(noise, rate, steps) for noise in (0.7, 1.0, 4.0) for rate in (0.01, 0.2, 1.0) for steps in (1, 40, 1000)]


def test_equal_steps_are_one_entry():
    history = ReleaseHistory().add(1.0, 0.1, 5).add(2.0, 0.1, 1).add(1.0, 0.1, 7).add(1.0, 0.1, 0)
    assert history.releases == ((1.0, 0.1, 12), (2.0, 0.1, 1))
    assert ReleaseHistory().add(1.0, 0.1, 0).groups() == {}


def test_a_history_comes_back_from_a_client_state():
    history = ReleaseHistory().add(1.1, 1 / 3, 5).add(2.0, 1.0, 2**40)
    assert ReleaseHistory.of(history.groups()) == history
    assert ReleaseHistory.of({}) == ReleaseHistory()
    assert history.groups().keys() == {HISTORY}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Optimal order is the", "ignore:divide by zero encountered in log")
@pytest.mark.parametrize(("noise", "rate", "steps"), GRID)
def test_epsilon_is_at_most_that_of_opacus_and_close_to_it(noise, rate, steps):
    """Opacus has RDP and PRV. PLD is tighter than RDP, and PRV is an estimate with an error of 1 %."""
    from opacus.accountants import PRVAccountant, RDPAccountant

    ours = epsilon_of(ReleaseHistory(((noise, rate, steps),)), 1e-5)
    renyi, numeric = RDPAccountant(), PRVAccountant()
    renyi.history = numeric.history = [(noise, rate, steps)]
    assert ours <= renyi.get_epsilon(1e-5) * (1 + 1e-9)
    if ours < 50:  # beyond it the grid of PRV is too large for memory
        assert ours == pytest.approx(numeric.get_epsilon(1e-5), rel=0.03, abs=0.02)


def test_noise_for_a_target_spends_nearly_all_of_it():
    noise = noise_multiplier_for(2.0, 1e-5, 0.2, 300)
    assert 1.98 < epsilon_of(ReleaseHistory(((noise, 0.2, 300),)), 1e-5) <= 2.0


def metrics(histories, before=None, **privacy):
    privacy = ExamplePrivacy(**{"noise_multiplier": 1.0, **privacy})
    return privacy_metrics(privacy, {k: h.groups() for k, h in histories.items()}, {"extra": 0.25}, before or {})


def test_the_record_has_the_largest_epsilon_of_all_clients_so_far():
    histories = {7: ReleaseHistory(((1.0, 0.1, 10),)), 3: ReleaseHistory(((2.0, 0.1, 10),))}
    found = metrics(histories)
    epsilons = sorted(epsilon_of(history, 1e-5) for history in histories.values())
    assert found["privacy/epsilon"] == found["privacy/epsilon_highest_tenth"] == epsilons[1]
    assert found["privacy/epsilon_lowest_tenth"] == epsilons[0]
    assert (found["privacy/noise_multiplier"], found["privacy/clip"], found["extra"]) == (1.0, 1.0, 0.25)
    assert metrics(histories, {"privacy/epsilon": 9.0})["privacy/epsilon"] == 9.0
    assert metrics({}, {"privacy/epsilon": 9.0}) == {"privacy/epsilon": 9.0, "privacy/clip": 1.0, "extra": 0.25}
    assert metrics({})["privacy/epsilon"] == 0.0


def test_without_noise_epsilon_is_infinite_and_left_out():
    history = ReleaseHistory(((0.0, 0.1, 10),))
    assert epsilon_of(history, 1e-5) == math.inf
    assert metrics({0: history}, noise_multiplier=0.0) == {
        "privacy/clip": 1.0,
        "privacy/noise_multiplier": 0.0,
        "extra": 0.25,
    }


def test_without_privacy_the_record_has_no_such_figures():
    assert privacy_metrics(None, {}, {"train/loss": 1.0}, {}) == {}
