"""The keys of a configuration and their meaning, one row per key.

A row holds for its key and for all keys below it, unless a longer row holds for those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedlit.core.files import flatten


@dataclass(frozen=True, kw_only=True)
class KeyRow:
    """The meaning of one configuration key.

    Args:
        is_group: True for a group of choices, with a folder of its own in `conf/`.
        has_many_choices: True for a group of which a list of choices can be given.
        has_keys: True for a mapping of further keys.
        is_optional: True if a configuration can lack the key.
        can_change: True if a run can be resumed with another value.
        names_job: True if another value is another job of a sweep.
        separates_groups: True if runs with different values are different groups in a report.
        in_fingerprint: True if the fingerprint of a federation holds the value.
    """

    is_group: bool = False
    has_many_choices: bool = False
    has_keys: bool = False
    is_optional: bool = False
    can_change: bool = False
    names_job: bool = True
    separates_groups: bool = True
    in_fingerprint: bool = False


def _group(**row: bool) -> KeyRow:
    return KeyRow(is_group=True, has_keys=True, **row)


TABLE: Mapping[str, KeyRow] = {
    "data": _group(),
    "data.root": KeyRow(separates_groups=False),
    "data.batch_size": KeyRow(in_fingerprint=True),
    "data.drop_last": KeyRow(in_fingerprint=True),
    "partition": _group(in_fingerprint=True),
    "model": _group(),
    "algorithm": _group(in_fingerprint=True),
    "sampler": _group(),
    "schedule": _group(),
    "schedule.rounds": KeyRow(can_change=True),
    "schedule.local_epochs": KeyRow(in_fingerprint=True),
    "schedule.local_steps": KeyRow(in_fingerprint=True),
    "schedule.over_select": KeyRow(in_fingerprint=True),
    "schedule.quorum": KeyRow(in_fingerprint=True),
    "schedule.client_state": KeyRow(in_fingerprint=True),
    "schedule.lr": KeyRow(in_fingerprint=True),
    "schedule.lr_every": KeyRow(in_fingerprint=True),
    "schedule.lr_gamma": KeyRow(in_fingerprint=True),
    "schedule.lr_floor": KeyRow(in_fingerprint=True),
    "trainer": _group(),
    "trainer.accelerator": KeyRow(can_change=True),
    "executor": _group(can_change=True, separates_groups=False),
    "executor.threads": KeyRow(),  # results depend on the number of torch threads
    "executor.group_size": KeyRow(),  # and on the clients that train as one stacked model
    "executor.vectorize": KeyRow(),
    "compression": _group(is_optional=True, in_fingerprint=True),
    "privacy": _group(is_optional=True, in_fingerprint=True),
    "encryption": _group(is_optional=True, in_fingerprint=True),
    "clock": _group(in_fingerprint=True),
    "faults": _group(),
    "faults.max_lost_rounds": KeyRow(can_change=True),
    "faults.server": KeyRow(separates_groups=False),
    "observers": _group(can_change=True, separates_groups=False),
    "loggers": _group(has_many_choices=True, is_optional=True, can_change=True, separates_groups=False),
    "channel": KeyRow(has_keys=True, is_optional=True, in_fingerprint=True),
    "monitor": KeyRow(has_keys=True),
    "eval": KeyRow(has_keys=True),
    "checkpoint": KeyRow(has_keys=True, can_change=True, separates_groups=False),
    "sweep": KeyRow(has_keys=True, can_change=True, names_job=False, separates_groups=False),
    "seed": KeyRow(separates_groups=False, in_fingerprint=True),
    "resume": KeyRow(can_change=True, names_job=False, separates_groups=False),
    "check": KeyRow(can_change=True, names_job=False, separates_groups=False),
    "traceback": KeyRow(can_change=True, names_job=False, separates_groups=False),
}

TOP_KEYS = tuple(key for key in TABLE if "." not in key)
REQUIRED_KEYS = tuple(key for key in TOP_KEYS if not TABLE[key].is_optional)
NESTED_KEYS = tuple(key for key in TOP_KEYS if TABLE[key].has_keys)
GROUPS = tuple(key for key in TOP_KEYS if TABLE[key].is_group)


def row_of(key: str) -> KeyRow:
    """The row for a dotted key; unknown keys have the default row."""
    while key:
        if key in TABLE:
            return TABLE[key]
        key = key.rpartition(".")[0]
    return KeyRow()


def job_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's top keys that name a job of a sweep."""
    return {key: value for key, value in config.items() if row_of(key).names_job}


def fingerprint_keys(group: str) -> Iterator[str]:
    """Yield the names below a group whose values are in the fingerprint."""
    for key, row in TABLE.items():
        if key.startswith(f"{group}.") and row.in_fingerprint:
            yield key.removeprefix(f"{group}.")


def changed_values(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The old and new values of the dotted keys that differ.

    A missing key counts as null, and NaN as equal to NaN.
    """
    flat_old, flat_new = flatten(old), flatten(new)
    pairs = {key: (flat_old.get(key), flat_new.get(key)) for key in {**flat_old, **flat_new}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and set(map(str, pair)) != {"nan"}}
