"""MOON's contrastive loss equals a loss computed by hand."""

from threading import Lock

import pytest
import torch
import torch.nn.functional as F
from conftest import holdings, pairs
from lightning.pytorch import LightningModule
from small import ready
from test_composition import assert_equal, client_once
from test_composition import federation as personal_federation
from torch import nn

from fedlit.algorithms import FedAvg, Moon, PersonalLayers
from fedlit.algorithms.algorithm import NoExamples
from fedlit.client.losses.contrastive import model_contrastive_loss
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import LocalTrainer, TrainerConfig
from fedlit.core.errors import ConfigError
from fedlit.core.messages import Shared
from fedlit.core.model import ContrastiveTerm, Model


class Net(LightningModule):
    """A linear layer, dropout and a head."""

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
    replica, data = ModuleReplica(Net(dropout, **more)), holdings(pairs((1.0, 2.0), (0.5, -1.0), (2.0, 0.3)), batch=3)
    models = [Model({k: torch.randn(v.shape) for k, v in replica.read().parameters.items()}, {}) for _ in range(2)]
    return (
        LocalTrainer(replica, TrainerConfig({"accelerator": "cpu"}, steps=3), data, 3, 0, 0),
        replica.read(),
        *models,
        data,
    )


def features(parameters, x):
    return (x @ parameters["body.weight"].T + parameters["body.bias"]).tanh()


def by_hand(start, near, far, x, mu, temperature):
    """Parameters after three steps of gradient descent on both losses."""
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
def test_training_with_a_contrastive_term_is_descent_on_the_papers_loss(more):
    local, start, near, far, data = setting(**more)
    x = next(iter(data.train_batches(0, 0)))[0]
    fit = local.fit(start, ContrastiveTerm(0.7, 0.5, near, far))
    for name, value in by_hand(start, near, far, x, 0.7, 0.5).items():
        assert torch.allclose(fit.model.parameters[name], value, atol=1e-6), name
    assert "training_step" not in vars(local.replica.module)
    plain = local.fit(start)
    assert not torch.allclose(plain.model.parameters["body.weight"], fit.model.parameters["body.weight"], atol=1e-4)


class Skips(Net):
    """A module that skips all batches from the second step on."""

    def training_step(self, batch, batch_idx):
        return None if self.global_step else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")  # the module means it
def test_a_batch_that_the_module_skips_has_no_contrastive_loss():
    local, start, near, far, data = setting()
    term = ContrastiveTerm(0.7, 0.5, near, far)
    skipping = LocalTrainer(ModuleReplica(Skips()), local.trainer_config, data, 3, 0, 0)
    local.trainer_config = TrainerConfig({"accelerator": "cpu"}, steps=1)
    assert skipping.fit(start, term).model.equals(local.fit(start, term).model)


@pytest.mark.parametrize("layer", [None, "body"])
def test_features_that_no_trained_parameter_changes_are_refused(layer):
    local, start, near, far, _ = setting()
    local.replica.module.body.requires_grad_(False)
    local.replica = ModuleReplica(local.replica.module)
    with pytest.raises(ConfigError, match=f"algorithm.layer={layer or 'null'}: gives features that no trained"):
        local.fit(start, ContrastiveTerm(0.7, 0.5, near, far, layer))


class Thaws(Net):
    """A module whose body is frozen in the first epoch."""

    def on_train_epoch_start(self):
        self.body.requires_grad_(self.current_epoch > 0)


def test_features_may_be_frozen_for_some_epochs():
    _, start, near, far, data = setting()
    for steps in (1, 3):
        thawing = LocalTrainer(
            ModuleReplica(Thaws()), TrainerConfig({"accelerator": "cpu"}, steps=steps), data, 3, 0, 0
        )
        contrasted = thawing.fit(start, ContrastiveTerm(0.7, 0.5, near, far)).model
        assert contrasted.equals(thawing.fit(start).model) == (steps == 1)


def test_the_contrastive_loss_draws_no_random_numbers():
    local, start, near, far, _ = setting(dropout=0.5)
    with_0 = local.fit(start, ContrastiveTerm(0.0, 0.5, near, far)).model
    plain = local.fit(start).model
    assert all(torch.equal(value, plain.parameters[name]) for name, value in with_0.parameters.items())


def test_the_features_are_the_output_of_a_named_layer():
    local, start, near, far, _ = setting()
    last = local.fit(start, ContrastiveTerm(0.7, 0.5, near, far)).model
    same = local.fit(start, ContrastiveTerm(0.7, 0.5, near, far, layer="dropout")).model
    other = local.fit(start, ContrastiveTerm(0.7, 0.5, near, far, layer="body")).model
    assert torch.equal(last.parameters["body.weight"], same.parameters["body.weight"])
    assert not torch.equal(last.parameters["body.weight"], other.parameters["body.weight"])


@pytest.mark.parametrize("away", [True, False])
def test_an_unknown_layer_is_an_error_in_the_first_round_too(away):
    local, start, near, far, _ = setting()
    with pytest.raises(ConfigError) as error:
        local.fit(start, ContrastiveTerm(0.7, 0.5, near, far if away else None, layer="heda"))
    assert error.value.key == "algorithm.layer"
    assert "head" in error.value.hint


