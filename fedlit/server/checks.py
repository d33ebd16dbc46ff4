"""Checks of the parts of a federation against each other."""

from __future__ import annotations

from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.server.federation import FederationParts


def check_compatibility(federation: FederationParts, facts: FederationFacts) -> list[ConfigError]:
    """The errors and warnings of all parts.

    Each rule is in the part that it protects.
    """
    parts = (
        federation.schedule,
        federation.loading,
        federation.evaluations,
        federation.algorithm,
        federation.sampler,
        federation.clock,
        federation.faults,
        federation.channel,
        federation.aggregator,
    )
    errors = [error for part in parts if part is not None for error in part.check(facts)]
    if empty := int((facts.sizes == 0).sum()):
        problem = f"leaves {empty} of {len(facts.sizes)} clients without examples: they are sampled with weight 0"
        hint = "take fewer clients, or partition.min_samples=1"
        errors.append(ConfigError("partition", "", problem, hint, warning=True))
    return errors
