"""What is wrong with a configuration beyond single values: what does not go together, or not on this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fedlit.data import Data
from fedlit.facts import Facts
from fedlit.federation import Federation
from fedlit.local import evaluate
from fedlit.mistakes import Mistake, nearest


def facts(federation: Federation, data: Data) -> Facts:
    """What the parts are told of each other."""
    holdings, labels = federation.worker.holdings, None if data.val is None else data.val.labels()
    known = labels is not None and bool(data.classes)
    counts = np.bincount(labels, minlength=len(data.classes)) if known and labels is not None else None
    size = federation.schedule.cohort(len(federation.population))
    return Facts(
        federation.population.sizes, size, federation.splits, holdings.own_test is not None, data.classes, counts
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
    )
    for part in parts:
        check = getattr(part, "check", None)  # a user's own algorithm need not have rules
        found += list(check(told)) if check is not None else []
    empty = int((told.sizes == 0).sum())
    if empty:
        why = f"{empty} of {len(told.sizes)} clients have no sample: they are sampled, but weigh nothing"
        found.append(Mistake("partition", "", why, "take fewer clients, or partition.min_samples=1", warning=True))
    return found


def more_clients_than_samples(partition: Any, data: Data) -> list[Mistake]:
    """Asked before the partition is made, which would fail."""
    clients = getattr(partition, "num_clients", None)  # a natural partition has none
    if clients is None or clients <= len(data.train):
        return []
    left = f"is more than the {len(data.train)} samples of {data.name} that are left for training"
    return [Mistake("partition.num_clients", clients, left, "take fewer clients")]


def checked_trial(federation: Federation, data: Data) -> list[Mistake]:
    """Trains one batch of the largest shard and evaluates one, and lets the result go: does the model take the data, can its
    optimizer take the federation's terms, and does it log what the monitor asks for?"""
    worker, scores = federation.worker, {}
    client = int(federation.population.sizes.argmax())
    local = worker.local(0, client, {})
    trial = replace(local, recipe=replace(local.recipe, epochs=1, steps=1))
    try:
        federation.algorithm.client(trial, federation.algorithm.init(federation.initial).shared, {})
        for split in federation.splits[:1]:
            batches = worker.holdings.splits[split].batches(np.zeros(2, dtype=np.int64), 2)
            scores = evaluate(worker.bench, worker.recipe, federation.initial, batches, split, federation.seed)
    except Mistake as mistake:
        return [mistake]
    except Exception as error:  # foreign code: the user's module on the user's data
        on = f"a batch of {data.name} (inputs {list(data.shape)}, {len(data.classes)} classes)"
        why = f"fails on {on}: {type(error).__name__}: {error}"
        remedy = "make its input shape and classes the data's; traceback=true shows where"
        return [Mistake("model", type(worker.bench.module).__name__, why.splitlines()[0], remedy)]
    if worker.recipe.keep and trial.fits and not trial.kept:
        why = "has nothing to keep: the client's optimizer has no state"
        return [Mistake("schedule.client_state", "keep", why, "take reset, or an optimizer with momentum")]
    name = federation.monitor.name
    if name is not None and name not in scores:
        logged = f"is not what the model logs in validation: {', '.join(scores) or 'nothing'}"
        return [Mistake("monitor.name", name, logged, nearest(name, scores))]
    return []
