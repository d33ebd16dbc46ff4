"""Algorithms whose clients train by DP-SGD."""

from dataclasses import replace

import pytest
import torch
from private_fits import HUGE, facts_of, samples, worker
from small import holdings

from fedlit.algorithms import (
    Centralised,
    Ditto,
    FedAvg,
    FedDyn,
    FedNova,
    FedRep,
    Finetune,
    Moon,
    PersonalLayers,
    QFedAvg,
    Scaffold,
)
from fedlit.client.dp_sgd.accounting import ReleaseHistory
from fedlit.client.dp_sgd.planning import FitRecorder, bind_privacy, make_private_training, record_fits
from fedlit.client.dp_sgd.settings import ExamplePrivacy
from fedlit.core.errors import ConfigError
from fedlit.core.messages import Aggregate, EvaluateJob, TrainJob
from fedlit.data.samples import ClientTestSet

ALGORITHMS = {
    "fedavg": FedAvg(),
    "fedprox": FedAvg(proximal=0.1),
    "fednova": FedNova(),
    "scaffold": Scaffold(),
    "feddyn": FedDyn(),
    "moon": Moon(),
    "ditto": Ditto(),
    "fedrep": FedRep(head_epochs=3),
    "fedper": PersonalLayers(layers="last"),
}
FITS = {"ditto": (None, None), "fedrep": (3, None)}


def bound(algorithm, privacy, data=None, **work):
    """A worker whose algorithm is bound to its module, and the server state before round 1."""
    data = data or holdings(samples(20), [0] * 12 + [1] * 8, batch="full")
    one = worker(privacy=privacy, data=data, **work)
    algorithm = algorithm.bind(one.replica.module, one.replica.read())
    state = algorithm.init(one.replica.read())
    return replace(one, algorithm=algorithm), state


@pytest.mark.parametrize("name", ALGORITHMS)
def test_without_clip_and_noise_an_algorithm_is_itself(name):
    results = []
    for privacy in (None, {"clip": HUGE, "noise_multiplier": 0.0}):
        one, state = bound(ALGORITHMS[name], privacy, epochs=2)
        history = {}
        for round in range(2):  # in the second round states and terms are not 0
            partial = one(TrainJob(round, 0, (0, 1), history), replace(state, round=round))
            assert not partial.failures
            history = partial.client_states
            mean = partial.layout.groups(partial.total / partial.weight)
            state = one.algorithm.server(state, _aggregate(mean, partial.weight))
        results.append(one.algorithm.model(state.shared).parameters)
    for key, tensor in results[0].items():
        assert torch.allclose(results[1][key], tensor, atol=2e-6, rtol=0), key


def _aggregate(groups, weight):
    return Aggregate(groups, weight, 2, 2)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_all_fits_of_a_client_are_planned_and_counted(name):
    one, state = bound(ALGORITHMS[name], {"noise_multiplier": 1.0}, holdings(samples(20), batch=7), epochs=2)
    fits = record_fits(one.algorithm, state)
    assert fits == FITS.get(name, (None,))
    local, _ = one.dry_run(0, state, {}, None, [])
    steps = sum(3 * (epochs or 2) for epochs in fits)
    assert local.private.history == ReleaseHistory(((1.0, 7 / 20, steps),))
    config = replace(one.trainer_config, privacy=ExamplePrivacy(epsilon=1.0))
    config = bind_privacy(config, one.algorithm, state, facts_of((20,), rounds=5))
    assert make_private_training(config, one.data, 0, 0, {}).planned_steps == 5 * steps


def test_the_history_grows_with_the_rounds_of_a_client():
    one, state = bound(Ditto(), {"noise_multiplier": 1.0}, epochs=2)
    first = one(TrainJob(0, 0, (0,)), state)
    client_state = {**first.client_states[0], **first.spent[0]}
    second = one(TrainJob(1, 0, (0, 1), {0: client_state}), replace(state, round=1))
    histories = [ReleaseHistory.of(part.spent[0]).releases for part in (first, second)]
    assert histories == [((1.0, 1.0, 4),), ((1.0, 1.0, 8),)]
    assert ReleaseHistory.of(second.spent[1]).releases == ((1.0, 1.0, 4),)


