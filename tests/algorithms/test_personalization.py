"""Personal layers and fine-tuning: personal parts stay with each client."""

from dataclasses import replace

import pytest
import torch
from conftest import federation as images
from small import ready, with_own

from fedlit.algorithms import Centralised, Ditto, FedAvg, FedNova, FedRep, Finetune, Momentum, PersonalLayers, Scaffold
from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import TrainJob
from fedlit.server.checkpoint.checkpointer import NoCheckpoints
from fedlit.server.client_store import ClientStateStore
from fedlit.server.evaluation import Evaluations
from fedlit.server.sampling import Uniform


class LastRound(NoCheckpoints):
    """The last round, in memory."""

    def commit(self, state, client_states, record):
        self.state, self.store, self.record = state, client_states, record


def run(algorithm, **setting):
    """Run a federation of images.

    Returns:
        The federation, its last round, and the records.
    """
    last = LastRound()
    fed = replace(ready(algorithm, **setting), checkpointer=last)
    records = list(fed.run())
    assert not any(record.failures for record in records)
    return fed, last, records


NORM = {"network.features.1", "network.features.5"}


@pytest.mark.parametrize(
    ("algorithm", "layers"),
    [
        (PersonalLayers(), NORM),
        (PersonalLayers(layers="last"), {"network.classifier.4"}),
        (
            PersonalLayers(layers="none", names=["network.classifier.*"]),
            {"network.classifier.1", "network.classifier.4"},
        ),
        (FedRep(head_epochs=1), {"network.classifier.4"}),
    ],
)
def test_personal_layers_are_neither_sent_nor_averaged(algorithm, layers):
    fed, last, records = run(algorithm)
    personal = {name for name in fed.initial.state_dict() if name.rpartition(".")[0] in layers}
    assert personal == fed.algorithm.personal_names
    shared = set(last.state.model.state_dict())
    assert shared == set(fed.initial.state_dict()) - personal
    for name, value in fed.algorithm.model(last.state.shared).state_dict().items():
        assert torch.equal(value, fed.initial.state_dict()[name]) == (name in personal), name
    participants = {client for record in records for client in record.cohort}
    client_states = last.store.read(range(4))
    assert set(client_states) == participants
    own = [client_states[client]["personal/parameters"] for client in sorted(participants)]
    assert all(set(tensors) == {name for name in personal if name in fed.initial.parameters} for tensors in own)
    assert not all(torch.equal(own[0][name], own[1][name]) for name in own[0])  # each client has its own
    whole = next(iter(images(norm="batch", dropout=0.0).run())).metrics
    assert records[0].metrics["comm/up_bytes"] < whole["comm/up_bytes"]
    assert records[0].metrics["comm/down_bytes"] < whole["comm/down_bytes"]


def test_a_client_continues_from_its_own_layers_and_is_evaluated_with_them():
    fed, last, _ = run(PersonalLayers(layers="last"), cohort=4, rounds=2)
    client_state = last.store.read([1])[1]
    local = fed.worker.local_trainer(2, 1, client_state)
    model = fed.algorithm.personal_model(local, last.state.shared, client_state)
    for name, value in model.state_dict().items():
        expected = client_state["personal/parameters"].get(name, last.state.model.state_dict().get(name))
        assert torch.equal(value, expected), name
    personal, bias = fed.algorithm.make_local(local, client_state), "network.classifier.4.bias"
    assert torch.equal(personal.own.parameters[bias], model.parameters[bias])


def test_fedrep_trains_the_head_then_the_body():
    fed = ready(FedRep(head_epochs=2), rounds=1)
    local = fed.worker.local_trainer(0, 0, {})
    calls = []
    fit = type(local).fit
    personal = fed.algorithm.make_local(local, {})

    def recorder(model, *terms, **options):
        calls.append((sorted(options["only"]), options.get("epochs"), options.get("key", 0)))
        before = model.state_dict()
        result = fit(local, model, *terms, **options)
        for name, value in result.model.parameters.items():
            assert torch.equal(value, before[name]) == (name not in options["only"]), name
        return result

    local.fit = recorder
    shared = fed.algorithm.init(fed.initial).model
    result = personal.fit(shared)
    head = ["network.classifier.4.bias", "network.classifier.4.weight"]
    assert calls == [(head, 2, 1), (sorted(shared.parameters), None, 0)]
    assert result.steps == 3  # of the part that is sent: 30 samples in batches of 10
    assert [fit.steps for fit in local.results] == [6, 3]


def with_budget(fed, budget):
    """The partial aggregate of clients 0 and 1, of which client 1 has a step budget."""
    return fed.worker(TrainJob(0, 0, (0, 1), {}, {1: budget}), fed.initial_state())


@pytest.mark.parametrize("inner", [FedAvg(), FedAvg("uniform"), Scaffold(), FedNova()], ids=repr)
def test_a_body_that_did_not_move_has_weight_0(inner):
    fed = ready(FedRep(head_epochs=1, inner=inner))
    both, alone = with_budget(fed, 3), fed.worker(TrainJob(0, 0, (0,)), fed.initial_state())
    assert (both.steps, both.weight) == (3 + 3 + 3, alone.weight)
    assert torch.equal(both.total, alone.total)  # the mean is client 0's update
    head, start = both.client_states[1]["personal/parameters"], fed.initial.parameters
    assert not any(torch.equal(tensor, start[name]) for name, tensor in head.items())
    assert with_budget(fed, 4).weight == 2 * alone.weight  # a body that took one step counts


