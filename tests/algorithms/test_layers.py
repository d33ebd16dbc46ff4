"""The last layer has all of its names, and what cannot be split is refused."""

from dataclasses import replace

import pytest
import torch
from conftest import holdings, pairs
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.utils import parametrizations

from fedlit.algorithms import FedAvg, FedRep, PersonalLayers
from fedlit.algorithms.layers import last_layer, norm_layers
from fedlit.client.losses.contrastive import capture_features
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import LocalTrainer, TrainerConfig
from fedlit.core.errors import ConfigError
from fedlit.core.model import ContrastiveTerm, Model


class Net(LightningModule):
    """A body, a head, and further parts."""

    def __init__(self, head, **parts):
        super().__init__()
        self.body, self.head = nn.Linear(2, 3), head
        for name, part in parts.items():
            setattr(self, name, part)

    def training_step(self, batch, batch_idx):
        return self.head(self.body(batch[0]).tanh()).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Scaled(nn.Module):
    """A head with its weights in a list."""

    def __init__(self):
        super().__init__()
        self.bias, self.weights = nn.Parameter(torch.zeros(1)), nn.ParameterList([torch.randn(1, 3)])

    def forward(self, x):
        return x @ self.weights[0].T + self.bias


class Tied(LightningModule):
    """A head whose weight is that of the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(3, 5)
        self.head.weight = self.embedding.weight


def old_weight_norm(layer):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


def bound(algorithm, module):
    return algorithm.bind(module, ModuleReplica(module).read())


LIST = "parametrizations.weight"
HEADS = {
    "linear": (lambda: Net(nn.Linear(3, 1)), ["bias", "weight"]),
    "weight norm": (
        lambda: Net(parametrizations.weight_norm(nn.Linear(3, 1))),
        ["bias", f"{LIST}.original0", f"{LIST}.original1"],
    ),
    "spectral norm": (
        lambda: Net(parametrizations.spectral_norm(nn.Linear(3, 1))),
        ["bias", f"{LIST}.0._u", f"{LIST}.0._v", f"{LIST}.original"],
    ),
    "weight norm of old": (lambda: Net(old_weight_norm(nn.Linear(3, 1))), ["bias", "weight_g", "weight_v"]),
    "spectral norm of old": (
        lambda: Net(nn.utils.spectral_norm(nn.Linear(3, 1))),
        ["bias", "weight_orig", "weight_u", "weight_v"],
    ),
    "norm without parameters behind": (
        lambda: Net(nn.Linear(3, 1), norm=nn.BatchNorm1d(1, affine=False), identity=nn.Identity()),
        ["bias", "weight"],
    ),
    "list of parameters": (lambda: Net(Scaled()), ["bias", "weights.0"]),
    "attention": (
        lambda: Net(nn.MultiheadAttention(3, 1)),
        ["in_proj_bias", "in_proj_weight", "out_proj.bias", "out_proj.weight"],
    ),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("algorithm", [PersonalLayers(layers="last"), FedRep()], ids=["fedper", "fedrep"])
def test_the_last_layer_has_all_of_its_names(algorithm, name):
    make, names = HEADS[name]
    module = make()
    assert last_layer(module) == ("head", module.head)
    assert sorted(bound(algorithm, module).personal_names) == [f"head.{own}" for own in names]


def test_a_layer_that_is_registered_twice_is_one_layer():
    norm = nn.BatchNorm1d(3)
    module = Net(nn.Linear(3, 1), norm=norm)
    module.again, module.classifier = norm, module.head
    assert norm_layers(module) == ["norm", "again"]
    fedbn = bound(PersonalLayers(), module)
    assert {name.partition(".")[0] for name in fedbn.personal_names} == {"norm"}
    module = Net(nn.Linear(3, 1))
    module.classifier = module.head
    assert bound(PersonalLayers(layers="last"), module).personal_names == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        (PersonalLayers(layers="last"), "layers"),
        (FedRep(), "layers"),
        (PersonalLayers(layers="none", names=["head.*"]), "names"),
        (PersonalLayers(layers="none", names=["embedding.*"]), "names"),
    ],
)
def test_a_tied_head_cannot_be_split(algorithm, key):
    with pytest.raises(ConfigError) as error:
        bound(algorithm, Tied())
    assert error.value.key == key
    assert {"head.weight", "embedding.weight"} <= set(error.value.problem.replace(",", "").split())


@pytest.mark.parametrize(
    "algorithm",
    [
        PersonalLayers(layers="last", names=["embedding.*"]),
        PersonalLayers(layers="none", names=["embedding.*", "head.*"]),
    ],
)
def test_a_tied_head_stays_with_each_client_together_with_the_embedding(algorithm):
    assert bound(algorithm, Tied()).personal_names == {"embedding.weight", "head.bias"}


def test_an_inner_algorithm_may_take_the_rest_of_a_tied_head():
    inner = PersonalLayers(layers="none", names=["head.*"])
    outer = bound(PersonalLayers(inner=inner, layers="none", names=["embedding.weight", "head.weight"]), Tied())
    assert (outer.personal_names, outer.inner.personal_names) == ({"embedding.weight"}, {"head.bias"})


class Own(LightningModule):
    """A module whose parameters are in no layer."""

    def __init__(self, kind):
        super().__init__()
        self.w = nn.ParameterList([torch.zeros(2, 1)]) if kind == "list" else nn.Parameter(torch.zeros(2, 1))

    def training_step(self, batch, batch_idx):
        return batch[0].sum()


@pytest.mark.parametrize("kind", ["list", "parameter"])
def test_parameters_in_no_layer_are_refused(kind):
    module = Own(kind)
    assert last_layer(module) == ("", module)
    with pytest.raises(ConfigError, match="needs a layer"):
        bound(PersonalLayers(layers="last"), module)
    with pytest.raises(ConfigError, match="are in no layer") as error:
        capture_features(module, None)
    assert error.value.key == "algorithm.layer"


@pytest.mark.parametrize("algorithm", [PersonalLayers(layers="last"), FedRep()])
def test_a_last_layer_that_is_not_trained_is_refused(algorithm):
    module = Net(nn.Linear(3, 1), teacher=nn.Linear(3, 1).requires_grad_(False))
    with pytest.raises(ConfigError, match="layers=last: is teacher, whose parameters are not trained"):
        bound(algorithm, module)
    named = replace(algorithm, layers="none", names=["head.*"])
    assert bound(named, module).personal_names == {"head.weight", "head.bias"}


@pytest.mark.parametrize("algorithm", [PersonalLayers(layers="last"), FedRep(), FedRep(layers="none", names=["*"])])
def test_a_split_that_leaves_nothing_to_share_is_refused(algorithm):
    module = Net(nn.Identity())
    with pytest.raises(ConfigError, match="leaves no parameter of Net to share"):
        bound(algorithm, module)
    assert bound(PersonalLayers(FedAvg(), "all"), module).personal_names == {"body.weight", "body.bias"}


def contrast(module):
    """The update of one step with MOON's loss."""
    replica = ModuleReplica(module)
    start = replica.read()
    far = Model({name: tensor + 0.5 for name, tensor in start.parameters.items()}, start.buffers)
    data = holdings(pairs((1.0, 2.0), (0.5, -1.0), (2.0, 0.3)), batch=3)
    local = LocalTrainer(replica, TrainerConfig({"accelerator": "cpu"}, steps=1), data, 3, 0, 0)
    fit = local.fit(start, ContrastiveTerm(0.7, 0.5, start, far))
    return {name: tensor - start.parameters[name] for name, tensor in fit.model.parameters.items()}


class Named(nn.Linear):
    """A linear head that takes its input by name."""

    def forward(self, *, features):
        return super().forward(features)


class ByName(Net):
    """A module that gives its head the input by name."""

    def training_step(self, batch, batch_idx):
        return self.head(features=self.body(batch[0]).tanh()).square().mean()


def test_moon_takes_the_input_of_a_parametrised_head_and_of_one_that_takes_it_by_name():
    def made(kind, head):
        torch.manual_seed(0)
        module = kind(nn.Linear(3, 1))
        weights = {name: tensor.clone() for name, tensor in module.head.state_dict().items()}
        module.head = head()
        module.head.load_state_dict(weights)
        return module

    plain = contrast(made(Net, lambda: nn.Linear(3, 1)))
    for name, value in contrast(made(ByName, lambda: Named(3, 1))).items():
        assert torch.equal(value, plain[name]), name
    normed = made(Net, lambda: nn.Linear(3, 1))
    parametrizations.weight_norm(normed.head)
    moved = contrast(normed)
    assert torch.allclose(moved["body.weight"], plain["body.weight"], atol=1e-6)
    assert torch.allclose(moved["head.bias"], plain["head.bias"], atol=1e-6)
