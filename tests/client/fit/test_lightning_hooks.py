"""Canaries of Lightning's private APIs around hooks; and a hook that is called sees what Lightning shows it."""

from importlib.metadata import version

import pytest
from conftest import Quadratic, pairs
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.trainer import call

from fedlit.client.fit import lightning_hooks as hooks
from fedlit.client.fit.light_trainer import new_trainer

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def gone(what):
    return f"lightning {version('lightning')}: {what} has changed; adapt fedlit/client/fit/lightning_hooks.py"


@pytest.mark.parametrize("owner", [LightningModule, Callback], ids=lambda owner: owner.__name__)
@pytest.mark.parametrize("name", hooks.HOOKS)
def test_a_hook_that_is_not_called_does_nothing(owner, name):
    code = getattr(owner, name).__code__
    assert code.co_names == (), gone(name)
    assert set(code.co_consts) <= {getattr(owner, name).__doc__, None}, gone(name)


@pytest.mark.parametrize("name", ["on_before_batch_transfer", "on_after_batch_transfer"])
def test_a_hook_of_batches_that_is_not_called_returns_the_batch(name):
    batch = object()
    assert getattr(LightningModule(), name)(batch, 0) is batch, gone(name)


class Base(Callback):
    def on_train_batch_end(self, *_):
        pass


class Inherits(Base):
    pass


def test_a_hook_is_lightnings_own_until_a_class_or_an_object_overrides_it():
    assert hooks.is_own(Callback(), "on_train_batch_end")
    assert not hooks.is_own(Inherits(), "on_train_batch_end")
    assert hooks.is_own(Inherits(), "on_train_batch_start")
    module = Quadratic()
    assert all(hooks.is_own(module, name) for name in hooks.MODULE), gone("a hook")
    module.on_train_batch_start = lambda batch, batch_idx: -1
    assert not hooks.is_own(module, "on_train_batch_start")


class Looks(Callback):
    """Records the name of the hook under which the module would log."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.seen.append((pl_module._current_fx_name, args))


class Module(Quadratic):
    """Records as `Looks` does."""

    def on_train_batch_end(self, *args):
        self.seen.append((self._current_fx_name, args))


def attached():
    """A Trainer with two callbacks that record, and its module."""
    module, trainer = (
        Module(),
        new_trainer(accelerator="cpu", devices=1, callbacks=[Looks(), Callback(), Looks()], **QUIET),
    )
    trainer.strategy.connect(module)
    module.trainer, module._current_fx_name, module.seen = trainer, "outer", []
    return trainer, module


@pytest.mark.parametrize(
    ("light", "own"),
    [
        (lambda *args: hooks.call_callbacks(*args), call._call_callback_hooks),
        (lambda *args: hooks.call_module(*args), call._call_lightning_module_hook),
    ],
    ids=["callbacks", "module"],
)
def test_a_hook_that_acts_sees_what_lightning_shows_it(light, own):
    seen = []
    for function in (light, own):
        trainer, module = attached()
        function(trainer, "on_train_batch_end", {}, "batch", 3)
        assert module._current_fx_name == "outer", gone("_current_fx_name")
        seen.append((module.seen, [callback.seen for callback in trainer.callbacks if isinstance(callback, Looks)]))
    assert seen[0] == seen[1]
    assert sum(map(bool, (seen[0][0], *seen[0][1]))) in (1, 2)  # of the module, or of both callbacks


def test_a_hook_of_the_strategy_has_the_name_under_which_lightning_calls_it():
    def light(trainer, hook, *args):
        return hooks.call_as(trainer, hook, trainer.strategy.training_step, *args)

    for function in (light, lambda *args: hooks.call_strategy(*args), call._call_strategy_hook):
        trainer, module = attached()
        names = []
        trainer.strategy.training_step = lambda *args, module=module, names=names: (
            names.append(module._current_fx_name) or args
        )
        assert function(trainer, "training_step", 1, 2) == (1, 2)
        assert (names, module._current_fx_name) == (["training_step"], "outer"), gone("_call_strategy_hook")


@pytest.mark.filterwarnings("ignore:.*LeafSpec")
def test_hooks_that_nobody_overrides_are_not_called(monkeypatch):
    called, original = [], call._call_lightning_module_hook

    def record(trainer, name, *args, **kwargs):
        called.append(name)
        return original(trainer, name, *args, **kwargs)

    monkeypatch.setattr(call, "_call_lightning_module_hook", record)
    trainer = new_trainer(
        accelerator="cpu", devices=1, max_epochs=1, callbacks=[Callback()], limit_val_batches=0, **QUIET
    )
    trainer.fit(Quadratic(), val_dataloaders=[], train_dataloaders=pairs((1.0, 2.0)).batches(None, 1))
    assert "configure_optimizers" in called, gone("_call_lightning_module_hook")
    assert not {*called} & {*hooks.MODULE}
