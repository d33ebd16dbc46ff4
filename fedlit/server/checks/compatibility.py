"""Facts about a federation, and checks of its parts against each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlit.aggregation.basis import find_basis
from fedlit.core.errors import ConfigError, ConfigErrors, describe_exception
from fedlit.core.facts import FederationFacts
from fedlit.core.tensors import Groups
from fedlit.server.federation import FederationParts
from fedlit.server.sampling.cohort import draw_cohort
from fedlit.server.sampling.sampler import ClientPool


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
    if federation.trainer_config.privacy is not None and asks_for_losses(federation):
        problem = "chooses clients by the losses of their examples, which privacy=example does not cover"
        hint = "use a sampler that does not ask clients, such as sampler=uniform"
        errors.append(ConfigError("sampler", federation.sampler.name, problem, hint))
    if empty := int((facts.sizes == 0).sum()):
        problem = f"leaves {empty} of {len(facts.sizes)} clients without examples: they are sampled with weight 0"
        hint = "take fewer clients, or partition.min_samples=1"
        errors.append(ConfigError("partition", "", problem, hint, warning=True))
    return errors


def federation_facts(
    federation: FederationParts, classes: tuple[str, ...], labels: np.ndarray | None, module: Any
) -> FederationFacts:
    """The facts that the parts of a federation need about each other."""
    registry = federation.registry
    are_classes = labels is not None and bool(classes) and labels.ndim == 1 and labels.dtype.kind in "iu"
    counts = np.bincount(labels, minlength=len(classes)) if are_classes and labels is not None else None
    schedule = federation.schedule
    several = federation.channel.secure or find_basis(federation.channel.stages)
    update = _update_template(federation) if federation.channel.stages or not federation.channel.codec.lossless else {}
    return FederationFacts(
        sizes=registry.sizes,
        cohort_size=schedule.cohort_size(len(registry)),
        splits=registry.splits,
        has_client_tests=registry.num_client_tests > 0,
        classes=classes,
        val_counts=counts,
        has_clock=federation.clock is not None,
        rounds=schedule.rounds,
        has_worker_processes=federation.executor.has_worker_processes,
        timeout_s=federation.executor.timeout_s,
        over_select=schedule.over_select,
        quorum=schedule.quorum,
        max_norm=federation.faults.max_norm,
        max_cohort=federation.sampler.max_cohort(len(registry)),
        sampling=federation.sampling,
        algorithm=type(federation.algorithm).__name__,
        weighting=federation.algorithm.weighting,
        update_numbers={group: sum(t.numel() for t in tensors.values()) for group, tensors in update.items()},
        integer_buffers=tuple(
            name for tensors in update.values() for name, tensor in tensors.items() if not tensor.is_floating_point()
        ),
        keeps_messages=federation.aggregator.keeps_messages,
        releases_empty=federation.channel.releases_empty,
        exchanges=("update",) if several is None else several.exchanges,
        has_common_key=federation.executor.has_common_key,
        module=type(module).__name__,
        manual_optimization=not module.automatic_optimization,
    )


def _update_template(federation: FederationParts) -> Groups:
    """The groups of an update without a step.

    Raises:
        ConfigErrors: if the client rule of the algorithm fails.
    """
    try:
        return federation.update_template()
    except Exception as error:  # user code
        problem = f"fails for a client without examples: {describe_exception(error)}"
        hint = (
            "its client rule gives stages the names and shapes of an update: it must return them if `fit` takes no step"
        )
        found = ConfigError("algorithm", type(federation.algorithm).__name__, problem, hint)
        found.__cause__ = error  # for traceback=true
        raise ConfigErrors([found]) from error


def asks_for_losses(federation: FederationParts) -> bool:
    """Return True if round 1's cohort depends on clients' losses."""
    asked: list[np.ndarray] = []

    def losses(clients: np.ndarray) -> np.ndarray:
        asked.append(clients)
        return np.zeros(len(clients))

    draw_cohort(federation.sampler, ClientPool(federation.registry.sizes, 0, federation.seed, losses))
    return bool(asked)
