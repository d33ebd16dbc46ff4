"""The accountant of a configuration that is not built, and its tables."""

import io
import re

import pytest
from configured import build, compose_plain
from rich.console import Console

from fedlit.aggregation.privacy.accounting import Accountant, example_epsilon
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.facts import Sampling
from fedlit.experiment.plan.early_privacy import EarlyPrivacy, find_accountant, spread_rounds
from fedlit.experiment.plan.privacy_tables import facts_table, noise_table, print_privacy, sampling_text

pytest.importorskip("dp_accounting", reason="the extra dp is not installed")

CENTRAL = ["privacy=central", "sampler=poisson", "algorithm.weights=uniform", "schedule.rounds=30"]
FTRL = ["privacy=ftrl", "sampler=min_separation", "algorithm.weights=uniform", "schedule.client_fraction=0.2"]
LOCAL = ["privacy=local", "sampler=min_separation", "algorithm.weights=uniform", "schedule.client_fraction=0.5"]
MECHANISMS = {
    "central": [*CENTRAL, "privacy.epsilon=3"],
    "adaptive": [*CENTRAL, "privacy.clip=adaptive", "privacy.noise_multiplier=1.2", "privacy.count_noise=2"],
    "fixed size": [*CENTRAL, "sampler=uniform", "privacy.epsilon=20"],
    "round robin": [*CENTRAL, "sampler=round_robin", "privacy.epsilon=3"],
    "ftrl": [*FTRL, "privacy.epsilon=5"],
    "local": [*LOCAL, "privacy.epsilon=5"],
}


def printed(table):
    out = io.StringIO()
    Console(file=out, width=80).print(table)
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("overrides", MECHANISMS.values(), ids=MECHANISMS)
def test_the_accountant_is_that_of_the_run_that_is_built(overrides):
    found, federation = find_accountant(compose_plain(*overrides)), build(*overrides).federation
    (stage,) = federation.channel.stages
    assert (found.accountant, found.statement) == (stage.accountant, stage.statement())
    assert (found.sampling, found.clients, found.rounds) == (federation.sampling, 10, federation.schedule.rounds)


@pytest.mark.slow
def test_refusals_are_those_of_the_run_and_all_are_found():
    with pytest.raises(ConfigErrors) as errors:
        find_accountant(
            compose_plain(*CENTRAL, "privacy.noise_multiplier=1", "algorithm.weights=examples", "schedule.quorum=2")
        )
    assert {error.key for error in errors.value.errors} == {"algorithm.weights", "schedule.quorum"}
    with pytest.raises(ConfigErrors, match="no differential privacy"):
        find_accountant(compose_plain())
    with pytest.raises(ConfigErrors, match=r"sampler.q=2"):
        find_accountant(compose_plain(*CENTRAL, "privacy.noise_multiplier=1", "sampler.q=2"))


@pytest.mark.slow
def test_the_sampler_is_checked_too():
    over = ["sampler=poisson", "clock=lognormal", "schedule.over_select=1.5"]
    with pytest.raises(ConfigErrors) as errors:
        find_accountant(compose_plain(*LOCAL, "privacy.epsilon=5", *over))
    assert {error.key for error in errors.value.errors} == {"schedule.over_select"}


@pytest.mark.slow
def test_clients_that_only_the_data_names_are_counted_in_the_data():
    overrides = ["data=synthetic", "partition=natural", "model=logistic", *CENTRAL, "privacy.noise_multiplier=2"]
    config, out = compose_plain(*overrides), io.StringIO()
    assert find_accountant(config) is None
    print_privacy(config, [], Console(file=out, width=80))
    clients = len(build(*overrides).federation.registry)
    assert f"{clients:,}; each is in a cohort" in out.getvalue()


