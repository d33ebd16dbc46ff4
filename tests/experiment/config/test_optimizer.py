"""Another optimizer on the command line: arguments that only the default has are left out."""

import inspect

import pytest
import torch
from conftest import composed
from omegaconf import OmegaConf

from fedlit.core.errors import ConfigErrors
from fedlit.experiment.config import optimizer
from fedlit.experiment.config.build import build_run
from fedlit.experiment.config.optimizer import LACKING, log_dropped_arguments, run_values

SGD = {"name": "sgd", "lr": 0.03, "momentum": 0.9, "weight_decay": 0.0, "fused": True}


@pytest.fixture
def values_of(monkeypatch):
    """The optimizer of a model, after overrides that have been composed into it."""
    monkeypatch.setattr(optimizer, "to_plain", OmegaConf.to_container)

    def make(overrides, **changes):
        config = OmegaConf.create({"model": {"optimizer": {**SGD, **changes}}})
        values = run_values(config, overrides)
        log_dropped_arguments(config, values)
        return values["model"]["optimizer"]

    return make


def test_the_table_is_that_of_torch():
    classes = {k.lower(): v for k, v in vars(torch.optim).items() if isinstance(v, type) and k != "Optimizer"}
    for name, target in classes.items():
        lacking = {*SGD} - {"name"} - inspect.signature(target).parameters.keys()
        assert set(LACKING.get(name, ())) == lacking, name
    assert LACKING.keys() <= classes.keys()


def test_arguments_that_the_default_brought_and_the_new_optimizer_lacks_are_left_out_and_named(values_of, caplog):
    assert values_of(["model.optimizer.name=Adam"], name="Adam") == {
        "name": "Adam",
        "lr": 0.03,
        "weight_decay": 0.0,
        "fused": True,
    }
    assert "left out: model.optimizer.momentum=0.9, which Adam does not take" in caplog.text
    assert "the learning rate is model.optimizer.lr=0.03" in caplog.text
    assert "momentum" not in values_of(["model.optimizer={name: adam, lr: 0.001}"], name="adam", lr=0.001)


def test_an_argument_of_the_command_line_stays_and_a_fitting_optimizer_keeps_all(values_of, caplog):
    overrides = ["model.optimizer.name=adam", "model.optimizer.momentum=0.5"]
    assert values_of(overrides, name="adam", momentum=0.5)["momentum"] == 0.5
    assert values_of(["model.optimizer.lr=1"], lr=1)["momentum"] == 0.9
    assert values_of(["model.optimizer.name=sgd"])["momentum"] == 0.9
    assert values_of(["seed=1"], name="adam")["momentum"] == 0.9  # of a file of the user, whose mistake is an error
    assert caplog.text == ""


@pytest.mark.slow
def test_adam_by_its_name_builds_a_run_and_a_given_momentum_is_refused(tmp_path):
    overrides = ["model.optimizer.name=adam", "observers=none"]
    run, _ = build_run(run_values(composed(*overrides), overrides), tmp_path, {})
    assert "momentum" not in run.config["model"]["optimizer"]
    overrides = ["model.optimizer.name=adam", "model.optimizer.momentum=0.5", "observers=none"]
    config = run_values(composed(*overrides), overrides)
    with pytest.raises(ConfigErrors, match="is not an argument of Adam"):
        build_run(config, tmp_path, {})
