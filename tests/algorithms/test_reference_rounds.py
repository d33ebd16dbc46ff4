"""FedPer, FedBN, FedRep and MOON equal plain PyTorch loops that are written from the papers' algorithms."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import holdings, pairs
from lightning.pytorch import LightningModule
from quadratics import mutated
from test_composition import AllRounds
from torch import nn

from fedlit.algorithms import FedRep, Moon, PersonalLayers
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.server.sampling import Uniform
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation

pytestmark = pytest.mark.slow  # each trains a federation

CLIENTS, ROUNDS, EPOCHS, HEAD_EPOCHS, MU, TEMPERATURE = 3, 4, 2, 3, 2.0, 0.5
SIZES = (4, 8, 12)
HEAD, NORM = {"head.weight", "head.bias"}, {"norm.weight", "norm.bias"}
BODY = {"body.weight", "body.bias"}


class Net(LightningModule):
    """A body, perhaps a normalisation layer, and a head."""

    def __init__(self, norm):
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(2, 3), nn.BatchNorm1d(3) if norm else nn.Identity(), nn.Linear(3, 1)

    def features(self, x):
        return self.norm(self.body(x)).tanh()

    def training_step(self, batch, batch_idx):
        return (self.head(self.features(batch[0])).squeeze(1) - batch[0].sum(1)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)


def rows():
    torch.manual_seed(1)
    return torch.randn(sum(SIZES), 2)


def trained(algorithm, norm):
    """Train the federation: two of three clients in a round, each epoch one batch.

    Returns:
        The federation, (server state, client states) of each round, and the cohorts.
    """
    torch.manual_seed(0)
    replica = ModuleReplica(Net(norm))
    owner = [client for client, size in enumerate(SIZES) for _ in range(size)]
    schedule = Schedule(rounds=ROUNDS, clients_per_round=2, local_epochs=EPOCHS)
    worker = ClientWorker(
        algorithm.bind(replica.module, replica.read()),
        replica,
        schedule.configure(TrainerConfig({"accelerator": "cpu"})),
        holdings(pairs(*rows().tolist()), owner, batch=max(SIZES)),
    )
    rounds = AllRounds()
    fed = Federation.assemble(initial=replica.read(), worker=worker, sampler=Uniform(2), schedule=schedule)
    fed = replace(fed, checkpointer=rounds)
    records = list(fed.run())
    return fed, rounds.rounds, [record.cohort for record in records]


def descend(net, x, names, epochs, extra=None):
    """Full-batch steps on the parameters with these names."""
    optimizer = torch.optim.SGD([p for name, p in net.named_parameters() if name in names], lr=0.1, momentum=0.5)
    for _ in range(epochs):
        loss = net.training_step((x,), 0) + (0 if extra is None else extra(net))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def fedper(net, x, history):
    """Arivazhagan et al. 2019, Algorithm 1: the client trains all layers."""
    descend(net, x, BODY | NORM | HEAD, EPOCHS)


def fedrep(net, x, history):
    """Collins et al. 2021, Algorithm 1: steps of the head with the body frozen, then steps of the body."""
    descend(net, x, HEAD, HEAD_EPOCHS)
    descend(net, x, BODY, EPOCHS)


def moon(net, x, history):
    """Li et al. 2021, Algorithm 1 and equation (3): near the received model, far from the client's previous one."""
    received, previous = deepcopy(net), history

    def contrast(net):
        z = net.features(x)
        near, far = (
            torch.exp(F.cosine_similarity(z, model.features(x).detach()) / TEMPERATURE)
            for model in (received, previous)
        )
        return -MU * torch.log(near / (near + far)).mean()

    descend(net, x, BODY | HEAD, EPOCHS, contrast)


CASES = {
    "fedper": (PersonalLayers(layers="last"), fedper, HEAD, False),
    "fedbn": (PersonalLayers(layers="norm"), fedper, NORM | {"norm.running_mean", "norm.running_var"}, True),
    "fedrep": (FedRep(head_epochs=HEAD_EPOCHS), fedrep, HEAD, False),
    "moon": (Moon(mu=MU, temperature=TEMPERATURE), moon, set(), False),
}
"""The algorithm, a client's rule in plain PyTorch, the names that stay with each client, and whether there is a norm layer."""


def by_hand(rule, personal, norm, cohorts):
    """Run the rounds in plain PyTorch.

    Returns:
        The shared part of the model, and each client's own part.
    """
    torch.manual_seed(0)
    initial = Net(norm)
    shared = {name: value.clone() for name, value in initial.state_dict().items() if name not in personal}
    own, before, data = {}, {}, rows().split(SIZES)
    for cohort in cohorts:
        total, mean = sum(SIZES[client] for client in cohort), dict.fromkeys(shared, 0)
        for client in cohort:
            net = deepcopy(initial)
            net.load_state_dict({**initial.state_dict(), **shared, **own.get(client, {})})
            rule(net, data[client], before.get(client, initial))
            state = {name: value.clone() for name, value in net.state_dict().items()}
            own[client], before[client] = {name: state[name] for name in personal}, net
            mean = {name: mean[name] + SIZES[client] / total * state[name] for name in shared}
        shared = mean
    return shared, own


def check(name, algorithm=None):
    usual, rule, personal, norm = CASES[name]
    fed, rounds, cohorts = trained(algorithm or usual, norm)
    shared, own = by_hand(rule, personal, norm, cohorts)
    state, client_states = rounds[-1]
    for key, value in state.model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.allclose(value, shared[key], atol=1e-5), key
    for client, tensors in own.items():
        local = fed.worker.local_trainer(ROUNDS, client, client_states[client])
        model = fed.algorithm.personal_model(local, state.shared, client_states[client]).state_dict()
        for key, value in tensors.items():
            assert torch.allclose(model[key], value, atol=1e-5), (client, key)


@pytest.mark.parametrize("name", CASES)
def test_four_rounds_equal_plain_pytorch(name):
    check(name)


ERRORS = {
    "moon: twice the weight": ("moon", ("ContrastiveTerm(self.mu,", "ContrastiveTerm(2 * self.mu,")),
    "moon: no previous model": ("moon", ("if y.steps else client_state", "if not y.steps else client_state")),
    "fedrep: the head with the body's epochs": ("fedrep", ("epochs=self.head_epochs, key", "key")),
    "fedrep: the body from the old head": ("fedrep", ("self.local.fit(head.model,", "self.local.fit(full,")),
}


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_an_algorithm_fails(error):
    name, change = ERRORS[error]
    if name == "moon":
        algorithm = mutated("fedlit.algorithms.moon", change).Moon(mu=MU, temperature=TEMPERATURE)
    else:
        algorithm = mutated("fedlit.algorithms.personalization.fedrep", change).FedRep(head_epochs=HEAD_EPOCHS)
    with pytest.raises(AssertionError):
        check(name, algorithm)


@pytest.mark.parametrize("name", ["fedper", "fedbn", "fedrep"])
def test_another_personal_part_fails(name):
    algorithm = PersonalLayers(layers="none", names=["body.bias"])
    with pytest.raises((AssertionError, KeyError)):
        check(name, algorithm)
