"""Canaries of the private APIs for stacked fits."""

import lightning
import torch
from stacks import Dense
from torch.optim import lr_scheduler
from torchmetrics import MeanMetric
from torchmetrics.aggregation import SumMetric

from fedlit.client.vectorized.lanes import lightning_optimization as internals


def gone(what):
    return f"lightning {lightning.__version__}: {what} is gone or has changed; adapt lightning_optimization.py"


def test_optimizers_and_schedulers_are_read_as_a_trainer_reads_them():
    module = Dense()
    module.configure_optimizers = lambda: {
        "optimizer": (optimizer := torch.optim.SGD(module.parameters(), lr=0.1)),
        "lr_scheduler": {"scheduler": lr_scheduler.StepLR(optimizer, 1), "interval": "step", "frequency": 2},
    }
    (optimizer,), (config,) = internals.make_optimizers(module)
    assert isinstance(optimizer, torch.optim.SGD), gone("_configure_optimizers")
    assert (config.interval, config.frequency, config.reduce_on_plateau) == ("step", 2, False), gone(
        "LRSchedulerConfig"
    )
    module.configure_optimizers = lambda: None
    assert internals.make_optimizers(module) == ([], [])


def test_an_object_stands_for_the_trainer_inside_the_block():
    module, trainer = Dense(), object()
    with internals.attached([module], trainer):
        assert module.trainer is trainer, gone("LightningModule._trainer")
    assert module._trainer is None


def test_the_count_of_a_metric_is_set_and_its_value_is_forgotten():
    metric = MeanMetric()
    metric.update(1.0)
    assert metric.compute() == 1.0
    metric.mean_value = torch.tensor(6.0)
    internals.set_update_count(metric, 3)
    assert metric.update_count == 3, gone("Metric._update_count")
    assert metric.compute() == 6.0, gone("Metric._computed")


def test_a_metric_has_its_value_on_the_last_batch():
    metric = SumMetric()
    assert internals.batch_value(metric) is None
    metric(torch.tensor(2.0))
    metric(torch.tensor(3.0))
    assert internals.batch_value(metric) == 3.0, gone("Metric._forward_cache")


def test_a_running_mean_is_known():
    mean = SumMetric()
    mean.add_state("average", torch.tensor(0.0), dist_reduce_fx="mean")
    assert internals.has_running_mean(mean), gone("Metric._reductions")
    assert not internals.has_running_mean(SumMetric())
