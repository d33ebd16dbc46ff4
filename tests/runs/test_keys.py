"""The table of configuration keys: it is complete, and each view of it has the expected keys."""

from pathlib import Path

import pytest
import yaml
from conftest import composed

from fedlit.core.files import flatten
from fedlit.experiment.config.plain import to_plain
from fedlit.reports.grouping import config_signature
from fedlit.runs.keys import (
    GROUPS,
    NESTED_KEYS,
    REQUIRED_KEYS,
    TABLE,
    TOP_KEYS,
    KeyRow,
    fingerprint_keys,
    job_keys,
    row_of,
)

CONF = Path(__file__).parents[2] / "conf"
NOT_GROUPS = {"experiment", "hparams_search", "debug", "hydra"}
"""Folders of conf/ whose files change keys of other groups, and Hydra's own folder."""

CAN_CHANGE = (
    "schedule.rounds",
    "executor",
    "observers",
    "loggers",
    "checkpoint",
    "sweep",
    "faults.max_lost_rounds",
    "trainer.accelerator",
    "check",
    "traceback",
    "resume",
)
"""Keys that can change when a run is resumed, with all keys below them, without CHANGE_RESULTS."""
CHANGE_RESULTS = ("executor.threads", "executor.group_size", "executor.vectorize")
"""Keys of the executor on which results depend in their last bits."""
NOT_IN_JOB_NAME = ("sweep", "resume", "check", "traceback")
"""Top keys that do not name a job of a sweep."""
SAME_IN_GROUP = (
    "seed",
    "executor",
    "observers",
    "loggers",
    "checkpoint",
    "resume",
    "check",
    "traceback",
    "data.root",
    "faults.server",
    "sweep",
)
"""Keys that can differ within a group of a report, with all keys below them, without CHANGE_RESULTS."""
SCHEDULE_IN_FINGERPRINT = (
    "local_epochs",
    "local_steps",
    "over_select",
    "quorum",
    "client_state",
    "lr",
    "lr_every",
    "lr_gamma",
    "lr_floor",
)
IN_FINGERPRINT = (
    "data.batch_size",
    "data.drop_last",
    "partition",
    "algorithm",
    *(f"schedule.{name}" for name in SCHEDULE_IN_FINGERPRINT),
    "compression",
    "privacy",
    "encryption",
    "clock",
    "channel",
    "seed",
)


LATER = ("compression", "privacy", "encryption", "loggers")
"""Groups that the folders of older runs lack."""


def values_of(path):
    return yaml.safe_load(path.read_bytes()) or {}


def keys_of_conf():
    """Every dotted key of conf/, of all choices of all groups."""
    main = {key: value for key, value in values_of(CONF / "config.yaml").items() if key not in ("defaults", "hydra")}
    keys = set(flatten(main))
    for group in GROUPS:
        for path in (CONF / group).glob("*.yaml"):
            keys |= set(flatten({group: values_of(path)}))
    return keys


def is_below(key, names):
    return any(key == name or key.startswith(f"{name}.") for name in names)


KEYS = sorted(
    {*keys_of_conf(), *TABLE, "executor.threads", "schedule.rounds_more", "checkpoints", "seeds", "unknown.key"}
)


def test_every_folder_of_conf_is_a_group_of_the_table():
    assert {path.name for path in CONF.iterdir() if path.is_dir()} - NOT_GROUPS == set(GROUPS)


def test_every_top_key_of_conf_is_in_the_table():
    main = set(values_of(CONF / "config.yaml")) - {"defaults", "hydra"}
    assert {*main, *GROUPS} == {*REQUIRED_KEYS, *LATER}


def test_every_key_of_the_table_below_a_group_exists_in_conf():
    keys = keys_of_conf()
    for key in TABLE:
        if "." in key:
            assert any(is_below(name, [key]) for name in keys), key


def test_top_keys_are_in_the_expected_order():
    groups = (
        "data",
        "partition",
        "model",
        "algorithm",
        "sampler",
        "schedule",
        "trainer",
        "executor",
        "compression",
        "privacy",
        "encryption",
        "clock",
        "faults",
        "observers",
        "loggers",
    )
    nested = ("monitor", "eval", "checkpoint", "sweep")
    flat = ("seed", "resume", "check", "traceback")
    assert groups == GROUPS
    assert tuple(key for key in (*groups, *nested, *flat) if key not in LATER) == REQUIRED_KEYS
    assert (*groups, "channel", *nested) == NESTED_KEYS
    assert (*groups, "channel", *nested, *flat) == TOP_KEYS


def test_keys_with_values_of_their_own_are_nested():
    main = values_of(CONF / "config.yaml")
    for key in REQUIRED_KEYS:
        assert TABLE[key].has_keys == (key in GROUPS or isinstance(main[key], dict)), key


@pytest.mark.parametrize("key", KEYS)
def test_views_of_a_key_are_as_expected(key):
    row, changes_results = row_of(key), key in CHANGE_RESULTS
    assert row.can_change == (is_below(key, CAN_CHANGE) and not changes_results)
    assert row.names_job == (key.split(".")[0] not in NOT_IN_JOB_NAME)
    assert row.separates_groups == (not is_below(key, SAME_IN_GROUP) or changes_results)
    assert row.in_fingerprint == is_below(key, IN_FINGERPRINT)


def test_fingerprint_has_the_keys_of_the_schedule_in_order():
    assert tuple(fingerprint_keys("schedule")) == SCHEDULE_IN_FINGERPRINT
    assert tuple(fingerprint_keys("data")) == ("batch_size", "drop_last")
    assert tuple(fingerprint_keys("model")) == ()


def test_unknown_key_has_the_row_of_the_key_above_or_the_default_row():
    assert row_of("executor.workers.more") is TABLE["executor"]
    assert row_of("executor.threads.more") is TABLE["executor.threads"]
    assert row_of("unknown.key") == KeyRow()


def test_views_of_a_composed_configuration_are_as_expected():
    config = to_plain(composed("clock=lognormal", "faults=crash_server", "algorithm=fedprox"))
    assert [*job_keys(config)] == [key for key in config if key not in NOT_IN_JOB_NAME]
    flat = flatten(config)
    separating = {key for key in flat if not is_below(key, SAME_IN_GROUP) or key in CHANGE_RESULTS}
    assert {key for key in flat if row_of(key).separates_groups} == separating
    for key in flat:  # a signature changes with the key, or it does not
        is_changed = config_signature({**flat, key: "another value"}) != config_signature(flat)
        assert is_changed == (key in separating), key
