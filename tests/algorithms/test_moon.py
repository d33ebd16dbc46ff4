"""The contrast of MOON equals one worked out by hand, and leaves no trace in the module."""

import pytest
import torch
import torch.nn.functional as F
from conftest import federation, holdings, pairs
from lightning.pytorch import LightningModule
from torch import nn

from fedlit.algorithms import FedAvg, Moon
from fedlit.client.losses import model_contrastive_loss
from fedlit.client.replica import ModuleReplica
from fedlit.client.trainer import LocalTrainer, TrainerConfig
from fedlit.core.errors import ConfigError
from fedlit.core.model import ContrastiveTerm, Model


class Net(LightningModule):
    """A linear layer, a head, and dropout that must be silent in the frozen copies."""

    def __init__(self, dropout=0.0, dictionary=False):
        super().__init__()
        self.body, self.head, self.dropout = nn.Linear(2, 3), nn.Linear(3, 1), nn.Dropout(dropout)
        self.dictionary = dictionary

    def training_step(self, batch, batch_idx):
        loss = self.head(self.dropout(self.body(batch[0]).tanh())).square().mean()
        self.log("train/loss", loss)
        return {"loss": loss} if self.dictionary else loss

    def validation_step(self, batch, batch_idx): ...

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def setting(dropout=0.0, **more):
    torch.manual_seed(0)
    bench, data = ModuleReplica(Net(dropout, **more)), holdings(pairs((1.0, 2.0), (0.5, -1.0), (2.0, 0.3)), batch=3)
    models = [Model({k: torch.randn(v.shape) for k, v in bench.read().parameters.items()}, {}) for _ in range(2)]
    return (
        LocalTrainer(bench, TrainerConfig({"accelerator": "cpu"}, steps=3), data, 3, 0, 0),
        bench.read(),
        *models,
        data,
    )


def features(parameters, x):
    return (x @ parameters["body.weight"].T + parameters["body.bias"]).tanh()


def by_hand(start, near, far, x, mu, temperature):
    """Three steps of gradient descent on loss + contrast."""
    w = {name: tensor.clone().requires_grad_() for name, tensor in start.parameters.items()}
    for _ in range(3):
        z = features(w, x)
        loss = (z @ w["head.weight"].T + w["head.bias"]).square().mean()
        a, b = (F.cosine_similarity(z, features(m.parameters, x)) / temperature for m in (near, far))
        loss = loss + mu * (-(a.exp() / (a.exp() + b.exp())).log()).mean()
        gradients = torch.autograd.grad(loss, list(w.values()))
        w = {name: (t - 0.1 * g).detach().requires_grad_() for (name, t), g in zip(w.items(), gradients, strict=True)}
    return w


@pytest.mark.parametrize("more", [{}, {"dictionary": True}])
def test_training_with_a_contrast_is_descent_on_the_papers_loss(more):
    local, start, near, far, data = setting(**more)
    x = next(iter(data.train_batches(0, 0)))[0]
    fit = local.fit(start, ContrastiveTerm(0.7, 0.5, near, far))
    for name, value in by_hand(start, near, far, x, 0.7, 0.5).items():
        assert torch.allclose(fit.model.parameters[name], value, atol=1e-6), name
    assert "training_step" not in vars(local.replica.module)
    plain = local.fit(start)
    assert not torch.allclose(plain.model.parameters["body.weight"], fit.model.parameters["body.weight"], atol=1e-4)


def test_neither_the_frozen_copies_nor_the_contrast_draw_random_numbers():
    local, start, near, far, _ = setting(dropout=0.5)
    with_0 = local.fit(start, ContrastiveTerm(0.0, 0.5, near, far)).model
    plain = local.fit(start).model
    assert all(torch.equal(value, plain.parameters[name]) for name, value in with_0.parameters.items())


def test_a_named_layer_gives_its_output():
    local, start, near, far, _ = setting()
    last = local.fit(start, ContrastiveTerm(0.7, 0.5, near, far)).model
    same = local.fit(start, ContrastiveTerm(0.7, 0.5, near, far, layer="dropout")).model
    other = local.fit(start, ContrastiveTerm(0.7, 0.5, near, far, layer="body")).model
    assert torch.equal(last.parameters["body.weight"], same.parameters["body.weight"])
    assert not torch.equal(last.parameters["body.weight"], other.parameters["body.weight"])


@pytest.mark.parametrize("away", [True, False])
def test_a_layer_that_is_not_there_is_a_mistake_in_the_first_round_too(away):
    local, start, near, far, _ = setting()
    with pytest.raises(ConfigError) as error:
        local.fit(start, ContrastiveTerm(0.7, 0.5, near, far if away else None, layer="heda"))
    assert error.value.key == "algorithm.layer"
    assert "head" in error.value.hint


def test_the_contrast_is_that_of_the_paper_and_holds_where_exponentials_do_not():
    z, near, far = torch.eye(3), torch.eye(3), -torch.eye(3)
    assert model_contrastive_loss(z, near, far, 0.001).item() == pytest.approx(0.0)
    assert model_contrastive_loss(z, far, near, 0.001).item() == pytest.approx(2000.0)
    assert model_contrastive_loss(z, near, near, 0.5).item() == pytest.approx(0.6931472)


def test_a_client_remembers_what_it_trained_and_starts_without_a_contrast():
    fed = federation(algorithm=Moon(mu=5.0), norm="batch")
    plain = federation(algorithm=FedAvg(), norm="batch")
    ours, theirs = list(fed.run()), list(plain.run())
    assert ours[0].sha256 == theirs[0].sha256  # nobody has taken part before
    assert ours[2].sha256 != theirs[2].sha256
    assert not any(record.failures for record in ours)


@pytest.mark.parametrize(
    ("arguments", "key"), [({"mu": 0.0}, "mu"), ({"temperature": -1.0}, "temperature"), ({"layer": ""}, "layer")]
)
def test_wrong_values_are_named(arguments, key):
    with pytest.raises(ConfigError) as error:
        Moon(**arguments)
    assert error.value.key == key
