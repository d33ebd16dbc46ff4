"""Personal layers around algorithms that have client state too."""

from dataclasses import replace

import pytest
import torch
from conftest import holdings, pairs
from lightning.pytorch import LightningModule
from torch import nn

import fedlit.algorithms.personalization.partial
from fedlit.algorithms import Ditto, FedAvg, FedRep, Finetune, Momentum, Moon, PersonalLayers, Scaffold
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import LocalTrainer, TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.model import GradientTerm, Model
from fedlit.server.checkpoint.checkpointer import NoCheckpoints
from fedlit.server.sampling import Uniform
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation

ROUNDS = 4


class Net(LightningModule):
    """A body, a normalisation layer and a head."""

    def __init__(self, affine=True):
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(2, 3), nn.BatchNorm1d(3, affine=affine), nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        return (self.head(self.norm(self.body(batch[0])).tanh()).squeeze(1) - batch[0].sum(1)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)


class AllRounds(NoCheckpoints):
    """The server state and the client states of each round, in memory."""

    def __init__(self):
        self.rounds = []

    def commit(self, state, client_states, record):
        self.rounds.append((state, client_states.read(range(3))))


def federation(algorithm, affine=True):
    """A federation of three clients, two of them in a round."""
    torch.manual_seed(0)
    replica = ModuleReplica(Net(affine))
    rows, owner = torch.randn(24, 2).tolist(), [client for client in range(3) for _ in range(4 * client + 4)]
    schedule = Schedule(rounds=ROUNDS, clients_per_round=2, local_epochs=1)
    config = schedule.configure(TrainerConfig({"accelerator": "cpu"}))
    algorithm = algorithm.bind(replica.module, replica.read())
    worker = ClientWorker(algorithm, replica, config, holdings(pairs(*rows), owner, batch=4))
    return Federation.assemble(initial=replica.read(), worker=worker, sampler=Uniform(2), schedule=schedule)


def run(algorithm, affine=True):
    """Run a federation.

    Returns:
        The federation, (server state, client states) of each round, and the records.
    """
    rounds = AllRounds()
    fed = replace(federation(algorithm, affine), checkpointer=rounds)
    records = list(fed.run())
    assert not any(record.failures or record.lost for record in records)
    return fed, rounds.rounds, records


def personal_models(fed, state, client_states):
    """The model that each client would evaluate, by client."""
    models = {}
    for client in range(3):
        own = client_states.get(client, {})
        local = fed.worker.local_trainer(ROUNDS, client, own)
        models[client] = fed.algorithm.personal_model(local, state.shared, own).state_dict()
    return models


def assert_equal(left, right):
    """Assert that two nested mappings of tensors are bit-identical."""
    assert left.keys() == right.keys()
    for key, value in left.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, right[key]), key
        else:
            assert_equal(value, right[key])


def check_union(nested, union, affine=True):
    """Assert that nested wrappers are bit-identical to one wrapper."""
    fed, rounds, records = run(nested, affine)
    other, expected, expected_records = run(union, affine)
    assert [record.sha256 for record in records] == [record.sha256 for record in expected_records]
    for (state, own), (expected_state, expected_own) in zip(rounds, expected, strict=True):
        assert_equal(state.model.state_dict(), expected_state.model.state_dict())
        assert own.keys() == expected_own.keys()
        assert_equal(personal_models(fed, state, own), personal_models(other, expected_state, expected_own))


UNION = {"layers": "norm", "names": ["head.*"]}
INNER = {
    "fedavg": FedAvg(),
    "fedprox": FedAvg(proximal=0.5),
    "momentum": FedAvg(optimizer=Momentum(momentum=0.5)),
    "scaffold": Scaffold(),
    "ditto": Ditto(pull=0.5),
    "moon": Moon(mu=2.0),
    "finetune": Finetune(epochs=2),
}


@pytest.mark.parametrize("name", INNER)
def test_fedbn_around_fedper_equals_one_wrapper_with_all_names(name):
    inner = INNER[name]
    check_union(PersonalLayers(inner=PersonalLayers(inner=inner, layers="last")), PersonalLayers(inner=inner, **UNION))


@pytest.mark.parametrize("name", ["fedavg", "ditto"])
def test_fedper_around_fedbn_equals_one_wrapper_with_all_names(name):
    inner = INNER[name]
    check_union(PersonalLayers(inner=PersonalLayers(inner=inner), layers="last"), PersonalLayers(inner=inner, **UNION))


def test_three_nested_wrappers_equal_one_wrapper_with_all_names():
    nested = PersonalLayers(layers="none", names=["body.bias"])
    nested = PersonalLayers(inner=PersonalLayers(inner=nested, layers="last"))
    check_union(nested, PersonalLayers(layers="norm", names=["head.*", "body.bias"]))


def test_fedbn_around_fedrep_equals_one_fedrep_if_norm_layers_have_no_parameters():
    nested, union = PersonalLayers(inner=FedRep(head_epochs=2)), FedRep(head_epochs=2, names=["norm.*"])
    check_union(nested, union, affine=False)


