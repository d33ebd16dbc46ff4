"""What does not go together is an error, what may not be meant a warning."""

import pytest
from test_build import built

SYNTHETIC = ["data=synthetic", "partition=natural", "model=logistic"]
HOSPITALS = ["data=heart_disease", "model=logistic"]


def warnings(*overrides):
    return [(warning.key, str(warning)) for warning in built(*overrides).warnings]


def test_the_defaults_warn_of_nothing():
    assert warnings() == []
    assert warnings(*HOSPITALS, "partition=natural") == []


@pytest.mark.parametrize(
    ("overrides", "key", "said"),
    [
        (["partition.alpha=0.01", "partition.num_clients=60"], "partition", "have no sample"),
        (["data.val_fraction=0.002"], "data.val_fraction", "without class"),
        (["data.val_fraction=0.0001"], "data.val_fraction", "less than one sample"),
        (["schedule.eval_every=30"], "schedule.eval_every", "only the last round"),
        (
            [*SYNTHETIC, "data.val_samples=0", "data.test_samples=0"],
            "schedule.eval_every",
            "nothing to evaluate on",
        ),
        ([*HOSPITALS, "partition=iid", "partition.num_clients=4"], "partition", "whose test sets for each of its own"),
        (
            [*HOSPITALS, "partition=natural", "data.client_test_fraction=0.2"],
            "data.client_test_fraction",
            "takes the place of the test sets",
        ),
    ],
)
def test_what_may_not_be_meant_is_a_warning(overrides, key, said):
    ((given, text),) = warnings(*overrides)
    assert given == key
    assert said in text


def test_many_evaluations_are_warned_of():
    many = [
        *SYNTHETIC,
        "data.clients=20000",
        "data.samples=4",
        "data.client_test_fraction=0.5",
    ]
    assert [key for key, _ in warnings(*many, "eval.clients=all")] == ["eval.clients"]
    assert warnings(*many, "eval.clients=50") == []
