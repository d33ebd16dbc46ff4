"""Canaries of Lightning's private APIs, and tests of the scopes."""

import logging
import warnings
from copy import deepcopy
from importlib.metadata import version

import lightning.pytorch.trainer.connectors.callback_connector as callback_connector
import pytest
import torch
from conftest import Quadratic, holdings, pairs
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities import parsing

from fedlit.client import lightning_internals as internals
from fedlit.client.lightning_logging import LOGGER
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import LocalTrainer, TrainerConfig


def gone(what):
    return (
        f"lightning {version('lightning')}: {what} is gone or has changed; adapt fedlit/client/lightning_internals.py"
    )


def trainer(*callbacks, **options):
    return TrainerConfig({"accelerator": "cpu"}).make_trainer(*callbacks, **options)


def run(module=None, rows=4, **options):
    """A fit with batches of one sample; returns the optimizer steps."""
    replica, data = ModuleReplica(module or Quadratic()), holdings(pairs(*[(1.0, 2.0)] * rows), batch=1)
    local = LocalTrainer(replica, TrainerConfig({"accelerator": "cpu"}, **options), data, rows, 0, 0)
    return local.fit(replica.read()).steps


class Searches:
    """Stands in for Lightning's search, and counts the calls."""

    def __init__(self, *callbacks):
        self.groups, self.callbacks = [], callbacks

    def __call__(self, group):
        self.groups.append(group)
        return [callback() for callback in self.callbacks]


@pytest.fixture
def fresh_process(monkeypatch):
    """No group of entry points was searched yet."""
    monkeypatch.setattr(internals, "_groups_without_callbacks", set())


@pytest.mark.usefixtures("fresh_process")
def test_a_trainer_searches_installed_packages_by_one_private_function(monkeypatch):
    name = "callback_connector._load_external_callbacks"
    assert hasattr(callback_connector, "_load_external_callbacks"), gone(name)
    search = Searches()
    monkeypatch.setattr(callback_connector, "_load_external_callbacks", search)
    for _ in range(2):
        Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False)
    assert search.groups == ["lightning.pytorch.callbacks_factory"] * 2, gone(name)
    with internals.external_callbacks_once():
        pass
    assert callback_connector._load_external_callbacks is search


@pytest.mark.usefixtures("fresh_process")
def test_our_trainers_search_installed_packages_once_a_process(monkeypatch):
    search = Searches()
    monkeypatch.setattr(callback_connector, "_load_external_callbacks", search)
    for _ in range(3):
        assert run() == 4
    assert search.groups == ["lightning.pytorch.callbacks_factory"]
    assert callback_connector._load_external_callbacks is search


@pytest.mark.usefixtures("fresh_process")
def test_callbacks_of_installed_packages_are_made_for_each_of_our_trainers(monkeypatch):
    monkeypatch.setattr(callback_connector, "_load_external_callbacks", Searches(Callback))
    first, second = ([type(c) for c in t.callbacks].count(Callback) for t in (trainer(), trainer()))
    assert (first, second) == (1, 1)
    one, other = ([c for c in t.callbacks if type(c) is Callback] for t in (trainer(), trainer()))
    assert one[0] is not other[0]


def test_a_scope_puts_everything_back_when_nested_and_after_an_exception():
    logger, before = logging.getLogger(LOGGER), callback_connector._load_external_callbacks

    def nest():
        with internals.trainer_scope():
            for _ in range(2):
                assert logger.level == logging.WARNING
                assert callback_connector._load_external_callbacks is not before
                with internals.trainer_scope():
                    pass
            raise ZeroDivisionError

    logger.setLevel(logging.DEBUG)
    try:
        with pytest.raises(ZeroDivisionError):
            nest()
        assert logger.level == logging.DEBUG
        assert callback_connector._load_external_callbacks is before
    finally:
        logger.setLevel(logging.INFO)


def test_a_stricter_level_of_the_logger_stays_inside_a_scope():
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.ERROR)
    try:
        with internals.trainer_scope():
            assert logger.level == logging.ERROR
        assert logger.level == logging.ERROR
    finally:
        logger.setLevel(logging.INFO)


def test_a_failed_fit_puts_everything_back():
    class Fails(Quadratic):
        def training_step(self, batch, batch_idx):
            raise ZeroDivisionError

    logger, before = logging.getLogger(LOGGER), callback_connector._load_external_callbacks
    level, count = logger.level, torch.cuda._cached_device_count
    with pytest.raises(ZeroDivisionError):
        run(Fails())
    assert callback_connector._load_external_callbacks is before
    assert (logger.level, torch.cuda._cached_device_count) == (level, count)


def test_a_module_has_its_trainer_under_a_private_name():
    module, other = Quadratic(), Quadratic()
    assert "_trainer" in vars(module), gone("LightningModule._trainer")
    module.trainer = used = trainer()
    assert module._trainer is used, gone("LightningModule._trainer")
    with internals.detached_trainer(module):
        assert deepcopy(module)._trainer is None
    assert module.trainer is used
    internals.share_trainer(module, other)
    assert other.trainer is used, gone("LightningModule._trainer")


def test_private_attributes_of_an_empty_module_are_lightnings_and_torchs():
    names = {"_parameters", "_modules", "_trainer", "_current_fx_name", "_param_requires_grad_state", "_compiler_ctx"}
    for name in sorted(names):
        assert name in internals.own_attributes(), gone(f"LightningModule.{name}")
    assert all(name.startswith("_") for name in internals.own_attributes())
    assert internals.own_attributes() <= vars(LightningModule()).keys()


