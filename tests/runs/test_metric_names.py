"""The spelling of metric names equals the formulas that records were written with."""

import math

import pytest

from fedlit.runs.metric_names import (
    bare_name,
    bounds,
    counterpart,
    distinct_names,
    is_evaluation,
    join_metrics,
    names_on_split,
    split_of,
    with_split,
)

NAMES = [
    "loss",
    "_loss",
    "loss/inner",
    "val/loss",
    "val_loss",
    "valloss",
    "validation/loss",
    "val/train/loss",
    "test/loss",
    "test_loss",
    "testloss",
    "train/loss",
    "train_loss",
    "accuracy/val",
]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train/loss", "train"),
        ("train_loss", "train"),
        ("val/loss", "val"),
        ("validation/loss", "val"),
        ("test_loss", "test"),
        ("own/loss", "own"),
        ("own_loss", None),
        ("loss", None),
        ("comm/up_bytes", None),
        ("time/round_s", None),
    ],
)
def test_name_belongs_to_the_split_that_it_begins_with(name, split):
    assert split_of(name) == split
    assert is_evaluation(name) == (split in ("val", "test", "own"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["val", "test"])
def test_logged_name_gets_the_split_in_front(name, split):
    if name.startswith(split):
        expected = name
    elif split == "test" and name.startswith(("val_", "val/")):
        expected = f"test{name[3:]}"
    else:
        expected = f"{split}/{name}"
    assert with_split(name, split) == expected


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("test")])
def test_counterparts_of_a_monitored_metric(name):
    test = f"test{name[3:]}" if name.startswith(("val_", "val/")) else f"test/{name}"
    assert counterpart(name, "test") == test
    own = test.removeprefix("test").lstrip("/_")
    assert counterpart(name, "own") == f"own/{own}"
    assert counterpart(test, "own") == f"own/{own}"


@pytest.mark.parametrize("name", NAMES)
def test_metric_of_client_test_sets_has_the_bare_name(name):
    test = with_split(name, "test")
    assert bare_name(test) == test.removeprefix("test").lstrip("/_")
    assert bare_name(f"own/{bare_name(test)}") == bare_name(test)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train/loss", "loss"),
        ("train_loss", "loss"),
        ("val/loss", "loss"),
        ("val_loss", "loss"),
        ("own/loss", "loss"),
        ("loss", "loss"),
        ("value/loss", "value/loss"),
        ("training/loss", "training/loss"),
    ],
)
def test_bare_name_has_no_split(name, expected):
    assert bare_name(name) == expected


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("test/loss", "val", "val/loss"),
        ("test_loss", "val", "val_loss"),
        ("own/loss", "test", "test/loss"),
        ("own/loss", "own", "own/loss"),
        ("val/loss", "val", "val/loss"),
        ("validation/loss", "test", "test/validation/loss"),
        ("train/loss", "test", "test/train/loss"),
    ],
)
def test_counterpart_is_the_same_metric_on_another_split(name, split, expected):
    assert counterpart(name, split) == expected


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("test/accuracy", [0.2, 0.9], (0, 1)),
        ("val_acc", [], (0, 1)),
        ("test/MulticlassF1Score", [0.5], (0, 1)),
        ("test/BinaryAUROC", [1.0], (0, 1)),
        ("test/accuracy", [12.5, 93.0], (0, 100)),
        ("test/accuracy", [0.5, 120.0], (-math.inf, math.inf)),
        ("own/accuracy_gini", [0.1], (0, 1)),
        ("test_loss", [0.5, 3.0], (0, math.inf)),
        ("test/loss", [-2.0, 1.0], (-math.inf, math.inf)),
        ("test/MSE", [7.0], (0, math.inf)),
        ("privacy/clipped_fraction", [0.25], (0, 1)),
        ("privacy/epsilon", [7.5], (0, math.inf)),
        ("privacy/signal_to_noise", [0.01], (0, math.inf)),
        ("comm/ratio", [32.0], (0, math.inf)),
        ("comm/up_bytes", [1e6], (0, math.inf)),
        ("test/glossary", [7.0], (-math.inf, math.inf)),
        ("test/reward", [0.5], (-math.inf, math.inf)),
    ],
)
def test_bounds_of_a_metric_follow_from_its_name_and_contain_its_values(name, values, expected):
    assert bounds(name, values) == expected


@pytest.mark.parametrize(
    ("logged", "split", "expected"),
    [
        (["loss", "acc"], "train", ["train/loss", "train/acc"]),
        (["loss", "train/loss"], "train", ["train/loss_2", "train/loss"]),
        (["loss", "train/loss", "train/loss_2"], "train", ["train/loss_3", "train/loss", "train/loss_2"]),
        (["train_loss", "train/loss"], "train", ["train_loss", "train/loss"]),
        (["loss", "val/loss"], "test", ["test/loss_2", "test/loss"]),
        (
            ["val/loss", "test/loss", "loss", "val_loss"],
            "test",
            ["test/loss_2", "test/loss", "test/loss_3", "test_loss"],
        ),
        ([], "val", []),
    ],
)
def test_two_logged_metrics_never_have_one_name(logged, split, expected):
    names = dict(zip(logged, expected, strict=True))
    assert names_on_split(logged, split) == names_on_split(logged[::-1], split) == names


def test_endings_of_a_name_are_distinct_from_other_names():
    wanted = {"test/loss": "loss", "test_loss": "loss", "test/loss_2": "loss_2", "test/loss_std": "loss_std"}
    names = {"test/loss": "loss", "test_loss": "loss_3", "test/loss_2": "loss_2", "test/loss_std": "loss_std_2"}
    assert distinct_names(wanted, ["", "_std"]) == names


def test_the_last_part_of_a_round_has_the_name_and_no_metric_is_lost():
    parts = {"a": 1.0, "b": 2.0}, {"a": 3.0, "a_2": 4.0}, {"a": 5.0}
    assert join_metrics(*parts) == {"a_3": 1.0, "b": 2.0, "a_4": 3.0, "a_2": 4.0, "a": 5.0}
    assert list(join_metrics({"a": 1.0}, {"b": 2.0}, {"c": 3.0})) == ["a", "b", "c"]