def test_a_client_of_ditto_without_a_step_of_its_own_model_has_none():
    fed = ready(Ditto())
    assert with_budget(fed, 3).client_states[1] == {}
    own = with_budget(fed, 4).client_states[1]
    again = fed.worker(TrainJob(1, 0, (1,), {1: own}, {1: 3}), fed.initial_state()).client_states[1]
    assert all(torch.equal(again["ditto/parameters"][name], value) for name, value in own["ditto/parameters"].items())


def test_personal_layers_around_momentum_and_scaffold():
    for inner in (FedAvg(optimizer=Momentum(momentum=0.5)), Scaffold()):
        fed, last, records = run(PersonalLayers(inner=inner), rounds=2)
        assert records[-1].lost is None
        assert not set(last.state.shared.tensors.get("control", {})) & fed.algorithm.personal_names


def test_clients_train_alone_if_all_layers_are_personal():
    _, last, records = run(PersonalLayers(layers="all"), cohort=4, rounds=2)
    assert [record.metrics["comm/up_bytes"] for record in records] == [0, 0]
    assert [record.metrics["comm/down_bytes"] for record in records] == [0, 0]
    fed = images(norm="batch", dropout=0.0)
    model = fed.initial
    for round in range(2):
        model = fed.worker.local_trainer(round, 3, {}).fit(model).model
    client_state = last.store.read([3])[3]
    assert all(
        torch.equal(value, client_state["personal/parameters"][name]) for name, value in model.parameters.items()
    )
    assert all(torch.equal(value, client_state["personal/buffers"][name]) for name, value in model.buffers.items())


@pytest.mark.parametrize(
    ("algorithm", "key", "text"),
    [
        (lambda: PersonalLayers(), "layers", "has no normalisation layer"),
        (lambda: PersonalLayers(layers="none", names=["head.*"]), "names", "matches none"),
        (lambda: PersonalLayers(layers="none"), "names", "leaves no personal layer"),
        (lambda: PersonalLayers(layers="nrom"), "layers", "norm"),
        (lambda: FedRep(layers="all"), "layers", "no body"),
        (lambda: FedRep(head_epochs=0), "head_epochs", "at least 1"),
        (lambda: Ditto(pull=-1.0), "pull", "at least 0"),
        (lambda: Finetune(epochs=0), "epochs", "at least 1"),
    ],
)
def test_an_error_names_the_argument(algorithm, key, text):
    with pytest.raises(ConfigError) as error:
        ready(algorithm(), norm="none")
    assert error.value.key == key
    assert text in str(error.value)


def facts(**more):
    default = {"sizes": torch.ones(3).numpy(), "cohort_size": 2, "splits": ("test",), "has_client_tests": True}
    return FederationFacts(**{**default, **more})


@pytest.mark.parametrize("algorithm", [PersonalLayers(), Ditto(), Finetune(), PersonalLayers(inner=Ditto())])
def test_personal_models_without_evaluation_or_without_choice_of_the_round_raise_warnings(algorithm):
    assert list(algorithm.check(facts())) == []
    (unevaluated,) = algorithm.check(facts(has_client_tests=False))
    assert (unevaluated.key, unevaluated.warning) == ("data.client_test_fraction", True)
    (unchosen,) = algorithm.check(facts(splits=("val", "test")))
    assert (unchosen.key, unchosen.warning) == ("data.val_fraction", True)


@pytest.mark.slow
def test_fine_tuning_comes_before_a_clients_own_evaluation_and_is_not_stored():
    plain = list(with_own(FedAvg(), rounds=2).run())
    tuned = list(with_own(Finetune(epochs=3), rounds=2).run())
    assert [record.sha256 for record in tuned] == [record.sha256 for record in plain]
    assert tuned[-1].metrics["own/loss"] < plain[-1].metrics["own/loss"]


def test_centralised_training_gives_all_samples_to_one_client():
    fed = images(norm="batch", dropout=0.0)
    population = fed.worker.data.population
    merged = population.merge_clients()
    assert len(merged) == 1
    assert sorted(merged.shard(0)) == sorted(s for client in range(4) for s in population.shard(client))
    schedule = fed.schedule.for_one_client()
    assert (schedule.cohort_size(1), schedule.quorum, schedule.rounds) == (1, 1, fed.schedule.rounds)
    assert Centralised().pooled
    assert not FedAvg().pooled


def test_centralised_training_evaluates_every_client():
    fed = with_own(FedAvg(), rounds=1)
    data = fed.worker.data
    assert (data.num_client_tests, data.clients_to_evaluate((2, 3))) == (4, (2, 3))
    pooled = replace(data, population=data.population.merge_clients(), is_pooled=True)
    worker, evaluations = replace(fed.worker, data=pooled), Evaluations("cohort")
    fed = replace(
        fed.with_worker(worker), sampler=Uniform(1), schedule=fed.schedule.for_one_client(), evaluations=evaluations
    )
    (record,) = fed.run()
    assert record.cohort == (0,)
    assert record.metrics["own/loss_std"] > 0  # over several clients


def test_an_empty_client_state_is_not_stored():
    store = ClientStateStore()
    store.update({0: {}})
    assert len(store) == 0
