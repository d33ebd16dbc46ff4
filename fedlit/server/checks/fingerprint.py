"""The fingerprint of an experiment, which its checkpoints must agree with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from fedlit.core.serialization import layout_sha256, named_paths, shared_tree, state_tree
from fedlit.runs.keys import fingerprint_keys
from fedlit.server.federation import FederationParts


def fingerprint(federation: FederationParts) -> dict[str, Any]:
    """Plain values that identify an experiment, by name.

    Two federations with the same fingerprint can resume each other's rounds. It holds the number of rounds only for a cosine
    schedule, whose rates depend on it. It does not see the model's code.
    """
    registry, schedule, loading = federation.registry, federation.schedule, federation.loading
    channel = federation.channel
    state, clients = federation.initial_state(), len(registry)
    shared = sum(tensor.numel() for _, tensor in named_paths(shared_tree(state)))
    values = {
        "seed": registry.seed,
        "partition": f"{clients:,} clients, sha256 {registry.partition_sha256[:16]}",
        "layout": f"{shared:,} numbers, sha256 {layout_sha256(state_tree(state))[:16]}",
        **{f"loading.{name}": getattr(loading, name) for name in fingerprint_keys("data")},
        "schedule.cohort": schedule.cohort_size(clients),
        **{f"schedule.{name}": getattr(schedule, name) for name in fingerprint_keys("schedule")},
        **dict(_plain("algorithm", federation.algorithm)),
        **dict(_plain("clock", federation.clock)),
        **dict(_plain("channel.codec", channel.codec)),
        **({"channel.error_feedback": True} if channel.error_feedback else {}),
        **(dict(_plain("channel.down", channel.down)) if channel.down else {}),
        **dict(_plain("aggregator", federation.aggregator)),
    }
    for stage in channel.stages:
        values |= dict(_plain(f"channel.{stage.name}", stage))
    if federation.trainer_config.privacy is not None:
        values |= dict(_plain("privacy", federation.trainer_config.privacy))
    return values | ({"schedule.rounds": schedule.rounds} if schedule.lr == "cosine" else {})


def _plain(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield plain values by name.

    A value that is not plain becomes its type's name and its parts: the fields of a dataclass, the items of a mapping.
    """
    if value is None or isinstance(value, bool | int | float | str):
        yield key, value
        return
    yield key, type(value).__name__
    if isinstance(value, Mapping):
        parts = dict(value)
    else:
        parts = {field.name: getattr(value, field.name) for field in (fields(value) if is_dataclass(value) else ())}
    for name, part in parts.items():
        yield from _plain(f"{key}.{name}", part)
