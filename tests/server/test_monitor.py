"""The monitor: the best round, and the target."""

import pytest

from fedlit.core.errors import ConfigError
from fedlit.runs.record import RoundRecord
from fedlit.server.monitor import Monitor


def record(**metrics):
    return RoundRecord(number=1, cohort=(), metrics={name.replace("_", "/"): value for name, value in metrics.items()})


def test_the_first_of_equal_rounds_is_the_best():
    monitor = Monitor("val/accuracy", "max")
    assert monitor.is_better(record(val_accuracy=0.5), None)
    assert not monitor.is_better(record(val_accuracy=0.5), record(val_accuracy=0.5))
    assert monitor.is_better(record(val_accuracy=0.6), record(val_accuracy=0.5))


def test_smaller_values_are_better_in_mode_min():
    assert Monitor("val/loss", "min").is_better(record(val_loss=0.4), record(val_loss=0.5))
    assert Monitor("val/loss", "min").has_reached(record(val_loss=0.4), 0.45)
    assert not Monitor("val/loss", "max").has_reached(record(val_loss=0.4), 0.45)


def test_a_round_without_an_evaluation_is_never_the_best():
    assert not Monitor().is_better(record(), None)
    assert not Monitor().has_reached(record(), 0.1)


def test_without_a_validation_split_the_last_round_counts():
    assert Monitor(None).is_better(record(), record())


def test_an_unknown_mode_is_an_error():
    with pytest.raises(ConfigError, match="mode=most"):
        Monitor(mode="most")


@pytest.mark.parametrize("name", ["test/accuracy", "test_nll", "own/accuracy"])
def test_a_test_metric_cannot_be_monitored(name):
    with pytest.raises(ConfigError, match="is a test metric, and test metrics choose nothing"):
        Monitor(name)


def test_a_value_that_is_nan_is_never_the_best():
    assert not Monitor().is_better(record(val_accuracy=float("nan")), None)
    assert not Monitor().is_better(record(val_accuracy=float("nan")), record(val_accuracy=0.1))
