import pytest

from fedlit.core.errors import Mistake
from fedlit.core.messages import Model
from fedlit.runs.record import Round
from fedlit.server.monitor import Monitor


def record(**metrics):
    return Round(
        1, (), {name.replace("_", "/"): value for name, value in metrics.items()}, (), False, "", Model({}, {})
    )


def test_the_first_of_equal_rounds_is_the_best():
    monitor = Monitor("val/accuracy", "max")
    assert monitor.improves(record(val_accuracy=0.5), None)
    assert not monitor.improves(record(val_accuracy=0.5), record(val_accuracy=0.5))
    assert monitor.improves(record(val_accuracy=0.6), record(val_accuracy=0.5))


def test_the_way_can_be_down():
    assert Monitor("val/loss", "min").improves(record(val_loss=0.4), record(val_loss=0.5))
    assert Monitor("val/loss", "min").reached(record(val_loss=0.4), 0.45)
    assert not Monitor("val/loss", "max").reached(record(val_loss=0.4), 0.45)


def test_a_round_that_was_not_evaluated_is_no_candidate():
    assert not Monitor().improves(record(), None)
    assert not Monitor().reached(record(), 0.1)


def test_without_a_validation_split_the_last_round_counts():
    assert Monitor(None).improves(record(), record())


def test_another_mode_is_a_mistake():
    with pytest.raises(Mistake, match="mode=most"):
        Monitor(mode="most")


@pytest.mark.parametrize("name", ["test/accuracy", "test_nll", "own/accuracy"])
def test_what_is_measured_on_test_samples_chooses_nothing(name):
    with pytest.raises(Mistake, match="test samples, which choose nothing"):
        Monitor(name)


def test_what_is_no_number_is_never_the_best():
    assert not Monitor().improves(record(val_accuracy=float("nan")), None)
    assert not Monitor().improves(record(val_accuracy=float("nan")), record(val_accuracy=0.1))
