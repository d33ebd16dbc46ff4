"""Each algorithm's template has the layout of a real update."""

from dataclasses import replace

import pytest
import torch
from small import ready

import fedlit
import fedlit.algorithms
from fedlit.aggregation.validation import UpdateTemplate
from fedlit.algorithms import (
    Adam,
    AdaptiveOptimizer,
    Centralised,
    Ditto,
    FedAvg,
    FedDyn,
    FedNova,
    FedRep,
    Finetune,
    Momentum,
    Moon,
    PersonalLayers,
    QFedAvg,
    Scaffold,
)
from fedlit.algorithms.algorithm import Algorithm, NoExamples, update_template
from fedlit.core.messages import Aggregate
from fedlit.core.model import Model
from fedlit.core.tensors import Layout

ALGORITHMS = {
    "fedavg": FedAvg(),
    "fedavg, buffers of the server": FedAvg(buffers="server"),
    "fedprox": FedAvg(proximal=0.1),
    "momentum": FedAvg(optimizer=Momentum()),
    "adam": FedAvg(optimizer=AdaptiveOptimizer(Adam())),
    "centralised": Centralised(),
    "fednova": FedNova(),
    "scaffold": Scaffold(),
    "scaffold, option 1": Scaffold(option=1, buffers="server"),
    "feddyn": FedDyn(),
    "qfedavg": QFedAvg(),
    "qfedavg, q = 0": QFedAvg(q=0.0),
    "moon": Moon(),
    "ditto": Ditto(),
    "finetune": Finetune(),
    "fedbn": PersonalLayers(),
    "fedper": PersonalLayers(layers="last"),
    "local": PersonalLayers(layers="all"),
    "fedrep": FedRep(head_epochs=1),
    "fedbn around fedper": PersonalLayers(inner=PersonalLayers(layers="last")),
    "fedbn around fedrep": PersonalLayers(inner=FedRep(head_epochs=1)),
    "fedbn around scaffold": PersonalLayers(inner=Scaffold()),
}


def test_every_algorithm_of_the_package_has_a_test_of_its_template():
    exported = {getattr(fedlit.algorithms, name) for name in fedlit.algorithms.__all__}
    assert {cls for cls in exported if issubclass(cls, Algorithm)} == {type(each) for each in ALGORITHMS.values()}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_template_has_the_layout_of_a_real_update(name):
    fed = ready(ALGORITHMS[name], samples=40)
    state, client_state = fed.initial_state(), {}
    for round in range(2):
        template = update_template(fed.algorithm, state.shared)
        update = fed.algorithm.client(fed.worker.local_trainer(round, 0, client_state), state.shared, client_state)
        assert update.weight > 0
        assert Layout.of(template) == Layout.of(update.groups)
        assert UpdateTemplate(template).mismatch(update.groups) == ""
        mean = {group: {key: t.double() for key, t in tensors.items()} for group, tensors in update.groups.items()}
        state = fed.algorithm.server(replace(state, round=round + 1), Aggregate(mean, update.weight, 1, 4))
        client_state = update.client_state


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_client_without_examples_sends_zeros_with_weight_0(name):
    fed = ready(ALGORITHMS[name], samples=40)
    update = fed.algorithm.client(NoExamples(), fed.initial_state().shared, {})
    assert update.weight == 0
    changes = ("parameters", "buffers", "control", "displacement")
    assert not any(tensor.any() for group in changes for tensor in update.groups.get(group, {}).values())


def test_no_examples_take_no_step():
    local, model = NoExamples(), Model({"w": torch.ones(2)}, {"mean": torch.ones(1)})
    result = local.fit(model, epochs=3, only=["w"], key=1)
    assert result.model is model
    assert (result.steps, result.examples, result.metrics, result.displacement) == (0, 0, {}, {})
    assert local.examples == local.loss(model) == 0
    assert {name: tensor.tolist() for name, tensor in local.gradient(model).items()} == {"w": [0.0, 0.0]}