@pytest.mark.parametrize(
    ("algorithm", "reason"),
    [
        (QFedAvg(), "uses the loss of each client's examples"),
        (Scaffold(option=1), "uses the gradient of each client's examples"),
        (PersonalLayers(inner=Scaffold(option=1), layers="last"), "uses the gradient"),
        (Finetune(), "trains clients for their evaluation"),
    ],
)
def test_an_algorithm_that_needs_more_than_private_fits_is_refused(algorithm, reason):
    one, state = bound(algorithm, {"noise_multiplier": 1.0})
    with pytest.raises(ConfigError, match=reason):
        record_fits(one.algorithm, state)


class TwoFits(FedAvg):
    """Trains from the result of a first fit, with the same key."""

    def client(self, local, shared, client_state):
        local.fit(self.model(shared))
        return super().client(local, shared, client_state)


def test_two_fits_with_one_key_are_refused_since_their_noise_would_cancel():
    one, state = bound(TwoFits(), {"noise_multiplier": 1.0})
    with pytest.raises(ConfigError, match="algorithm=TwoFits: trains a client twice in a round with the same `key`"):
        record_fits(one.algorithm, state)
    with pytest.raises(ConfigError, match="with the same `key`"):
        one(TrainJob(0, 0, (0,)), state)


@pytest.mark.parametrize("inner", [FedAvg(), Ditto(), Moon()])
def test_fits_of_fedrep_around_another_algorithm_have_their_own_keys(inner):
    one, state = bound(FedRep(head_epochs=1, inner=inner), {"noise_multiplier": 1.0})
    recorder = FitRecorder()
    one.algorithm.client(recorder, state.shared, {})
    assert recorder.keys == list(dict.fromkeys(recorder.keys))
    assert {0, 1} <= set(recorder.keys)


def test_statistics_and_fits_of_an_evaluation_are_refused_when_they_are_asked_for():
    one, state = bound(FedAvg(), {"noise_multiplier": 1.0})
    model, local = one.algorithm.model(state.shared), one.local_trainer(0, 0, {})
    for ask in (local.loss, local.gradient, replace(local, private=None).fit):
        with pytest.raises(ConfigError, match="privacy=example: does not cover"):
            ask(model)


def test_a_fit_for_an_evaluation_is_refused_when_it_happens():
    one, state = bound(Finetune(), {"noise_multiplier": 1.0})
    tests = ClientTestSet(one.data.train, one.data.population)
    one = replace(one, data=replace(one.data, client_tests=tests))
    with pytest.raises(ConfigError, match="local training for an evaluation"):
        one(EvaluateJob(0, "test", 0), state)


def test_centralised_training_is_one_private_client():
    one, state = bound(Centralised(), {"noise_multiplier": 1.0}, holdings(samples(20), batch=5))
    local, _ = one.dry_run(0, state, {}, None, [])
    assert local.private.history.releases == ((1.0, 0.25, 4),)


@pytest.mark.parametrize("added", [1, 7])
def test_the_contrastive_loss_of_moon_is_clipped_with_its_example(added):
    """One example more changes the sum of the clipped gradients by at most the clip, also when losses compare models."""

    def total(count):
        data = holdings(samples(20), [0] * count + [1] * (20 - count), batch="full")
        one, state = bound(Moon(mu=10.0), {"clip": 0.3, "noise_multiplier": 0.0}, data)
        moved = {name: p + 0.3 for name, p in state.model.parameters.items()}
        state = state.with_shared(model=replace(state.model, parameters=moved))  # the contrast is not 0
        _, update = one.dry_run(0, state, {}, None, [])
        return torch.cat([d.double().flatten() for d in update.groups["parameters"].values()]) * count / -0.5

    assert 0.2 < (total(added + 1) - total(added)).norm() <= 0.3 * (1 + 1e-5)


def test_a_user_rule_that_fails_is_named():
    class Needs(FedAvg):
        def client(self, local, shared, client_state):
            y = local.fit(self.model(shared))
            return super().client(local, shared, {"loss": y.metrics["train/loss"]})

    one, state = bound(Needs(), {"noise_multiplier": 1.0})
    with pytest.raises(ConfigError, match="algorithm=Needs: fails before round 1"):
        record_fits(one.algorithm, state)
