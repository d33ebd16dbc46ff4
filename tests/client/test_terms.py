"""A real Trainer equals a loop written by hand.

The loop has terms after accumulation and before clipping, two parameter groups, a module's own scheduler under learning rates
that change over rounds, and BatchNorm.
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import holdings, pairs
from lightning.pytorch import LightningModule
from torch import nn

from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import LocalTrainer, TrainerConfig
from fedlit.core.errors import ConfigError
from fedlit.core.model import ContrastiveTerm, GradientTerm

ROUND, EPOCHS, LR, RATE = 2, 2, 0.1, 0.5


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.head(self.norm(self.body(batch[0]))), batch[0][:, :1] - batch[0][:, 1:])

    def validation_step(self, batch, batch_idx): ...

    def configure_optimizers(self):
        groups = [
            {"params": [*self.body.parameters(), *self.norm.parameters()], "momentum": 0.9},
            {"params": self.head.parameters(), "lr": 3 * LR, "momentum": 0.0},
        ]
        optimizer = torch.optim.SGD(groups, lr=LR)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}


def make_setting():
    torch.manual_seed(3)
    data = holdings(pairs(*torch.randn(20, 2).tolist()), batch=5)
    replica = ModuleReplica(Net())
    start = replica.read()
    torch.manual_seed(4)
    terms = [
        GradientTerm(mu=0.3, center={name: torch.randn(t.shape) for name, t in start.parameters.items()}),
        GradientTerm(offset={name: 0.1 * torch.randn(t.shape) for name, t in start.parameters.items()}),
    ]
    return replica, data, start, terms


def local(replica, data, **options):
    config = TrainerConfig({"accelerator": "cpu", **options}, epochs=EPOCHS, lr_factor=lambda round: RATE**round)
    return LocalTrainer(replica, config, data, 20, ROUND, 0)


@pytest.mark.parametrize("clip", [None, 0.3])
def test_a_fit_with_all_features_equals_the_loop_by_hand(clip):
    replica, data, start, terms = make_setting()
    fit = local(replica, data, accumulate_grad_batches=2, gradient_clip_val=clip).fit(start, *terms)

    module = Net()
    module.load_state_dict(start.state_dict())
    named = dict(module.named_parameters())
    rate, momentum = dict.fromkeys(named, LR), dict.fromkeys(named, 0.9)
    rate |= {"head.weight": 3 * LR, "head.bias": 3 * LR}
    momentum |= {"head.weight": 0.0, "head.bias": 0.0}
    velocity = {name: torch.zeros_like(p) for name, p in named.items()}
    steps, order = 0, data.train_batches(ROUND, 0)
    for epoch in range(EPOCHS):
        for number, batch in enumerate(order):
            (module.training_step(batch, 0) / 2).backward()
            if number % 2 == 0:
                continue
            g = {name: p.grad for name, p in named.items()}
            for name, p in named.items():
                g[name] = g[name] + terms[0].mu * (p.detach() - terms[0].center[name]) + terms[1].offset[name]
            norm = sum(float(t.square().sum()) for t in g.values()) ** 0.5
            for name, p in named.items():
                step = g[name] * min(1.0, clip / norm) if clip else g[name]
                velocity[name] = momentum[name] * velocity[name] + step
                p.data -= rate[name] * RATE**ROUND * 0.7**epoch * velocity[name]
                p.grad = None
            steps += 1
    assert fit.steps == steps == 4
    for name, value in module.state_dict().items():
        assert torch.allclose(fit.model.state_dict()[name].double(), value.double(), atol=1e-6), name


def test_only_the_selected_names_are_trained_and_the_next_fit_trains_all():
    replica, data, start, terms = make_setting()
    trainer = local(replica, data)
    selected = trainer.fit(start, *terms, only={"head.weight"}, epochs=1).model
    assert [
        name for name in start.parameters if not torch.equal(start.parameters[name], selected.parameters[name])
    ] == ["head.weight"]
    all_trained = trainer.fit(start).model
    assert not any(torch.equal(start.parameters[name], all_trained.parameters[name]) for name in start.parameters)
    assert [fit.steps for fit in trainer.results] == [4, 8]


def test_a_fit_with_another_key_has_its_own_random_numbers_and_does_not_log():
    replica, data, start, _ = make_setting()
    first, same, other = (local(replica, data).fit(start, key=key).model for key in (0, 0, 1))
    assert torch.equal(first.parameters["body.weight"], same.parameters["body.weight"])
    assert not torch.equal(first.parameters["body.weight"], other.parameters["body.weight"])
    trainer = local(replica, data)
    assert trainer.fit(start, key=1).metrics == trainer.fit(start).metrics == {}  # this module logs nothing
    trainer = LocalTrainer(replica, TrainerConfig({"accelerator": "cpu"}, keep_optimizer=True), data, 20, ROUND, 0)
    with pytest.raises(ConfigError) as error:
        trainer.fit(start, key=1)
    assert (error.value.key, error.value.value) == ("schedule.client_state", "keep")


def test_a_step_budget_covers_all_fits_of_a_round():
    replica, data, start, _ = make_setting()
    config = TrainerConfig({"accelerator": "cpu"}, epochs=2)
    trainer = LocalTrainer(replica, config, data, 20, ROUND, 0, step_budget=5)
    assert [trainer.fit(start, epochs=1).steps, trainer.fit(start, key=1).steps, trainer.fit(start, key=2).steps] == [
        4,
        1,
        0,
    ]


def test_the_gradient_is_of_the_loss_over_the_whole_shard_in_eval_mode():
    replica, data, start, _ = make_setting()
    trainer = local(replica, data)
    gradients = trainer.gradient(start)
    module = Net().eval()
    module.load_state_dict(start.state_dict())
    inputs = torch.cat([batch[0] for batch in data.shard_batches(0)])
    loss = module.training_step((inputs,), 0)
    for (name, p), gradient in zip(
        module.named_parameters(), torch.autograd.grad(loss, list(module.parameters())), strict=True
    ):
        assert torch.allclose(gradients[name], gradient, atol=1e-6), (name, p)
    assert trainer.loss(start) == pytest.approx(float(loss.detach()), abs=1e-6)
    assert all(torch.equal(value, replica.read().buffers[name]) for name, value in start.buffers.items())


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_the_gradient_has_the_dtypes_of_the_model_in_every_precision(precision):
    replica, data, start, _ = make_setting()
    exact = local(replica, data).gradient(start)
    config = TrainerConfig({"accelerator": "cpu", "precision": precision})
    gradient = LocalTrainer(replica, config, data, 20, ROUND, 0).gradient(start)
    for name, tensor in gradient.items():
        assert tensor.dtype == start.parameters[name].dtype
        assert torch.allclose(tensor, exact[name], atol=0.05 if precision == "bf16-true" else 1e-6), name


def test_the_gradient_of_an_empty_shard_is_0():
    replica, data, start, _ = make_setting()
    empty = LocalTrainer(replica, TrainerConfig({"accelerator": "cpu"}), data, 0, 0, 0)
    assert all(not t.any() and t.shape == start.parameters[name].shape for name, t in empty.gradient(start).items())


def test_a_training_step_may_leave_batch_idx_out(monkeypatch):
    plain = Net.training_step
    monkeypatch.setattr(Net, "training_step", lambda self, batch: plain(self, batch, 0))
    replica, data, start, _ = make_setting()
    assert local(replica, data).loss(start) > 0
    before = local(replica, data).fit(start).model
    contrast = ContrastiveTerm(0.5, 0.5, start, before)
    assert not torch.equal(
        local(replica, data).fit(start, contrast).model.parameters["body.weight"], before.parameters["body.weight"]
    )
