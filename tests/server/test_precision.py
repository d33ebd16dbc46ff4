"""Federations in double precision, and short names of precisions."""

import warnings
from dataclasses import replace

import pytest
import torch
from conftest import Quadratic, images, pairs

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
from fedlit.client.trainer import TrainerConfig
from fedlit.core.messages import EvaluateJob
from fedlit.data import Data, Iid
from fedlit.data.loading import Loading
from fedlit.models import Classifier
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation


def federation(make, data, precision, algorithm=None, clients=3, **schedule):
    return Federation.of(
        make,
        data,
        Iid(clients),
        algorithm or FedAvg(),
        Schedule(client_fraction=1.0, **schedule),
        loading=Loading(batch_size="full", val_fraction=0),
        trainer_config=TrainerConfig({"accelerator": "cpu", "precision": precision}),
    )


@pytest.mark.parametrize(
    ("precision", "low", "high"), [("64-true", 0.0, 1e-15), (64, 0.0, 1e-15), ("32-true", 1e-8, 1e-7)]
)
def test_double_precision_finds_an_optimum_that_no_single_number_equals(precision, low, high):
    """The updates become 0, so their rounding to float32 does not matter."""
    data = Data("pairs", pairs((1.0, 1.0), (2.0, 0.5)), None, (2,), ())
    *_, last = federation(lambda: Quadratic(lr=0.5), data, precision, clients=1, rounds=40, eval_every=40).run()
    error = abs(last.model.parameters["w"].double().item() - 2 / 3)
    assert low <= error <= high


def small_cnn():
    optimizer = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
    return Classifier("fedlit.models.SimpleCNN", [1, 8, 8], 3, optimizer, norm="batch", dropout=0.0)


ALGORITHMS = {
    "proximal": FedAvg(proximal=0.1),
    "adam": FedAvg(optimizer=AdaptiveOptimizer(Adam())),
    "momentum": FedAvg(optimizer=Momentum(lr=1.0)),
    "scaffold": Scaffold(),
    "scaffold, option 1": Scaffold(option=1),
    "fednova": FedNova(),
    "feddyn": FedDyn(),
    "qfedavg": QFedAvg(),
    "moon": Moon(),
    "ditto": Ditto(),
    "fedrep": FedRep(),
    "personal layers": PersonalLayers(layers="norm"),
    "finetune": Finetune(),
    "centralised": Centralised(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_runs_in_double_precision(name):
    """Its rounds equal those in single precision, but for the rounding of a float32 number."""
    data = Data("images", images(60), images(20, seed=1), (1, 8, 8), ("0", "1", "2"), images(20, seed=2))
    models = []
    for precision in ("64-true", "32-true"):
        records = list(federation(small_cnn, data, precision, ALGORITHMS[name], rounds=2).run())
        assert not [failure for record in records for failure in record.failures]
        models.append(records[-1].model)
    assert {tensor.dtype for tensor in models[0].parameters.values()} == {torch.float64}
    for name, tensor in models[0].parameters.items():
        assert torch.allclose(tensor, models[1].parameters[name].double(), atol=1e-3), name


def test_layers_of_configure_model_and_evaluations_are_double_too():
    seen = []

    class Late(Quadratic):
        def configure_model(self):
            if not hasattr(self, "late"):
                self.late = torch.nn.Linear(1, 1)

        def validation_step(self, batch, batch_idx):
            seen.append((batch[0].dtype, self.late.weight.dtype))
            super().validation_step(batch, batch_idx)

    data = Data("pairs", pairs((1.0, 1.0), (1.0, 2.0), (1.0, 0.5)), None, (2,), (), pairs((1.0, 1.0)))
    fed = federation(Late, data, "64-true", rounds=1)
    fed.worker(EvaluateJob(0, "val"), fed.initial_state())
    assert {tensor.dtype for tensor in fed.initial.parameters.values()} == {torch.float64}
    assert seen == [(torch.float64, torch.float64)]


@pytest.mark.parametrize(("short", "full"), [("bf16", "bf16-mixed"), (32, "32-true"), ("64", "64-true")])
def test_a_short_name_of_a_precision_gives_no_warning(short, full):
    config = TrainerConfig({"accelerator": "cpu", "precision": short})
    assert config.options["precision"] == full
    assert replace(config, epochs=2).make_trainer().precision == full


class Warns(Quadratic):
    def training_step(self, batch, batch_idx):
        warnings.warn("each step", stacklevel=1)
        return super().training_step(batch, batch_idx)


def test_a_warning_of_each_fit_is_shown_once():
    data = Data("pairs", pairs((1.0, 1.0), (1.0, 2.0), (1.0, 0.5)), None, (2,), ())
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        list(federation(lambda: Warns(lr=0.5), data, "bf16", rounds=2).run())
    assert [str(warning.message) for warning in shown].count("each step") == 1
