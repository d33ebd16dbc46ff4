"""Settings that privacy mechanisms refuse before round 1, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator

from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts

WEIGHTS = {
    "examples": (
        "algorithm.weights",
        "examples",
        "multiplies an update by the number of its examples, so a clipped update has no largest norm",
        "set algorithm.weights=uniform, or algorithm.inner.weights=uniform if an inner algorithm trains",
    ),
    "losses": (
        "algorithm",
        "",
        "weighs clients by their losses, so one client changes the weights of all others",
        "take an algorithm with equal weights, such as fedavg with algorithm.weights=uniform",
    ),
    "steps": (
        "algorithm",
        "",
        "multiplies the mean update by the mean of the clients' steps, so a clipped update has no largest norm",
        "take an algorithm with equal weights, such as fedavg with algorithm.weights=uniform",
    ),
    "unknown": (
        "algorithm",
        "",
        "does not state its weights, so the largest change by one client is unknown",
        'return "equal" from the property `weighting` if each client has weight 1',
    ),
}
"""For each weighting that is not equal: key, value, problem and hint."""


def check_releases(facts: FederationFacts) -> Iterator[ConfigError]:
    """Yield errors of releases that the noise does not cover."""
    if facts.weighting in WEIGHTS:
        key, value, problem, hint = WEIGHTS[facts.weighting]
        yield ConfigError(key, value or facts.algorithm, problem, hint)
    if count := facts.update_numbers.get("buffers", 0):
        problem = (
            f"releases {count:,} numbers of buffers, such as running statistics of BatchNorm: they have other scales "
            "than parameters, some are integers, and noise makes them useless"
        )
        yield ConfigError("algorithm.buffers", "mean", problem, "set algorithm.buffers=server, or model.norm=group")
    if facts.max_norm is not None:
        problem = "refuses clients by the norms of their updates, and no noise covers who is refused"
        yield ConfigError(
            "faults.max_norm", facts.max_norm, problem, "set null: privacy.clip makes long updates shorter"
        )
    if len(facts.sizes) == 1:
        problem = "protects all data of one client, and the only client of this run has all data"
        hint = "privacy=example protects single examples, also those of one client"
        yield ConfigError("privacy", "", problem, hint)
    if not sum(facts.update_numbers.values()):
        yield ConfigError(
            "algorithm", facts.algorithm, "sends no update, so there is nothing to protect", "privacy=none"
        )
    if facts.has_client_tests:
        problem = "releases metrics of clients' own test sets without noise"
        yield ConfigError(
            "eval.clients", "", problem, "set data.client_test_fraction=0, or take data without test sets of clients"
        )
    if facts.sampling.by_loss:
        problem = "may choose clients by what they return, such as their losses, and no noise covers that choice"
        yield ConfigError("sampler", "", problem, "take sampler=poisson")


def check_central(facts: FederationFacts) -> Iterator[ConfigError]:
    """Yield errors of settings that change the sum's sensitivity."""
    yield from check_releases(facts)
    if facts.keeps_messages:
        problem = "compares single updates, so one client can change more than its own part of the sum"
        yield ConfigError("aggregator", "", problem, "leave out `aggregator`: the default is the weighted mean")
    if facts.over_select > 1:
        problem = "takes the clients that finish first, so one client decides whether another counts"
        yield ConfigError("schedule.over_select", facts.over_select, problem, "set schedule.over_select=1")
    if facts.quorum > 1:
        problem = "loses a round that has too few updates, so whether a round counts depends on the clients' data"
        yield ConfigError("schedule.quorum", facts.quorum, problem, "set schedule.quorum=1")
    if control := facts.update_numbers.get("control", 0):
        problem = (
            f"releases {control:,} numbers of control variates: they share the clipping norm and the noise with the "
            "parameters, and their scale is that of gradients, so they leave the parameters little of the norm"
        )
        yield ConfigError("algorithm", facts.algorithm, problem, "expect a lower accuracy", warning=True)


def check_distributed(facts: FederationFacts) -> Iterator[ConfigError]:
    """Yield errors of settings in which the clients' noise does not suffice."""
    yield from check_central(facts)
    if facts.secure_sum is None:
        problem = (
            "must be secagg, or ideal to simulate it: with privacy=distributed each client adds a small part of the noise, "
            "which protects sums, and no single update"
        )
        hint = "take encryption=secagg, or privacy=local, which needs no encryption"
        yield ConfigError("encryption", "", problem, hint)
    if facts.sampling.kind == "poisson":
        problem = (
            "draws cohorts of any size, and the noise of a client is sized for the fewest survivors of a known cohort. The "
            "server sees who takes part, so Poisson sampling would not amplify privacy either"
        )
        yield ConfigError("sampler", "poisson", problem, "take sampler=uniform")
