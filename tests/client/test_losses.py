"""The loss that an algorithm or a sampler asks of a client, and its gradient."""

import pytest
import torch
from conftest import holdings, pairs
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn

from fedlit.algorithms import QFedAvg
from fedlit.client.losses.weights import loss_weight
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import LocalTrainer, TrainerConfig
from fedlit.core.errors import ConfigError

ROWS = [(float(i % 3), float(i)) for i in range(15)]  # a batch of ten and one of five
START = 2.0


def batch_loss(w, rows):
    return sum((w - b) ** 2 + a for a, b in rows) / len(rows)


MEAN = batch_loss(START, ROWS)
SLOPE = sum(2 * (START - b) for _, b in ROWS) / len(ROWS)


class Asked(LightningModule):
    """The loss is the mean of (w - b)^2 + a over samples (a, b)."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(START))
        self.drop = nn.Dropout(0.5)

    def loss(self, batch):
        return ((self.w - batch[0][:, 1]) ** 2 + self.drop(batch[0][:, 0])).mean()

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def configure_optimizers(self):
        sgd = torch.optim.SGD(self.parameters(), lr=0.1)
        return [sgd], [torch.optim.lr_scheduler.StepLR(sgd, 1)]


class Optimizers(Asked):
    def training_step(self, batch, batch_idx):
        self.log("lr", self.optimizers().param_groups[0]["lr"] + self.lr_schedulers().get_last_lr()[0])
        return {"loss": self.loss(batch), "more": 1}


class InTraining(Asked):
    def training_step(self, batch, batch_idx):
        assert self.trainer.training
        if not self.training:
            assert (self.current_epoch, self.global_step, self.trainer.num_training_batches) == (0, 0, 2)
        self.log("epoch", float(self.current_epoch + self.global_step), on_epoch=True)
        assert self.trainer.callback_metrics.keys() <= {"epoch", "epoch_step", "epoch_epoch"}
        return self.loss(batch)


class Hooks(Asked):
    """Needs the hooks before a step, and changes its weights after one."""

    def on_fit_start(self):
        self.half = 0.5

    def on_train_epoch_start(self):
        self.train()
        self.other_half = 0.5

    def on_train_batch_start(self, batch, batch_idx):
        self.number = batch_idx

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] * 1, batch[1]]

    def training_step(self, batch, batch_idx):
        assert self.number == batch_idx
        return self.loss(batch) * self.half + self.loss(batch) * self.other_half

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            self.w += 100


class ConfiguresBySteps(Asked):
    """Has a schedule over all steps of a fit, and a callback that monitors what it logs."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        sgd = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, 0.1, int(self.trainer.estimated_stepping_batches))
        return [sgd], [{"scheduler": schedule, "interval": "step"}]

    def configure_callbacks(self):
        return [EarlyStopping("loss", check_on_train_epoch_end=True)]


def local(module, rows=ROWS, wrap=lambda samples: samples, **options):
    data = holdings(wrap(pairs(*rows)), batch=4)
    config = TrainerConfig({"accelerator": "cpu", **options}, epochs=3)
    return LocalTrainer(ModuleReplica(module), config, data, len(rows), 0, 0)


def ask(module, **more):
    trainer = local(module, **more)
    return trainer.loss(trainer.replica.read())


@pytest.mark.parametrize("make", [Asked, Optimizers, InTraining, Hooks, ConfiguresBySteps])
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3, "limit_train_batches": 1}])
def test_a_loss_is_asked_of_any_module_that_a_fit_takes(make, options):
    trainer = local(make(), **options)
    model = trainer.replica.read()
    assert trainer.loss(model) == pytest.approx(MEAN, rel=1e-6)
    assert trainer.gradient(model)["w"].item() == pytest.approx(SLOPE, rel=1e-6)
    assert trainer.replica.module.drop.training
    assert trainer.fit(model).steps > 0