def test_the_union_test_fails_if_the_inner_part_is_lost(monkeypatch):
    monkeypatch.setattr(fedlit.algorithms.personalization.partial, "nest_inner", lambda client_state: client_state)
    with pytest.raises(AssertionError):
        check_union(PersonalLayers(inner=PersonalLayers(layers="last")), PersonalLayers(**UNION))


def own_parts(fed, state, client_states, client):
    """The model from which a client starts a round, put together by hand."""
    own = client_states.get(client)
    if own is None:
        return state.model.fill_from(fed.initial)
    outer, inner = (
        Model(own[f"{prefix}/parameters"], own[f"{prefix}/buffers"])
        for prefix in ("personal", "personal/inner/personal")
    )
    return inner.fill_from(outer.fill_from(state.model.fill_from(fed.initial)))


def test_the_client_state_holds_both_parts_and_each_round_starts_from_both():
    fed, rounds, records = run(PersonalLayers(inner=PersonalLayers(layers="last")))
    state, own = fed.initial_state(), {}
    for round, (record, (next_state, next_own)) in enumerate(zip(records, rounds, strict=True)):
        for client in record.cohort:
            start = own_parts(fed, state, own, client)
            result = fed.worker.local_trainer(round, client, {}).fit(start).model.state_dict()
            groups = next_own[client]
            assert set(groups["personal/parameters"]) == {"norm.weight", "norm.bias"}
            assert set(groups["personal/buffers"]) == {
                "norm.running_mean",
                "norm.running_var",
                "norm.num_batches_tracked",
            }
            assert set(groups["personal/inner/personal/parameters"]) == {"head.weight", "head.bias"}
            assert len(groups) == 4
            for tensors in groups.values():
                assert_equal({name: result[name] for name in tensors}, dict(tensors))
        state, own = next_state, next_own
    assert any(sum(client in record.cohort for record in records) > 1 for client in range(3))


def client_once(fed, round, client, client_state, calls=None):
    """The update of one client from the initial server state.

    `calls` collects the options of each fit.
    """
    local = fed.worker.local_trainer(round, client, client_state)
    if calls is not None:

        def record_fit(model, *terms, **options):
            calls.append((sorted(options["only"]), options.get("epochs"), options.get("key", 0)))
            return LocalTrainer.fit(local, model, *terms, **options)

        local.fit = record_fit
    return fed.algorithm.client(local, fed.initial_state().shared, client_state)


BODY, NORM, HEAD = (sorted(f"{layer}.{name}" for name in ("bias", "weight")) for layer in ("body", "norm", "head"))


@pytest.mark.parametrize(
    ("algorithm", "head", "body"),
    [
        (PersonalLayers(inner=FedRep(head_epochs=2)), HEAD + NORM, BODY + NORM),
        (FedRep(head_epochs=2, inner=PersonalLayers()), HEAD, BODY + NORM),
        (FedRep(head_epochs=2, layers="last", names=["norm.*"]), HEAD + NORM, BODY),
    ],
    ids=["fedbn around fedrep", "fedrep around fedbn", "one fedrep"],
)
def test_the_outer_personal_layers_train_in_every_fit_of_the_inner_algorithm(algorithm, head, body):
    fed, client_state = federation(algorithm), {}
    model = fed.initial
    for round in range(3):
        calls = []
        client_state = client_once(fed, round, 2, client_state, calls).client_state
        assert calls == [(sorted(head), 2, 1), (sorted(body), None, 0)]
        local = fed.worker.local_trainer(round, 2, {})
        model = Model({**model.parameters, **{name: fed.initial.parameters[name] for name in BODY}}, model.buffers)
        model = local.fit(local.fit(model, only=head, epochs=2, key=1).model, only=body).model
        for tensors in client_state.values():
            assert_equal({name: model.state_dict()[name] for name in tensors}, dict(tensors))
        saved = {name for tensors in client_state.values() for name in tensors}
        assert saved == set(fed.initial.state_dict()) - set(BODY)


def shared_part(fed):
    return fed.initial_state().model


def test_personal_layers_around_ditto_train_in_both_fits():
    fed, client_state = federation(PersonalLayers(inner=Ditto(pull=0.5))), {}
    x = shared_part(fed)
    layers, personal = fed.initial, x
    for round in range(3):
        client_state = client_once(fed, round, 2, client_state).client_state
        local = fed.worker.local_trainer(round, 2, {})
        layers = local.fit(x.fill_from(layers)).model
        layers = local.fit(personal.fill_from(layers), GradientTerm(mu=0.5, center=x.parameters), key=1).model
        names = set(layers.state_dict()) - set(x.state_dict())
        personal = Model({name: layers.parameters[name] for name in x.parameters}, {})
        assert set(client_state) == {f"{p}/{g}" for p in ("personal", "ditto") for g in ("parameters", "buffers")}
        own = {**client_state["personal/parameters"], **client_state["personal/buffers"]}
        assert_equal(own, {name: layers.state_dict()[name] for name in names})
        assert_equal(dict(client_state["ditto/parameters"]), personal.parameters)
