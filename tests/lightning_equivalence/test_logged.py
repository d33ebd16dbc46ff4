"""What a module logs: the same values as in plain Lightning, in each hook, and in the record."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from equivalence import CLASSES, SIZES, Net, Setting, plain_fit, samples, tensors
from lightning.pytorch import Callback, Trainer
from torch.utils.data import TensorDataset
from torchmetrics import MaxMetric, MeanMetric, MetricCollection, MinMetric, SpearmanCorrCoef, SumMetric
from torchmetrics.classification import (
    BinaryAccuracy,
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)
from torchmetrics.wrappers import MetricTracker, MinMaxMetric, Running

from fedlit.client.evaluation import evaluate_split
from fedlit.core.streams import Purpose, seeded
from fedlit.runs.metric_names import with_split

SEEN = []
"""What each hook saw, as (place, hook, metrics)."""

TRAINING = (
    *("on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_zero_grad"),
    *("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_train_batch_end"),
    *("on_train_epoch_end", "on_train_end", "on_fit_end"),
)
EVALUATION = [
    f"on_{stage}_{hook}"
    for stage in ("validation", "test")
    for hook in ("start", "epoch_start", "batch_start", "batch_end", "epoch_end", "end")
]


def look(place, hook, trainer):
    """Note all values that a Trainer shows."""
    views = {
        "callback": trainer.callback_metrics,
        "logged": trainer.logged_metrics,
        "bar": trainer.progress_bar_metrics,
    }
    SEEN.append(
        (
            place,
            hook,
            {f"{view} {name}": repr(float(v)) for view, values in views.items() for name, v in values.items()},
        )
    )


def watches(base, place, trainer_of):
    """A subclass that looks at the Trainer's metrics in each hook, after the hook's own work."""

    def make(hook):
        def watch(self, *args):
            result = getattr(base, hook)(self, *args)
            look(place, hook, trainer_of(self, args))
            return result

        return watch

    return type(base.__name__, (base,), {hook: make(hook) for hook in (*TRAINING, *EVALUATION) if hasattr(base, hook)})


Watcher = watches(Callback, "callback", lambda _self, args: args[0])


def watched(make):
    """Make modules that look at the metrics in each of their hooks."""

    def build():
        module = make()
        module.__class__ = watches(type(module), "module", lambda self, _args: self.trainer)
        return module

    return build


class Logs(Net):
    """Logs in each step what `values` returns, by name or by (name, arguments of `log`)."""

    def values(self, stage, loss, logits, labels):
        return {}

    def training_step(self, batch, batch_idx):
        return self.log_step("train", batch)

    def validation_step(self, batch, batch_idx):
        self.log_step("val", batch)

    def test_step(self, batch, batch_idx):
        self.log_step("test", batch)

    def log_step(self, stage, batch):
        logits = self(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        for name, value in self.values(stage, loss, logits.detach(), batch[1]).items():
            value, options = value if isinstance(value, tuple) else (value, {})
            self.log(f"{stage}/{name}", value, **options)
        look("module", f"{stage}_step", self.trainer)
        return loss


def logs(values, **methods):
    """A class of modules with these values, and with other methods."""
    return type("Module", (Logs,), {"values": lambda _self, *args: values(*args), **methods})


BOTH, EPOCH, STEP = ({"on_step": s, "on_epoch": e} for s, e in ((True, True), (False, True), (True, False)))


class Template(Logs):
    """The metrics of the lightning-hydra-template: computed again in the module's own hook."""

    def __init__(self):
        super().__init__()
        for stage in ("train", "val", "test"):
            setattr(self, f"{stage}_accuracy", MulticlassAccuracy(CLASSES, average="micro"))
            setattr(self, f"{stage}_loss", MeanMetric())
        self.best, self.train_best = MaxMetric(), MaxMetric()

    def values(self, stage, loss, logits, labels):
        mean, accuracy = getattr(self, f"{stage}_loss"), getattr(self, f"{stage}_accuracy")
        mean(loss.detach())
        accuracy(logits, labels)
        return {"loss": (mean, EPOCH), "accuracy": (accuracy, EPOCH | {"prog_bar": True})}

    def on_validation_epoch_end(self):
        self.best(self.val_accuracy.compute())
        self.log("val/best", self.best.compute(), sync_dist=True, prog_bar=True)

    def on_train_epoch_end(self):
        self.train_best(self.train_accuracy.compute())
        self.log("train/best", self.train_best.compute())
        self.log("train/again", self.trainer.callback_metrics["train/accuracy"] / 2)


