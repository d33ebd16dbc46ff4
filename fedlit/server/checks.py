"""What the parts of a federation say that they do not go together with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedlit.core.errors import Mistake
from fedlit.core.facts import Facts, rules_of
from fedlit.data import Data
from fedlit.server.sampling.sampler import Sampler

if TYPE_CHECKING:
    from fedlit.server.federation import Federation


def facts(federation: Federation, data: Data) -> Facts:
    """What the parts are told of each other."""
    holdings, labels = federation.worker.holdings, None if data.val is None else data.val.labels()
    are_classes = labels is not None and bool(data.classes) and labels.ndim == 1 and labels.dtype.kind in "iu"
    counts = np.bincount(labels, minlength=len(data.classes)) if are_classes and labels is not None else None
    clients, schedule = len(federation.population), federation.schedule
    most = getattr(federation.sampler, "most", None)  # most samplers draw the schedule's size
    return Facts(
        federation.population.sizes,
        schedule.cohort(clients),
        federation.splits,
        holdings.own_test is not None,
        data.classes,
        counts,
        federation.clock is not None,
        federation.schedule.rounds,
        getattr(federation.executor, "workers", None) is not None,
        getattr(federation.executor, "wall_timeout_s", None),
        schedule.over_select,
        schedule.quorum,
        None if most is None else most(clients),
        type(federation.worker.bench.module).__name__,
        not federation.worker.bench.module.automatic_optimization,
    )


def cross_rules(federation: Federation, data: Data) -> list[Mistake]:
    """What does not go together, as each part says, and warnings of what may not be meant."""
    told = facts(federation, data)
    holdings, recipe, found = federation.worker.holdings, federation.worker.recipe, []
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
        found += rules_of(part, told)
    try:
        speaks(federation.sampler, Sampler, "sampler._target_", type(federation.sampler).__name__)
    except Mistake as mistake:
        found.append(mistake)
    empty = int((told.sizes == 0).sum())
    if empty:
        why = f"{empty} of {len(told.sizes)} clients have no sample: they are sampled, but weigh nothing"
        found.append(Mistake("partition", "", why, "take fewer clients, or partition.min_samples=1", warning=True))
    return found


def speaks(made: Any, protocol: type, key: str, target: Any) -> Any:
    """What was made, if it has the protocol's methods.

    Raises:
        Mistake: if one of them is missing.
    """
    methods = [name for name in vars(protocol) if name == "__call__" or not name.startswith("_")]
    if missing := [name for name in methods if not callable(getattr(made, name, None))]:
        why = f"makes a {type(made).__name__}, which has no {' and no '.join(missing)}"
        raise Mistake(
            key, target, why, f"it needs {', '.join(methods)}: see {protocol.__name__} in fedlit.algorithms.algorithm"
        )
    return made
