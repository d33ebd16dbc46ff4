"""The record of a round that is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedlit.aggregation.mean import ReductionTree
from fedlit.algorithms.algorithm import Algorithm
from fedlit.core import serialization as wire
from fedlit.core.messages import Model, ServerState
from fedlit.core.tensors import Tensors
from fedlit.runs.record import RoundRecord


def make_record(
    algorithm: Algorithm,
    cohort: Sequence[int],
    tally: ReductionTree,
    state: ServerState,
    more: Mapping[str, float],
    lost: str | None,
) -> RoundRecord:
    """What a round leaves behind.

    Args:
        algorithm: which may have figures of its own.
        cohort: ids of the sampled clients.
        tally: what came through.
        state: after the round.
        more: what else was measured.
        lost: why the model stayed as it was; None if it did not.
    """
    train = {name if name.startswith("train") else f"train/{name}": value for name, value in tally.metrics().items()}
    metrics = getattr(algorithm, "metrics", None)  # a user's own algorithm need not have any
    rest = {
        "clients/trained": len(tally.members),
        "clients/failed": len(tally.failures),
        "clients/steps": tally.steps,
        "comm/up_bytes": tally.up_bytes,
    }
    return RoundRecord(
        state.round,
        tuple(sorted(cohort)),
        {**train, **(metrics(state) if metrics is not None else {}), **more, **rest},
        tuple(tally.failures),
        lost,
        wire.state_sha256({**_under("shared", state.shared), **_under("private", state.private)}),
        algorithm.model(state.shared),
    )


def _under(part: str, tree: Mapping[str, Model | Tensors]) -> dict[str, Model | Tensors]:
    return {f"{part}/{name}": value for name, value in tree.items()}