def test_lightning_knows_which_methods_a_module_overrides():
    assert internals.overrides(Quadratic(), "training_step"), gone("model_helpers.is_overridden")
    assert not internals.overrides(Quadratic(), "test_step"), gone("model_helpers.is_overridden")
    assert not internals.overrides(Quadratic(), "configure_model"), gone("model_helpers.is_overridden")


def test_a_fit_ends_after_the_steps_of_its_loop():
    class Stop(Callback):
        def on_train_start(self, trainer, pl_module):
            assert hasattr(trainer.fit_loop.epoch_loop, "max_steps"), gone("trainer.fit_loop.epoch_loop.max_steps")
            internals.set_max_steps(trainer, 3)

    assert run(epochs=2, callbacks=lambda: [Stop()]) == 3, gone("trainer.fit_loop.epoch_loop.max_steps")


def test_a_batch_that_is_marked_as_the_last_steps_with_accumulated_gradients():
    class Mark(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            progress = trainer.fit_loop.epoch_loop.batch_progress
            assert hasattr(progress, "is_last_batch"), gone("trainer.fit_loop.epoch_loop.batch_progress.is_last_batch")
            trainer.should_stop = True
            internals.mark_last_batch(trainer)

    config = {"options": {"accelerator": "cpu", "accumulate_grad_batches": 4}, "callbacks": lambda: [Mark()]}
    replica, data = ModuleReplica(Quadratic()), holdings(pairs(*[(1.0, 2.0)] * 8), batch=1)
    steps = LocalTrainer(replica, TrainerConfig(**config), data, 8, 0, 0).fit(replica.read()).steps
    assert steps == 1, gone("trainer.fit_loop.epoch_loop.batch_progress.is_last_batch")


def test_warnings_that_a_client_cannot_avoid_are_hidden(monkeypatch):
    class Logs(Quadratic):
        def validation_step(self, batch, batch_idx):
            self.log("value", 1.0, logger=True)

    def validate():
        trainer(limit_val_batches=None).validate(Logs(), loader, verbose=False)

    monkeypatch.setattr("lightning.pytorch.trainer.connectors.data_connector.suggested_max_num_workers", lambda _: 8)
    loader = torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        validate()
    words = [str(warning.message) for warning in caught]
    for expected in ("LeafSpec", "does not have many workers", "but have no logger configured"):
        assert any(expected in text for text in words), gone(f"the warning with {expected!r}")
    with internals.quiet_warnings():
        validate()


def test_steps_of_a_fit_are_replaced_for_one_epoch():
    class Schedules(Quadratic):
        def configure_optimizers(self):
            sgd = super().configure_optimizers()
            return [sgd], [{"scheduler": torch.optim.lr_scheduler.StepLR(sgd, 1), "interval": "step"}]

    module, used, seen = Schedules(), trainer(max_epochs=3), []
    loop = used.fit_loop.epoch_loop
    assert hasattr(loop.automatic_optimization, "_training_step"), gone("_AutomaticOptimization._training_step")
    assert hasattr(loop, "update_lr_schedulers"), gone("epoch_loop.update_lr_schedulers")
    internals.replace_steps(used, lambda batch, number, compute: seen.append((len(batch[0]), number, compute().item())))
    batches = holdings(pairs(*[(1.0, 2.0)] * 3), batch=2).shard_batches(0)
    with internals.quiet_warnings():
        used.fit(module, batches, val_dataloaders=internals.no_validation(module))
    assert seen == [(3, 0, 2.0)], gone("automatic_optimization.run")
    assert module.w.item() == 0.0
    assert used.global_step == 0


def test_a_precision_plugin_has_its_scaler_under_one_name():
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    assert hasattr(scaled, "scaler"), gone("precision_plugin.scaler")
    used = trainer()
    assert not internals.scales_gradients(used), gone("a precision plugin without a scaler")
    used.strategy.precision_plugin = scaled
    assert internals.scales_gradients(used), gone("trainer.precision_plugin.scaler")


def test_averaging_callbacks_keep_their_settings_under_known_names():
    first = internals.average_function(WeightAveraging())
    assert first(torch.tensor(1.0), torch.tensor(3.0), 1) == 2.0, gone("WeightAveraging._kwargs")
    moving = internals.average_function(EMAWeightAveraging(decay=0.75))
    assert moving(torch.tensor(0.0), torch.tensor(1.0), 1) == 0.25, gone("WeightAveraging._kwargs")
    settings = [(0.5, 4), (3, 4), (1, 4), (0.8, 1)]
    epochs = [internals.first_averaged_epoch(StochasticWeightAveraging(0.1, start), n) for start, n in settings]
    assert epochs == [1, 2, 0, 0], gone("StochasticWeightAveraging._swa_epoch_start")


def test_a_checkpoint_of_a_module_is_made_without_a_fit():
    used, module = trainer(), Quadratic(3.0)
    assert hasattr(used.strategy, "connect"), gone("trainer.strategy.connect")
    assert hasattr(used._checkpoint_connector, "dump_checkpoint"), gone("trainer._checkpoint_connector.dump_checkpoint")
    seen = []
    module.on_save_checkpoint = lambda checkpoint: seen.append(module.trainer)
    content = internals.weights_checkpoint(used, module)
    assert content["state_dict"]["w"].item() == 3.0
    assert "optimizer_states" not in content
    assert seen == [used]


def test_hyperparameters_that_cannot_be_pickled_are_removed():
    assert hasattr(parsing, "clean_namespace"), gone("lightning.pytorch.utilities.parsing.clean_namespace")
    module = Quadratic()
    module.save_hyperparameters({"width": 3, "activation": lambda x: x})
    with pytest.warns(UserWarning, match="'activation' removed from hparams"):
        internals.remove_unpicklable_hparams(module)
    assert dict(module.hparams) == {"width": 3}
