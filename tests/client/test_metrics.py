import pytest
import torch
from torchmetrics import MeanMetric

from fedlit.client.metrics import MetricAccumulator

TWO, SIX = (torch.zeros(2, 3),), (torch.zeros(6, 3),)


def test_values_are_averaged_by_batch_size():
    log = MetricAccumulator()
    for batch, value in ((TWO, 1.0), (SIX, torch.tensor(5.0))):
        log.start_batch(batch)
        log.log("loss", value, prog_bar=True, on_step=True)
    log.end_epoch()
    assert log.averages() == {"loss": 4.0}
    assert log.callback_metrics["loss"] == torch.tensor(4.0)


def test_an_explicit_batch_size_wins():
    log = MetricAccumulator()
    log.start_batch(TWO)
    log.log("loss", 1.0, batch_size=1)
    log.log("loss", 3.0, batch_size=3)
    log.end_epoch()
    assert log.averages() == {"loss": 2.5}


def test_callback_metrics_are_of_the_last_epoch_and_averages_of_all_epochs():
    log = MetricAccumulator()
    for value in (1.0, 3.0):
        log.start_batch(TWO)
        log.log("loss", value)
        log.end_epoch()
    assert log.callback_metrics["loss"] == 3.0
    assert log.averages() == {"loss": 2.0}


def test_a_torchmetric_is_computed_and_reset_at_the_end_of_an_epoch():
    log, metric = MetricAccumulator(), MeanMetric()
    for value in (1.0, 2.0, 6.0):
        log.start_batch(TWO)
        metric.update(value)
        log.log("mean", metric)
    log.end_epoch()
    assert log.averages() == {"mean": 3.0}
    assert metric.update_count == 0


def test_a_value_logged_between_epochs_is_not_averaged():
    log = MetricAccumulator()
    log.start_batch(TWO)
    log.log("loss", 1.0)
    log.end_epoch()
    log.log("epoch", torch.tensor(9.0))
    assert log.averages() == {"loss": 1.0, "epoch": 9.0}
    assert log.callback_metrics["epoch"] == 9.0


@pytest.mark.parametrize(
    ("reduce_fx", "expected"), [("sum", 8.0), (torch.sum, 8.0), ("max", 5.0), (min, 3.0), ("mean", 4.0)]
)
def test_values_are_reduced_by_reduce_fx(reduce_fx, expected):
    log = MetricAccumulator()
    for value in (3.0, 5.0):
        log.start_batch(TWO)
        log.log("x", value, reduce_fx=reduce_fx)
    log.end_epoch()
    assert log.averages() == {"x": expected}


def test_unsupported_values_and_reductions_are_refused():
    log = MetricAccumulator()
    log.start_batch(TWO)
    with pytest.raises(ValueError, match="reduce_fx must be mean, sum, min or max"):
        log.log("x", 1.0, reduce_fx=lambda x: x)
    with pytest.raises(ValueError, match=r"was given a dictionary; use `self\.log_dict`"):
        log.log("x", {"a": 1.0})


def test_a_logged_loss_keeps_no_graph():
    log = MetricAccumulator()
    log.start_batch(TWO)
    loss = torch.ones(1, requires_grad=True).sum()
    log.log("loss", loss)
    assert not log._values["loss"][0][0].requires_grad


def test_a_later_change_of_a_logged_tensor_does_not_count():
    log, total = MetricAccumulator(), torch.zeros(())
    for _ in range(4):
        log.start_batch(TWO)
        total += 1
        log.log("total", total)
    log.end_epoch()
    assert log.averages() == {"total": 2.5}
