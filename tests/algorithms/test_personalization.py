"""What stays with a client stays there, and the rest is what the inner algorithm makes of it."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from conftest import federation as images
from quadratics import CENTERS, CURVES, RATE, SIZES, START, clients, federation, mutated, trained
from small import ready, with_own

from fedlit.algorithms import Centralised, Ditto, FedAvg, FedRep, Finetune, Momentum, PersonalLayers, Scaffold
from fedlit.algorithms.algorithm import personal_model
from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.server.checkpoint.checkpointer import NoCheckpoints
from fedlit.server.client_store import ClientStateStore
from fedlit.server.evaluation import Evaluations
from fedlit.server.sampling import Uniform


class Kept(NoCheckpoints):
    """The last commit, in memory."""

    def commit(self, state, store, record):
        self.state, self.store, self.record = state, store, record


def run(algorithm, **setting):
    kept = Kept()
    fed = replace(ready(algorithm, **setting), checkpointer=kept)
    records = list(fed.run())
    assert not any(record.failures for record in records)
    return fed, kept, records


NORM = {"network.features.1", "network.features.5"}


@pytest.mark.parametrize(
    ("algorithm", "kept"),
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
def test_what_is_kept_is_not_sent_and_not_averaged(algorithm, kept):
    fed, after, records = run(algorithm)
    mine = {name for name in fed.initial.state_dict() if name.rpartition(".")[0] in kept}
    assert mine == fed.algorithm.kept
    shared = set(after.state.model.state_dict())
    assert shared == set(fed.initial.state_dict()) - mine
    for name, value in fed.algorithm.model(after.state.shared).state_dict().items():
        assert torch.equal(value, fed.initial.state_dict()[name]) == (name in mine), name
    taken = {client for record in records for client in record.cohort}
    memories = after.store.read(range(4))
    assert set(memories) == taken
    ends = [memories[client]["personal/parameters"] for client in sorted(taken)]
    assert all(set(end) == {name for name in mine if name in fed.initial.parameters} for end in ends)
    assert not all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])  # each has its own
    whole = next(iter(images(norm="batch", dropout=0.0).run())).metrics
    assert records[0].metrics["comm/up_bytes"] < whole["comm/up_bytes"]
    assert records[0].metrics["comm/down_bytes"] < whole["comm/down_bytes"]


def test_a_client_goes_on_with_its_own_part_and_is_evaluated_with_it():
    fed, after, _ = run(PersonalLayers(layers="last"), cohort=4, rounds=2)
    worker, memory = fed.worker, after.store.read([1])[1]
    local = worker.local_trainer(2, 1, memory)
    mine = personal_model(fed.algorithm, local, after.state.shared, memory)
    for name, value in mine.state_dict().items():
        expected = memory["personal/parameters"].get(name, after.state.model.state_dict().get(name))
        assert torch.equal(value, expected), name
    hands = fed.algorithm.hands(local, memory)
    assert torch.equal(hands.own.parameters["network.classifier.4.bias"], mine.parameters["network.classifier.4.bias"])


def test_fedrep_trains_the_head_first_and_the_body_to_it():
    fed = ready(FedRep(head_epochs=2), rounds=1)
    local = fed.worker.local_trainer(0, 0, {})
    seen = []
    fit = type(local).fit
    hands = fed.algorithm.hands(local, {})

    def watched(self, model, *terms, **more):
        seen.append((sorted(more["only"]), more.get("epochs"), more.get("key", 0)))
        before = model.state_dict()
        result = fit(self, model, *terms, **more)
        for name, value in result.model.parameters.items():
            assert torch.equal(value, before[name]) == (name not in more["only"]), name
        return result

    object.__setattr__(local, "fit", lambda *args, **more: watched(local, *args, **more))
    shared = fed.algorithm.init(fed.initial).model
    result = hands.fit(shared)
    head = ["network.classifier.4.bias", "network.classifier.4.weight"]
    assert seen == [(head, 2, 1), (sorted(shared.parameters), None, 0)]
    assert result.steps == 3 * 3  # 30 samples in batches of 10, two epochs and one


def test_personal_models_under_momentum_and_scaffold():
    for inner in (FedAvg(optimizer=Momentum(momentum=0.5)), Scaffold()):
        fed, after, records = run(PersonalLayers(inner=inner), rounds=2)
        assert records[-1].lost is None
        assert not set(after.state.shared.get("control", {})) & fed.algorithm.kept


def test_all_that_is_kept_is_training_alone():
    _, after, records = run(PersonalLayers(layers="all"), cohort=4, rounds=2)
    assert [record.metrics["comm/up_bytes"] for record in records] == [0, 0]
    assert [record.metrics["comm/down_bytes"] for record in records] == [0, 0]
    fed = images(norm="batch", dropout=0.0)
    model = fed.initial
    for round in range(2):
        model = fed.worker.local_trainer(round, 3, {}).fit(model).model
    memory = after.store.read([3])[3]
    assert all(torch.equal(value, memory["personal/parameters"][name]) for name, value in model.parameters.items())
    assert all(torch.equal(value, memory["personal/buffers"][name]) for name, value in model.buffers.items())


@pytest.mark.parametrize(
    ("algorithm", "key", "said"),
    [
        (lambda: PersonalLayers(), "layers", "no layer for normalisation"),
        (lambda: PersonalLayers(layers="none", names=["head.*"]), "names", "matches none"),
        (lambda: PersonalLayers(layers="none"), "names", "keeps nothing"),
        (lambda: PersonalLayers(layers="nrom"), "layers", "norm"),
        (lambda: FedRep(layers="all"), "layers", "no body"),
        (lambda: FedRep(head_epochs=0), "head_epochs", "at least 1"),
        (lambda: Ditto(pull=-1.0), "pull", "at least 0"),
        (lambda: Finetune(epochs=0), "epochs", "at least 1"),
    ],
)
def test_what_cannot_be_is_a_mistake(algorithm, key, said):
    with pytest.raises(ConfigError) as error:
        ready(algorithm(), norm="none")
    assert error.value.key == key
    assert said in str(error.value)


def own_facts(**more):
    return FederationFacts(torch.ones(3).numpy(), 2, **{"splits": ("test",), "own_test": True, **more})


@pytest.mark.parametrize("algorithm", [PersonalLayers(), Ditto(), Finetune()])
def test_personal_models_that_nobody_sees_or_that_choose_no_round_are_warned_of(algorithm):
    assert [mistake.key for mistake in algorithm.check(own_facts())] == []
    (unseen,) = algorithm.check(own_facts(client_tests=False))
    assert (unseen.key, unseen.warning) == ("data.client_test_fraction", True)
    (chosen,) = algorithm.check(own_facts(splits=("val", "test")))
    assert (chosen.key, chosen.warning) == ("data.val_fraction", True)


def ditto(rounds, pull, cohorts):
    """Algorithm 1 of Li et al. in rational numbers: the personal models after so many rounds."""
    x, v = START, {}
    for cohort in cohorts[:rounds]:
        total, step = sum(SIZES[i] for i in cohort), Fraction(0)
        for i, local in clients(cohort).items():
            v[i] = local_fit(local, v.get(i, x), pull, x)
            step += Fraction(SIZES[i], total) * (local.fit(x) - x)
        x += step
    return x, v


def local_fit(local, start, mu, center):
    w = start
    for _ in range(local.steps):
        w -= RATE * (CURVES[local.client] * (w - CENTERS[local.client]) + mu * (w - center))
    return w


def personal_ends(algorithm, cohort=2):
    kept = Kept()
    fed = replace(federation(algorithm, cohort=cohort), checkpointer=kept)
    records = list(fed.run())
    memories = kept.store.read(range(3))
    ends = {client: float(memory["ditto/parameters"]["w"]) for client, memory in memories.items()}
    return float(kept.state.model.parameters["w"]), ends, [record.cohort for record in records]


def check_ditto(algorithm, cohort=2):
    x, ends, cohorts = personal_ends(algorithm, cohort)
    exact, v = ditto(3, Fraction(1, 2), cohorts)
    assert x == pytest.approx(float(exact), abs=1e-6)
    assert ends == pytest.approx({client: float(value) for client, value in v.items()}, abs=1e-6)


@pytest.mark.parametrize("cohort", [3, 2])
def test_ditto_is_the_papers(cohort):
    check_ditto(Ditto(pull=0.5), cohort)


@pytest.mark.parametrize(
    "change",
    [
        ("center=x.parameters", "center=update.send['parameters']"),
        ("local.fit(recalled(memory, OWN) or x,", "local.fit(x,"),
        ("mu=self.pull", "mu=2 * self.pull"),
    ],
)
def test_a_mistake_in_ditto_shows(change):
    with pytest.raises(AssertionError):
        check_ditto(mutated("fedlit.algorithms.personalization.ditto", change).Ditto(pull=0.5))


def test_ditto_without_pull_is_training_alone():
    _, ends, _ = personal_ends(Ditto(pull=0.0), cohort=3)
    alone = {}
    for i, local in clients(range(3)).items():
        w = START
        for _ in range(3):
            w = local.fit(w)
        alone[i] = float(w)
    assert ends == pytest.approx(alone, abs=1e-6)


def test_dittos_global_model_is_fedavgs():
    assert trained(Ditto(pull=0.5), cohort=2) == trained(FedAvg(), cohort=2)


@pytest.mark.slow
def test_fine_tuning_is_done_before_a_clients_own_evaluation_and_not_kept():
    plain = list(with_own(FedAvg(), rounds=2).run())
    tuned = list(with_own(Finetune(epochs=3), rounds=2).run())
    assert [record.sha256 for record in tuned] == [record.sha256 for record in plain]
    assert tuned[-1].metrics["own/loss"] < plain[-1].metrics["own/loss"]


def test_centralised_training_has_everybodys_samples_in_one_place():
    fed = images(norm="batch", dropout=0.0)
    pooled = fed.population.pooled()
    assert len(pooled) == 1
    assert sorted(pooled.shard(0)) == sorted(s for client in range(4) for s in fed.population.shard(client))
    schedule = fed.schedule.alone()
    assert (schedule.cohort(1), schedule.quorum, schedule.rounds) == (1, 1, fed.schedule.rounds)
    assert Centralised.pooled
    assert not getattr(FedAvg(), "pooled", False)


def test_where_all_train_in_one_place_every_client_is_looked_at():
    fed = with_own(FedAvg(), rounds=1)
    held = fed.worker.data
    assert (held.num_client_tests, held.clients_to_evaluate((2, 3))) == (4, (2, 3))
    pooled = replace(held, population=held.population.merge_clients(), is_pooled=True)
    worker, evaluations = replace(fed.worker, data=pooled), Evaluations("cohort")
    fed = replace(
        fed.with_worker(worker), sampler=Uniform(1), schedule=fed.schedule.for_one_client(), evaluations=evaluations
    )
    (record,) = fed.run()
    assert record.cohort == (0,)
    assert record.metrics["own/loss_std"] > 0  # of more than one


def test_an_empty_memory_is_no_memory():
    store = ClientStateStore()
    store.update(1, {0: {}})
    assert len(store) == 0
