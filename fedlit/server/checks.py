"""What the parts of a federation say that they do not go together with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts, check_part
from fedlit.data import Data
from fedlit.server.sampling.sampler import Sampler

if TYPE_CHECKING:
    from fedlit.server.federation import Federation


def federation_facts(federation: Federation, data: Data) -> FederationFacts:
    """What the parts are told of each other."""
    holdings, labels = federation.worker.data, None if data.val is None else data.val.labels()
    are_classes = labels is not None and bool(data.classes) and labels.ndim == 1 and labels.dtype.kind in "iu"
    counts = np.bincount(labels, minlength=len(data.classes)) if are_classes and labels is not None else None
    clients, schedule = len(federation.population), federation.schedule
    most = getattr(federation.sampler, "most", None)  # most samplers draw the schedule's size
    return FederationFacts(
        federation.population.sizes,
        schedule.cohort_size(clients),
        federation.splits,
        holdings.client_tests is not None,
        data.classes,
        counts,
        federation.clock is not None,
        federation.schedule.rounds,
        getattr(federation.executor, "workers", None) is not None,
        getattr(federation.executor, "wall_timeout_s", None),
        schedule.over_select,
        schedule.quorum,
        None if most is None else most(clients),
        type(federation.worker.replica.module).__name__,
        not federation.worker.replica.module.automatic_optimization,
    )


def check_compatibility(federation: Federation, data: Data) -> list[ConfigError]:
    """What does not go together, as each part says, and warnings of what may not be meant."""
    told = federation_facts(federation, data)
    holdings, recipe, found = federation.worker.data, federation.worker.trainer_config, []
    parts = (
        federation.schedule,
        holdings.loading,
        federation.evaluations,
        recipe,
        federation.algorithm,
        federation.sampler,
        federation.clock,
        federation.worker.faults,
    )
    for part in parts:
        found += check_part(part, told)
    try:
        require_methods(federation.sampler, Sampler, "sampler._target_", type(federation.sampler).__name__)
    except ConfigError as mistake:
        found.append(mistake)
    empty = int((told.sizes == 0).sum())
    if empty:
        why = f"{empty} of {len(told.sizes)} clients have no sample: they are sampled, but weigh nothing"
        found.append(ConfigError("partition", "", why, "take fewer clients, or partition.min_samples=1", warning=True))
    return found


def require_methods(made: Any, protocol: type, key: str, target: Any) -> Any:
    """What was made, if it has the protocol's methods.

    Raises:
        Mistake: if one of them is missing.
    """
    methods = [name for name in vars(protocol) if name == "__call__" or not name.startswith("_")]
    if missing := [name for name in methods if not callable(getattr(made, name, None))]:
        why = f"makes a {type(made).__name__}, which has no {' and no '.join(missing)}"
        raise ConfigError(
            key, target, why, f"it needs {', '.join(methods)}: see {protocol.__name__} in fedlit.algorithms.algorithm"
        )
    return made
