"""What cannot train as a stack is refused before round 1, with the reason and the line."""

from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from small import federation
from stacks import CLASSES, Dense, ragged, with_executor
from torch.optim import LBFGS, lr_scheduler
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from fedlit.core.errors import ConfigErrors
from fedlit.executors import Vectorized

pytestmark = pytest.mark.slow


def refusal(module=None, **setting):
    """The text of the errors of a federation before its first round."""
    fed = with_executor(ragged(module, **setting), Vectorized(4))
    with pytest.raises(ConfigErrors) as error:
        next(fed.run())
    assert [str(one) for one in fed.executor.check_worker(fed.worker)] == [str(one) for one in error.value.errors]
    return str(error.value)


class ReadsValue(Dense):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.seen = loss.item()
        return loss


class Branches(Dense):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if loss > 0 else 2 * loss


class DataDependentShape(Dense):
    def training_step(self, batch, batch_idx):
        chosen = batch[0][batch[1] == 0]
        return super().training_step(batch, batch_idx) + chosen.sum()


class Macro(Dense):
    def __init__(self):
        super().__init__()
        self.accuracy = MulticlassAccuracy(CLASSES)


class AllPredictions(Metric):
    def __init__(self):
        super().__init__()
        self.add_state("predictions", [], dist_reduce_fx="cat")

    def update(self, predictions):
        self.predictions.append(predictions)

    def compute(self):
        return torch.cat(self.predictions).mean()


class KeepsPredictions(Dense):
    def __init__(self):
        super().__init__()
        self.all = AllPredictions()

    def training_step(self, batch, batch_idx):
        self.all.update(self(batch[0]))
        self.log("mean", self.all, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


class Manual(Dense):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class HasHook(Dense):
    def on_train_batch_start(self, batch, batch_idx):
        pass


class Counts(Dense):
    seen = 0

    def training_step(self, batch, batch_idx):
        self.seen += 1
        return super().training_step(batch, batch_idx)


class Collects(Dense):
    def __init__(self):
        super().__init__()
        self.outputs = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.outputs.append(loss.detach())
        return loss


class SharedTensor(Dense):
    def __init__(self):
        super().__init__()
        self.average = torch.zeros(())

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.average.mul_(0.9).add_(loss.detach())
        return loss


class SkipsBatches(Dense):
    def training_step(self, batch, batch_idx):
        return None


class AsksTrainer(Dense):
    def training_step(self, batch, batch_idx):
        self.trainer.strategy.barrier()
        return super().training_step(batch, batch_idx)


class Plateau(Dense):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        plateau = lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": plateau, "monitor": "loss"}


class OwnStep(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * parameter.grad / parameter.grad.norm()


CASES = {
    "item": (ReadsValue, "reads the value of a tensor", "loss.item()"),
    "branch": (Branches, "reads the value of a tensor", "return loss if loss > 0"),
    "shape": (DataDependentShape, "has a tensor whose shape depends on the data", "batch[1] == 0"),
    "metric of classes": (Macro, "has a tensor whose shape depends on the data", "self.accuracy("),
    "metric of predictions": (KeepsPredictions, "keeps all predictions", "has the metric all"),
    "manual": (Manual, "uses manual optimization", ""),
    "hook": (HasHook, "has a hook on_train_batch_start (test_stack_refusals.py:", "several clients at once"),
    "counter": (Counts, "changes self.seen in training_step", ""),
    "list": (Collects, "changes self.outputs in training_step", ""),
    "shared tensor": (SharedTensor, "changes a tensor in place that all clients of a stack share", "self.average.mul_"),
    "none": (SkipsBatches, "returns NoneType as the loss of training_step", ""),
    "trainer": (AsksTrainer, "uses trainer.strategy", ""),
    "plateau": (Plateau, "follows a metric", "ReduceLROnPlateau"),
    "lbfgs": (partial(Dense, LBFGS), "does not work element by element", "LBFGS"),
    "own step": (partial(Dense, partial(OwnStep, lr=0.1)), "does not work element by element", "OwnStep"),
    "no optimizer": (partial(Dense, lambda parameters: None), "has no optimizer", ""),
}


@pytest.mark.parametrize(("module", "reason", "line"), CASES.values(), ids=CASES)
def test_a_module_is_refused_with_the_reason_and_the_line(module, reason, line):
    text = refusal(module)
    assert reason in text
    assert line in text
    assert "executor=processes" in text


def test_callbacks_and_precisions_are_refused():
    assert "trainer.callbacks=EarlyStopping" in refusal(callbacks=lambda: [EarlyStopping("loss")])
    assert "trainer.precision=bf16-mixed" in refusal(options={"precision": "bf16-mixed"})


def test_all_static_errors_come_together():
    text = refusal(HasHook, options={"precision": "bf16-mixed"}, callbacks=lambda: [EarlyStopping("loss")])
    assert all(word in text for word in ("on_train_batch_start", "bf16-mixed", "EarlyStopping"))


def test_our_own_models_are_accepted():
    fed = federation(norm="group")
    assert fed.executor.check_worker(fed.worker) == []
    assert Vectorized().check_worker(fed.worker) == []


def test_the_trial_leaves_no_trace():
    fed = ragged()
    before = fed.worker.replica.read()
    Vectorized().check_worker(fed.worker)
    expected = [record.sha256 for record in ragged().run()]
    assert fed.initial.equals(before)
    assert [record.sha256 for record in fed.run()] == expected