def test_a_batch_without_a_loss_does_not_count():
    class Skips(Asked):
        def training_step(self, batch, batch_idx):
            return self.loss(batch) if batch_idx else None

    assert ask(Skips()) == pytest.approx(batch_loss(START, ROWS[10:]), rel=1e-6)

    class Silent(Asked):
        def training_step(self, batch, batch_idx): ...

    with pytest.raises(ConfigError, match="returns None from training_step for each batch of a client"):
        ask(Silent())


class Collated:
    """Samples, or batches of them, whose batches pass through a function."""

    def __init__(self, inner, collate):
        self.inner, self.collate = inner, collate

    def __len__(self):
        return len(self.inner)

    def __iter__(self):
        return (self.collate(x, y) for x, y in self.inner)

    def batches(self, *args, **more):
        return Collated(self.inner.batches(*args, **more), self.collate)


class Sums(Asked):
    """Reads the inputs of batches in any form, and logs with a batch size if it is given one."""

    def __init__(self, read, log=None):
        super().__init__()
        self.read, self.log_size = read, log

    def training_step(self, batch, batch_idx):
        inputs = self.read(batch)
        loss = self.loss((inputs,))
        if self.log_size is not None:
            self.log("count", 1.0, batch_size=99)
            self.log("loss", loss, batch_size=self.log_size(inputs))
        return loss


FORMS = {
    "images": (lambda x, y: (list(x.repeat(1, 3).view(-1, 3, 2)), y), lambda batch: torch.stack(batch[0])[:, 0]),
    "sequences": (lambda x, y: (x.expand(7, -1, -1), y), lambda batch: batch[0][0]),
    "text": (lambda x, y: {"rows": x.tolist()}, lambda batch: torch.tensor(batch["rows"])),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_counts_as_its_samples_and_the_user_is_told_where_lightnings_rule_does_not_decide(form):
    collate, read = FORMS[form]
    with pytest.warns(UserWarning, match=r"counts the batch as the (10|5) samples that were loaded; self.log"):
        loss = ask(Sums(read), wrap=lambda samples: Collated(samples, collate))
    assert loss == pytest.approx(MEAN, rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_batch_size_with_which_the_loss_is_logged_decides(form):
    collate, read = FORMS[form]
    loss = ask(Sums(read, len), wrap=lambda samples: Collated(samples, collate))
    assert loss == pytest.approx(MEAN, rel=1e-6)
    loss = ask(Sums(read, lambda rows: 1), wrap=lambda samples: Collated(samples, collate))
    assert loss == pytest.approx((batch_loss(START, ROWS[:10]) + batch_loss(START, ROWS[10:])) / 2, rel=1e-6)


def test_the_weight_of_a_batch():
    loss, batch = torch.tensor(0.5), (torch.zeros(4, 2), torch.zeros(4), "name")
    assert loss_weight(batch, loss, [], 9) == 4
    assert loss_weight(batch, loss, [(torch.tensor(3.0), 7)], 9) == 7
    assert loss_weight(batch, loss, [(torch.tensor(3.0), 7), (torch.tensor([0.5]), 5)], 9) == 5
    with pytest.warns(UserWarning, match="different values of batch_size for the values of one batch: 5, 7"):
        assert loss_weight(batch, loss, [(torch.tensor(3.0), 7), (torch.tensor(1.0), 5)], 9) == 9
    with pytest.warns(UserWarning, match="the tensors of a batch have different lengths: 2, 4"):
        assert loss_weight((*batch, torch.zeros(2)), loss, [], 9) == 9
    with pytest.warns(UserWarning, match="a batch has no tensor"):
        assert loss_weight(["a"], loss, [], 9) == 9


def test_q_fedavg_uses_the_loss_by_samples():
    collate, read = FORMS["sequences"]
    trainer = local(Sums(read, len), wrap=lambda samples: Collated(samples, collate))
    algorithm, model = QFedAvg(q=1.0, lr=0.1), trainer.replica.read()
    update = algorithm.client(trainer, algorithm.init(model).shared, {})
    step = update.groups["parameters"]["w"] / (trainer.results[0].model.parameters["w"] - model.parameters["w"])
    assert step.item() == pytest.approx(MEAN / 0.1, rel=1e-4)
