"""The choices of the group `privacy`: a run with each of them, and errors with their keys."""

import pytest
from configured import build, errors_of

SMALL = ("algorithm.weights=uniform", "partition.num_clients=20", "schedule.local_steps=1", "schedule.rounds=2")
pytestmark = pytest.mark.slow  # each composes the configuration


@pytest.mark.parametrize(
    "choices",
    [
        ("privacy=central", "sampler=poisson", "privacy.noise_multiplier=1.0"),
        (
            "privacy=central",
            "privacy.epsilon=20",
            "privacy.delta=1e-3",
            "privacy.clip=adaptive",
            "privacy.count_noise=5",
        ),
        ("privacy=central", "privacy.epsilon=inf"),
        ("privacy=local", "privacy.epsilon=50"),
        ("privacy=ftrl", "sampler=min_separation", "privacy.epsilon=50"),
        ("privacy=distributed", "privacy.epsilon=50", "encryption=ideal", "schedule.clients_per_round=5"),
    ],
    ids=" ".join,
)
def test_a_run_with_each_mechanism_records_its_figures(choices):
    run = build(*SMALL, *choices)
    records = list(run.federation.run())
    assert {"privacy/clip"} <= records[-1].metrics.keys()
    assert ("privacy/epsilon" in records[-1].metrics) == ("privacy.epsilon=inf" not in choices)
    assert [record.lost for record in records] == [None, None]


@pytest.mark.parametrize(
    ("choices", "key", "reason"),
    [
        (("privacy=central",), "privacy.epsilon", "leaves the noise undecided"),
        (("privacy=local", "privacy.epsilon=1", "privacy.noise_multiplier=1"), "privacy.epsilon", "set one of them"),
        (("privacy=central", "privacy.epsilon=1", "privacy.clip=adaptiv"), "privacy.clip", "adaptive"),
        (("privacy=central", "privacy.epsilon=1", "algorithm.weights=examples"), "algorithm.weights", "uniform"),
        (("privacy=central", "privacy.epsilon=1e6"), "privacy.epsilon", "protects nothing"),
        (("privacy=central", "privacy.epsilon=1", "sampler=power_of_choice"), "sampler", "losses"),
        (("privacy=local", "privacy.epsilon=1", "algorithm=qfedavg"), "algorithm", "by their losses"),
        (("privacy=ftrl", "privacy.epsilon=1", "sampler=poisson"), "sampler", "min_separation"),
        (("privacy=distributed", "privacy.epsilon=1"), "encryption", "each client adds a small part of the noise"),
        (
            ("privacy=distributed", "privacy.epsilon=1", "encryption=ideal", "sampler=poisson"),
            "sampler",
            "fewest survivors",
        ),
        (("privacy=central", "privacy.epsilon=1", "data.client_test_fraction=0.2"), "eval.clients", "without noise"),
        (("privacy=central", "privacy.epsilon=1", "algorithm=centralised"), "privacy", "privacy=example protects"),
    ],
    ids=str,
)
def test_an_unsound_combination_is_refused_under_its_key(choices, key, reason):
    algorithm = [] if any(choice.startswith("algorithm=") for choice in choices) else SMALL[:1]
    errors = errors_of(*algorithm, *SMALL[1:], *choices)
    assert reason in errors[key]