class Collections(Logs):
    """Collections with compute groups and with lists of samples."""

    def __init__(self):
        super().__init__()
        options = {"num_classes": CLASSES, "average": "macro"}
        kinds = (MulticlassAccuracy, MulticlassPrecision, MulticlassRecall, MulticlassF1Score)
        metrics = MetricCollection([kind(**options) for kind in kinds])
        lists = MetricCollection({"auroc": MulticlassAUROC(**options), "again": MulticlassAUROC(**options)})
        for stage in ("train", "val", "test"):
            setattr(self, f"{stage}_groups", metrics.clone(prefix=f"{stage}/"))
            setattr(self, f"{stage}_lists", lists.clone(prefix=f"{stage}/list_"))
        self.rank = SpearmanCorrCoef()

    def values(self, stage, loss, logits, labels):
        for part in ("groups", "lists"):
            metrics = getattr(self, f"{stage}_{part}")
            metrics.update(logits.softmax(1), labels)
            self.log_dict(metrics, on_step=False, on_epoch=True)
        self.rank.update(logits[:, 0], logits[:, 1])
        return {"rank": (self.rank, EPOCH)}


class Thresholds(Logs):
    """A collection whose metrics agree on all samples of one client, and torchmetrics then computes them as one."""

    def __init__(self):
        super().__init__()
        self.metrics = MetricCollection({"low": BinaryAccuracy(0.5), "high": BinaryAccuracy(0.9)}, prefix="train/")

    def training_step(self, batch, batch_idx):
        self.metrics.update(batch[0][:, 0], batch[1] > 0)
        self.log_dict(self.metrics, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


def agreeing_samples():
    """Samples whose first input is 0 or 1 for the first client, and between the thresholds for the second one."""
    inputs, labels = samples(sum(SIZES)).tensors
    inputs = inputs.clone()
    inputs[: SIZES[0], 0] = (inputs[: SIZES[0], 0] > 0).float()
    inputs[SIZES[0] :, 0] = 0.7
    return TensorDataset(inputs, labels)


class Tracks(Logs):
    """A tracker, which makes a new metric in each epoch."""

    def __init__(self):
        super().__init__()
        self.tracker = MetricTracker(MulticlassAccuracy(CLASSES, average="micro"))

    def on_train_epoch_start(self):
        self.tracker.increment()

    on_validation_epoch_start = on_test_epoch_start = on_train_epoch_start

    def values(self, stage, loss, logits, labels):
        self.tracker.update(logits, labels)
        return {"best": float(self.tracker.best_metric()), "epochs": float(self.tracker.n_steps)}


class ComputedByHand(Collections):
    """Collections that the module itself computes, logs as numbers and resets."""

    def values(self, stage, loss, logits, labels):
        metrics = getattr(self, f"{stage}_groups")
        return {name.partition("/")[2]: value for name, value in metrics(logits.softmax(1), labels).items()}

    def finish(self, stage):
        metrics = getattr(self, f"{stage}_groups")
        self.log_dict({f"{name}_all": value for name, value in metrics.compute().items()})
        metrics.reset()

    def on_train_epoch_end(self):
        self.finish("train")

    def on_validation_epoch_end(self):
        self.finish("val")

    def on_test_epoch_end(self):
        self.finish("test")


class Metrics(Logs):
    """Metrics as objects: under two names, in steps, wrapped, and logged at the end alone."""

    def __init__(self):
        super().__init__()
        self.mean, self.total, self.low = MeanMetric(), SumMetric(), MinMetric()
        self.range = MinMaxMetric(MeanMetric())
        self.running = Running(SumMetric(), window=2)

    def values(self, stage, loss, logits, labels):
        self.mean(loss.detach())
        self.total(len(labels))
        self.low.update(loss.detach())
        self.running(loss.detach())
        return {
            "mean": (self.mean, BOTH),
            "same": (self.mean, EPOCH),
            "total": (self.total, STEP),
            "running": (self.running, BOTH),
        }

    def on_train_epoch_end(self):
        self.log("train/low", self.low)

    def on_validation_epoch_end(self):
        self.log("val/low", self.low)


class Everywhere(Logs):
    """Logs in many hooks, values that change from epoch to epoch, and what other hooks have logged."""

    def on_train_start(self):
        self.log("start", 1.0)

    def on_train_epoch_start(self):
        self.log("epoch_start", float(self.current_epoch))

    def on_train_batch_start(self, batch, batch_idx):
        self.log("batch_start", float(batch_idx), on_step=True, on_epoch=True, batch_size=1)

    def on_before_optimizer_step(self, optimizer):
        self.log("norm", self.net.weight.grad.norm(), on_epoch=True)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if batch_idx % 2:
            self.log("odd", outputs["loss"], reduce_fx="max", on_epoch=True)

    def on_train_epoch_end(self):
        self.log(f"epoch_{self.current_epoch}", float(self.current_epoch))
        self.log("seen", self.trainer.callback_metrics.get("train/loss", torch.tensor(-1.0)) + 1)

    def values(self, stage, loss, logits, labels):
        return {"loss": (loss, EPOCH)} if stage != "train" or self.current_epoch else {}


class LogsInCallback(Watcher):
    """A callback that logs."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.log("of_callback", outputs["loss"], on_step=True, on_epoch=True)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("val/of_callback", trainer.callback_metrics["val/loss"] * 2)
        super().on_validation_epoch_end(trainer, pl_module)


def reduced(stage, loss, logits, labels):
    reductions = ("min", "max", "sum", "mean", torch.sum, torch.max, "avg")
    return {f"r{i}": (loss, EPOCH | {"reduce_fx": reduction}) for i, reduction in enumerate(reductions)}


def kinds(stage, loss, logits, labels):
    return {
        "float": loss.item(),
        "double": (loss.detach().double(), BOTH),
        "half": (loss.detach().half(), BOTH),
        "one": (loss.detach().reshape(1), BOTH),
        "size": (loss, EPOCH | {"batch_size": 1 + int(labels[0])}),
        "no_logger": (loss, BOTH | {"logger": False, "prog_bar": True}),
        "graph": (loss, EPOCH | {"enable_graph": True}),
    }


CASES = {
    "logged by step": Setting(logs(lambda stage, loss, *_: {"loss": loss}), epochs=2),
    "logged by epoch": Setting(logs(lambda stage, loss, *_: {"loss": (loss, EPOCH)}), epochs=2),
    "logged by step and epoch": Setting(logs(lambda stage, loss, *_: {"loss": (loss, BOTH)}), epochs=2),
    "reductions": Setting(logs(reduced)),
    "kinds of values": Setting(logs(kinds)),
    "metrics computed in the module's own hooks": Setting(Template, epochs=2),
    "collections with compute groups and lists": Setting(Collections, epochs=2),
    "a collection whose groups depend on the data": Setting(Thresholds, data=agreeing_samples()),
    "a tracker": Setting(Tracks, epochs=2),
    "collections computed by the module": Setting(ComputedByHand, epochs=2),
    "metrics under two names": Setting(Metrics, epochs=2),
    "logged in many hooks": Setting(Everywhere, epochs=2),
    "logged by a callback": Setting(
        logs(lambda stage, loss, *_: {"loss": (loss, EPOCH)}), epochs=2, callbacks=lambda: [LogsInCallback()]
    ),
    "accumulated gradients": Setting(Template, {"accumulate_grad_batches": 3}, epochs=2),
    "a number of steps": Setting(Template, steps=7),
}
UNIT = ("logged by step and epoch", "metrics computed in the module's own hooks")


def everything(cases):
    return [pytest.param(name, marks=() if name in UNIT else pytest.mark.slow) for name in cases]


def recorded(metrics):
    """A record's metrics of training."""
    return {name: value for name, value in metrics.items() if name.startswith("train")}


def seen_by(run):
    """What the hooks saw during a run, and its result."""
    SEEN.clear()
    result = run()
    return SEEN.copy(), result


@pytest.mark.parametrize("name", everything(CASES))
@pytest.mark.filterwarnings("ignore:Metric .SpearmanCorrcoef. will save all targets")
def test_training_shows_the_values_of_plain_lightning_in_each_hook(name):
    case = CASES[name]
    setting = replace(case, make=watched(case.make), callbacks=lambda: [*case.callbacks(), Watcher()])
    federation = setting.federation()
    seen, records = seen_by(lambda: list(federation.run()))
    assert [record.failures for record in records] == [(), ()]
    SEEN.clear()
    weights = federation.initial.state_dict()
    for record in records:
        pairs = {}
        for client in record.cohort:
            fit = plain_fit(setting, federation, record.number - 1, client, weights)
            for key, value in fit.trainer.callback_metrics.items():
                pairs.setdefault(with_split(key, "train"), []).append((setting.sizes[client], float(value)))
        means = {key: sum(n * v for n, v in part) / sum(n for n, _ in part) for key, part in pairs.items()}
        training = {key: value for key, value in record.metrics.items() if key.startswith("train")}
        assert training == pytest.approx(means, rel=1e-12)
        weights = record.model.state_dict()
    assert len(seen) > 50
    assert any(metrics for _, _, metrics in seen)
    assert seen == SEEN


@pytest.mark.parametrize("name", everything(CASES))
@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.filterwarnings("ignore:Metric .SpearmanCorrcoef. will save all targets")
def test_an_evaluation_shows_the_values_of_plain_lightning_in_each_hook(name, split):
    case = CASES[name]
    setting = replace(case, make=watched(case.make))
    federation = setting.federation()
    worker, batches = federation.worker, federation.worker.data.train.batches(None, 5)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    module, trainer = watched(case.make)(), Trainer(accelerator="cpu", **quiet)
    with torch.no_grad():
        for key, value in federation.initial.state_dict().items():
            tensors(module)[key].copy_(value)
    for _ in range(2):  # the second evaluation uses the same module
        seen, metrics = seen_by(
            lambda: evaluate_split(
                worker.replica, worker.trainer_config, federation.initial, batches, split, worker.data
            )
        )
    with seeded(1, Purpose.EVALUATION), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, _ = seen_by(
            lambda: (trainer.test if split == "test" else trainer.validate)(module, batches, verbose=False)
        )
    assert len(seen) > 10
    assert seen == plain
    assert metrics == {with_split(key, split): float(value) for key, value in trainer.callback_metrics.items()}