def test_the_contrastive_loss_equals_the_papers_and_does_not_overflow():
    z, near, far = torch.eye(3), torch.eye(3), -torch.eye(3)
    assert model_contrastive_loss(z, near, far, 0.001).item() == pytest.approx(0.0)
    assert model_contrastive_loss(z, far, near, 0.001).item() == pytest.approx(2000.0)
    assert model_contrastive_loss(z, near, near, 0.5).item() == pytest.approx(0.6931472)


def test_the_client_state_is_the_trained_model_and_the_first_round_has_no_contrast():
    fed, plain = ready(Moon(mu=5.0), dropout=0.5), ready(FedAvg(), dropout=0.5)
    ours, theirs = list(fed.run()), list(plain.run())
    assert ours[0].sha256 == theirs[0].sha256  # no client has a previous model
    assert ours[2].sha256 != theirs[2].sha256
    assert not any(record.failures for record in ours)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"mu": 0.0}, "mu"),
        ({"temperature": -1.0}, "temperature"),
        ({"layer": ""}, "layer"),
        ({"first": "last"}, "first"),
    ],
)
def test_an_error_names_the_argument(arguments, key):
    with pytest.raises(ConfigError) as error:
        Moon(**arguments)
    assert error.value.key == key


@pytest.mark.parametrize("first", ["initial", "none"])
def test_a_client_that_first_trains_in_a_later_round_contrasts_with_the_initial_model(first):
    fed = personal_federation(Moon(mu=2.0, first=first))
    later = {name: tensor + 0.1 for name, tensor in fed.initial.parameters.items()}
    x = Model(later, fed.initial.buffers)
    update = fed.algorithm.client(fed.worker.local_trainer(3, 2, {}), Shared(x), {})
    away = fed.initial if first == "initial" else None
    y = fed.worker.local_trainer(3, 2, {}).fit(x, ContrastiveTerm(2.0, 0.5, x, away)).model
    assert_equal(update.groups["parameters"], {name: tensor - later[name] for name, tensor in y.parameters.items()})
    plain = fed.worker.local_trainer(3, 2, {}).fit(x).model
    assert torch.equal(y.parameters["body.weight"], plain.parameters["body.weight"]) == (first == "none")


def test_the_gradient_towards_and_away_from_one_model_is_0():
    local, start, near, _, _ = setting()
    contrasted = local.fit(start, ContrastiveTerm(5.0, 0.5, near, near)).model
    for name, value in local.fit(start).model.parameters.items():
        assert torch.allclose(contrasted.parameters[name], value, atol=1e-6), name


def test_an_unbound_moon_is_an_error():
    with pytest.raises(ValueError, match="must be bound"):
        Moon().client(NoExamples(), Shared(Model({}, {})), {})


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "bf16-mixed"])
def test_the_copies_have_the_precision_of_the_trainer(precision):
    local, start, near, far, data = setting()
    local.trainer_config = TrainerConfig({"accelerator": "cpu", "precision": precision}, steps=3)
    fit = local.fit(start, ContrastiveTerm(0.7, 0.5, near, far))
    x = next(iter(data.train_batches(0, 0)))[0]
    for name, value in by_hand(start, near, far, x, 0.7, 0.5).items():
        assert torch.allclose(fit.model.parameters[name].float(), value, atol=0.05 if "16" in precision else 1e-6), name


def test_a_module_that_cannot_be_copied_is_an_error():
    local, start, near, far, _ = setting()
    local.replica.module.guard = Lock()
    local.replica = ModuleReplica(local.replica.module)
    with pytest.raises(ConfigError, match="cannot be copied") as error:
        local.fit(start, ContrastiveTerm(0.7, 0.5, near, far))
    assert (error.value.key, error.value.value) == ("model", "Net")
    assert "training_step" not in vars(local.replica.module)


def test_a_module_with_computed_attributes_is_copied():
    local, start, near, far, _ = setting()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(local.replica.module.head)
    local.replica = ModuleReplica(local.replica.module)
    start, near, far = (local.replica.read() for _ in range(3))
    far = Model({name: tensor + 0.5 for name, tensor in far.parameters.items()}, {})
    plain = local.fit(start).model
    contrasted = local.fit(start, ContrastiveTerm(0.7, 0.5, near, far)).model
    assert not torch.equal(contrasted.parameters["body.weight"], plain.parameters["body.weight"])


def test_personal_layers_around_moon_keep_the_layers_and_the_previous_model():
    fed, client_state = personal_federation(PersonalLayers(inner=Moon(mu=2.0))), {}
    x = fed.initial_state().model
    layers, previous = fed.initial, None
    for round in range(3):
        client_state = client_once(fed, round, 2, client_state).client_state
        local, start = fed.worker.local_trainer(round, 2, {}), x.fill_from(layers)
        away = None if previous is None else previous.fill_from(start)
        layers = local.fit(start, ContrastiveTerm(2.0, 0.5, start, away)).model
        previous = Model({name: layers.parameters[name] for name in x.parameters}, {})
        assert set(client_state) == {f"{p}/{g}" for p in ("personal", "before") for g in ("parameters", "buffers")}
        assert_equal(dict(client_state["before/parameters"]), previous.parameters)
        assert_equal(dict(client_state["personal/buffers"]), layers.buffers)
        own = client_state["personal/parameters"]
        assert_equal(dict(own), {name: layers.parameters[name] for name in own})
    plain = personal_federation(PersonalLayers())
    assert not torch.equal(
        layers.parameters["head.weight"], client_once(plain, 2, 2, {}).groups["parameters"]["head.weight"]
    )