@pytest.mark.slow
def test_epsilon_of_examples_depends_on_the_clients_numbers_of_examples():
    pytest.importorskip("opacus", reason="the extra dp is not installed")
    overrides = ["privacy=example", "model=logistic", "schedule.rounds=4", "schedule.local_epochs=1"]
    config, out = compose_plain(*overrides, "privacy.noise_multiplier=1"), io.StringIO()
    print_privacy(config, [3.0], Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    sizes = sorted(build(*overrides, "privacy.noise_multiplier=1").federation.registry.sizes.tolist())
    chosen = sizes[0], sizes[len(sizes) // 2], sizes[-1]
    rows = [re.findall(r"[\d.]+", line) for line in text.splitlines() if re.match(r"│ +(\d|examples)", line)]
    assert rows[0] == [str(size) for size in chosen]
    assert [row[0] for row in rows[1:]] == ["1", "2", "4", "3"]
    for size, spent, noise in zip(chosen, rows[3][1:], rows[4][1:], strict=True):
        rate, steps = min(1.0, 16 / size), 4 * -(-size // 16)
        assert float(spent) == pytest.approx(example_epsilon([(1.0, rate, steps)], 1e-5), rel=1e-3)
        assert 0.99 * 3.0 <= example_epsilon([(float(noise), rate, steps)], 1e-5) <= 3.0


def early(**changes):
    sampling = changes.pop("sampling", Sampling("every", probability=1.0))
    accountant = changes.pop("accountant", None) or Accountant.of(sampling, 40, noise_multiplier=3.0, delta=1e-3)
    return EarlyPrivacy(accountant, sampling, 40, **{"rounds": 30, "statement": "A sentence.", **changes})


def test_tables_have_epsilon_over_the_rounds_and_the_noise_of_targets(monkeypatch):
    out, privacy = io.StringIO(), early()
    monkeypatch.setattr("fedlit.experiment.plan.privacy_tables.find_accountant", lambda config: privacy)
    print_privacy({}, [2.0, 4.0], Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    rows = re.findall(r"│ +(\d+) │ +([\d.]+) │\n", text)
    assert rows == [(str(rounds), f"{privacy.accountant.epsilon(rounds):.4g}") for rounds in (1, 2, 5, 10, 20, 30)]
    for target, noise, spent in re.findall(r"│ +(\d) │ +([\d.]+) │ +([\d.]+) │", text):
        assert 0.99 * float(target) <= float(spent) <= float(target)
        assert privacy.accountant.with_noise(float(noise)).epsilon(30) == pytest.approx(float(spent), rel=1e-3)
    assert all(part in text for part in ("40; all of them", "A sentence.", "add-or-remove", "noise for 30 rounds"))


def test_local_noise_is_charged_in_the_rounds_of_one_client():
    local = Accountant.local(noise_multiplier=3.0, delta=1e-3)
    privacy = early(accountant=local, sampling=Sampling("separated", separation=4))
    assert privacy.charged_rounds == 8
    assert "noise for 8 rounds" in printed(noise_table(privacy, [5.0]))
    assert "sampling does not amplify privacy" in printed(facts_table(privacy))
    assert early().charged_rounds == 30


def test_the_choice_of_cohorts_says_whether_it_amplifies():
    poisson, fixed = Sampling("poisson", probability=0.25), Sampling("fixed", probability=0.1, size=1000)
    assert sampling_text(poisson) == "each is in a cohort with probability 0.25"
    assert sampling_text(fixed) == "1,000 of them in each cohort, drawn uniformly"
    assert sampling_text(fixed, is_per_client=True).endswith("; sampling does not amplify privacy")
    assert sampling_text(Sampling("other")).endswith("; sampling does not amplify privacy")


@pytest.mark.parametrize(("rounds", "expected"), [(1, [1]), (5, [1, 2, 5]), (7, [1, 2, 5, 7]), (20, [1, 2, 5, 10, 20])])
def test_rounds_are_spread_and_end_with_the_planned_ones(rounds, expected):
    assert list(spread_rounds(rounds)) == expected


def test_a_target_that_no_noise_spends_is_an_error():
    with pytest.raises(ConfigError, match="protects nothing"):
        noise_table(early(), [1e9])
