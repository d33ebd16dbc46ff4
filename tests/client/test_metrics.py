import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from small import holdings, pairs
from torch import nn
from torch.optim import lr_scheduler

from fedlit.client.evaluation import evaluate_split
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import LocalTrainer, TrainerConfig

VALUES = (4.0, 2.0, 3.0, 1.0, 5.0)  # of five samples, in batches of two


class Logs(LightningModule):
    """Logs the mean of a batch's inputs."""

    def __init__(self, monitor=None, **options):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.monitor, self.options = monitor, options

    def training_step(self, batch, batch_idx):
        self.log("mean", batch[0][:, 0].mean(), **self.options)
        return self.w.sum()

    def validation_step(self, batch, batch_idx):
        self.log("mean", batch[0][:, 0].mean(), **self.options)

    def configure_optimizers(self):
        sgd = torch.optim.SGD(self.parameters(), lr=1.0)
        plateau = lr_scheduler.ReduceLROnPlateau(sgd, factor=0.1, patience=0, threshold=1.0)
        return [sgd] if self.monitor is None else ([sgd], [{"scheduler": plateau, "monitor": self.monitor}])


def shard():
    """A client's data, and its samples in order as batches of two."""
    data = holdings(pairs(*[(value, 0.0) for value in VALUES]), batch=2)
    return data, data.train.batches(None, 2)


def local(module, epochs=1, callbacks=list):
    data, _ = shard()
    return LocalTrainer(ModuleReplica(module), TrainerConfig({"accelerator": "cpu"}, callbacks, epochs), data, 5, 0, 0)


def fit(module, **work):
    trainer = local(module, **work)
    return trainer.fit(trainer.replica.read())


def evaluate(module, split="val"):
    replica, (data, batches) = ModuleReplica(module), shard()
    return evaluate_split(replica, TrainerConfig({"accelerator": "cpu"}), replica.read(), batches, split, data)


def last_batch():
    """The mean of the last batch that a client trains on, which is a single sample."""
    data, _ = shard()
    return list(data.train_batches(0, 0))[-1][0][:, 0].mean().item()


def test_a_value_logged_by_step_alone_is_that_of_the_last_batch():
    assert fit(Logs()).metrics == {"mean": last_batch()}


def test_a_value_logged_by_epoch_is_the_mean_over_the_samples_of_the_last_epoch():
    class Epochs(Logs):
        def training_step(self, batch, batch_idx):
            self.log("mean", batch[0][:, 0].mean() + self.current_epoch, on_step=False, on_epoch=True)
            return self.w.sum()

    assert fit(Epochs(), epochs=3).metrics == {"mean": pytest.approx(3 + 2)}


def test_a_value_logged_by_step_and_epoch_has_three_names():
    metrics = fit(Logs(on_step=True, on_epoch=True)).metrics
    assert metrics == {"mean": pytest.approx(3), "mean_step": last_batch(), "mean_epoch": pytest.approx(3)}
    assert evaluate(Logs(on_step=True, on_epoch=True)) == {"val/mean": 3.0, "val/mean_epoch": 3.0}


@pytest.mark.parametrize("monitor", ["mean", "mean_epoch", "mean_step"])
def test_schedulers_and_callbacks_may_monitor_each_of_the_names(monitor):
    stop = EarlyStopping(monitor, patience=1, min_delta=9.0, check_on_train_epoch_end=True)
    result = fit(Logs(monitor, on_step=True, on_epoch=True), epochs=9, callbacks=lambda: [stop])
    assert result.steps == 2 * 3
    assert result.model.parameters["w"].item() == pytest.approx(-3 * (1 + 0.1))
    result = fit(Logs(monitor, on_step=True, on_epoch=True), epochs=3)
    assert result.model.parameters["w"].item() == pytest.approx(-3 * (1 + 0.1 + 0.01))


def test_callback_metrics_are_filled_within_an_epoch_and_an_evaluation():
    class Reads(Logs):
        seen = ()

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.seen = (*self.seen, self.trainer.callback_metrics["mean"].item())

        def on_train_epoch_end(self):
            self.log("number", float(len(self.seen)))
            self.log("last", self.seen[-1])

        def on_validation_epoch_end(self):
            self.log("twice", 2 * self.trainer.callback_metrics["mean"])

    assert fit(Reads()).metrics == {"mean": last_batch(), "number": 3, "last": last_batch()}
    assert evaluate(Reads()) == {"val/mean": 3.0, "val/twice": 6.0}


def test_an_explicit_batch_size_is_the_weight():
    class Weighs(Logs):
        def validation_step(self, batch, batch_idx):
            self.log("mean", float(batch_idx), batch_size=(1, 0, 3)[batch_idx])

    assert evaluate(Weighs()) == {"val/mean": 6 / 4}


def test_a_metric_that_is_not_one_number_is_refused():
    class Vector(nn.Module):
        pass

    class LogsVector(Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            trainer.callback_metrics["confusion"] = torch.zeros(2, 2)

    class HasCallback(Logs):
        def configure_callbacks(self):
            return [LogsVector()]

    with pytest.raises(ValueError, match=r"the metric confusion has shape \(2, 2\)"):
        evaluate(HasCallback())
