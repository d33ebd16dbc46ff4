import pytest

from fedlit.core.errors import ConfigError
from fedlit.core.model import Model
from fedlit.runs.record import RoundRecord
from fedlit.server.monitor import Monitor


def record(**metrics):
    return RoundRecord(
        1, (), {name.replace("_", "/"): value for name, value in metrics.items()}, (), False, "", Model({}, {})
    )


def test_the_first_of_equal_rounds_is_the_best():
    monitor = Monitor("val/accuracy", "max")
    assert monitor.is_better(record(val_accuracy=0.5), None)
    assert not monitor.is_better(record(val_accuracy=0.5), record(val_accuracy=0.5))
    assert monitor.is_better(record(val_accuracy=0.6), record(val_accuracy=0.5))


def test_the_way_can_be_down():
    assert Monitor("val/loss", "min").is_better(record(val_loss=0.4), record(val_loss=0.5))
    assert Monitor("val/loss", "min").has_reached(record(val_loss=0.4), 0.45)
    assert not Monitor("val/loss", "max").has_reached(record(val_loss=0.4), 0.45)


def test_a_round_that_was_not_evaluated_is_no_candidate():
    assert not Monitor().is_better(record(), None)
    assert not Monitor().has_reached(record(), 0.1)


def test_without_a_validation_split_the_last_round_counts():
    assert Monitor(None).is_better(record(), record())


def test_another_mode_is_a_mistake():
    with pytest.raises(ConfigError, match="mode=most"):
        Monitor(mode="most")


@pytest.mark.parametrize("name", ["test/accuracy", "test_nll", "own/accuracy"])
def test_what_is_measured_on_test_samples_chooses_nothing(name):
    with pytest.raises(ConfigError, match="test samples, which choose nothing"):
        Monitor(name)


def test_what_is_no_number_is_never_the_best():
    assert not Monitor().is_better(record(val_accuracy=float("nan")), None)
    assert not Monitor().is_better(record(val_accuracy=float("nan")), record(val_accuracy=0.1))
