"""Canaries of Lightning's private APIs around logged values."""

import inspect
import logging
from dataclasses import dataclass
from importlib.metadata import version

import lightning.pytorch.utilities.signature_utils as signature_utils
import pytest
import torch
from conftest import Quadratic, holdings, pairs
from lightning.pytorch import Callback, Trainer

from fedlit.client import lightning_logging as internals
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import LocalTrainer, TrainerConfig


def gone(what):
    return f"lightning {version('lightning')}: {what} is gone or has changed; adapt fedlit/client/lightning_logging.py"


class Takes(Callback):
    """Takes the collection of logged values of a running fit."""

    def on_train_epoch_end(self, trainer, pl_module):
        self.results = trainer._results


def fit(module, callback):
    replica, data = ModuleReplica(module), holdings(pairs(*[(1.0, 2.0)] * 4), batch=1)
    config = TrainerConfig({"accelerator": "cpu"}, lambda: [callback])
    return LocalTrainer(replica, config, data, 4, 0, 0).fit(replica.read())


def test_the_loops_of_a_trainer_have_their_logged_values_under_one_name():
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False)
    loops = trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop
    for loop in loops:
        assert hasattr(loop, "_results"), gone("`_results` of a loop")
    kinds = [loop._results.training for loop in loops]
    internals.use_light_results(trainer)
    assert [type(loop._results) for loop in loops] == [internals.LightResults] * 4
    assert [loop._results.training for loop in loops] == kinds


def test_a_fit_collects_its_logged_values_in_light_results():
    takes = Takes()
    fit(Quadratic(), takes)
    assert isinstance(takes.results, internals.LightResults), gone("trainer._results")
    assert [type(value) for value in takes.results.values()] == [internals.LightValue]


@pytest.mark.parametrize("reduce_fx", ["mean", "sum", "min", "max"])
@pytest.mark.parametrize("levels", [(True, False), (False, True), (True, True)])
def test_a_light_value_has_the_states_of_lightnings_own(reduce_fx, levels):
    options = {
        "prog_bar": False,
        "logger": True,
        "on_step": levels[0],
        "on_epoch": levels[1],
        "reduce_fx": reduce_fx,
        "enable_graph": False,
        "sync_dist": False,
        "sync_dist_fn": max,
        "sync_dist_group": None,
        "add_dataloader_idx": True,
        "metric_attribute": None,
        "rank_zero_only": False,
    }
    light, own = internals.LightResults(training=True), internals._ResultCollection(training=True)
    for number in (3.0, 1.0, 2.0):
        for results in (light, own):
            results.log("training_step", "x", torch.tensor(number), batch_size=2, **options)
            assert not results["training_step.x"].has_reset
        for on_step in (True, False):
            assert light.metrics(on_step) == own.metrics(on_step), gone("_ResultCollection.metrics")
    for results in (light, own):
        results.reset()
    assert light["training_step.x"].value == own["training_step.x"].value
    assert list(light.valid_items()) == list(own.valid_items()) == []
    light.to("cpu")
    with pytest.raises(Exception, match=r"`self.log\(x, ...\)` twice in `training_step` with different arguments"):
        light.log("training_step", "x", torch.tensor(1.0), **{**options, "prog_bar": True})


def test_the_signature_of_a_training_step_is_inspected_once(monkeypatch):
    assert hasattr(signature_utils, "inspect"), gone("`inspect` of signature_utils")
    inspected, original = [], inspect.getfullargspec

    def getfullargspec(hook):
        inspected.append(hook.__qualname__)
        return original(hook)

    class Fresh(Quadratic):
        def training_step(self, batch, batch_idx):
            self.log("loss", 1.0)
            return super().training_step(batch, batch_idx)

    monkeypatch.setattr(inspect, "getfullargspec", getfullargspec)
    for _ in range(2):
        fit(Fresh(), Takes())
    name = Fresh.training_step.__qualname__
    assert inspected.count(name) == 1, gone("getfullargspec in signature_utils")
    with internals.signatures_once():
        assert signature_utils.inspect is not inspect
    assert signature_utils.inspect is inspect


def test_the_lengths_of_a_batchs_tensors_are_found_in_any_structure():
    @dataclass
    class Sentences:
        tokens: torch.Tensor
        names: list

    batch = {"x": (torch.zeros(4, 2), [torch.zeros(4)]), "s": Sentences(torch.zeros(3), ["a", "b"]), "n": 5}
    assert internals.tensor_lengths(batch) == {4, 3}, gone("_extract_batch_size")
    assert internals.tensor_lengths(torch.tensor(1.0)) == {1}, gone("_extract_batch_size")
    assert internals.tensor_lengths("text") == set(), gone("_extract_batch_size")


def test_lightning_logs_its_lines_to_the_logger_that_is_silenced(caplog):
    logging.getLogger(internals.LOGGER).setLevel(logging.INFO)
    Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    names = {record.name for record in caplog.records}
    assert names, gone("INFO lines of a Trainer")
    assert all(name.startswith(internals.LOGGER) for name in names), gone(f"logger {internals.LOGGER}, not {names}")
    caplog.clear()
    fit(Quadratic(), Takes())
    assert not caplog.records
    with internals.quiet_logger():
        Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert not caplog.records


def test_a_logger_of_lightning_is_silenced_that_is_new_or_was_asked_before(caplog):
    assert hasattr(logging.Logger("any"), "_cache"), "logging.Logger._cache is gone; adapt lightning_logging.py"
    logging.getLogger(internals.LOGGER).setLevel(logging.INFO)
    known, name = logging.getLogger(f"{internals.LOGGER}.known"), f"{internals.LOGGER}.new"
    logging.getLogger(f"{name}.below")  # `name` is a placeholder until it is asked for
    for _ in range(2):
        assert known.isEnabledFor(logging.INFO)
        with internals.quiet_logger():
            for logger in (known, logging.getLogger(name)):
                assert not logger.isEnabledFor(logging.INFO)
                assert logger.isEnabledFor(logging.WARNING)
        assert known.isEnabledFor(logging.INFO)
        assert logging.getLogger(name).isEnabledFor(logging.INFO)
