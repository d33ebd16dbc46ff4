"""Refused callbacks, by one rule for `trainer.callbacks` and a module's `configure_callbacks`, and refused arguments."""

import pytest
from conftest import Quadratic, holdings, pairs
from lightning.pytorch import callbacks as lightning_callbacks

from fedlit.client.evaluation import evaluate_split
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import LocalTrainer, TrainerConfig
from fedlit.core.errors import ConfigError
from fedlit.experiment.config.trainer_args import make_trainer_config
from fedlit.server.schedule import Schedule

REFUSED = {
    "ModelCheckpoint": {"dirpath": "ck"},
    "OnExceptionCheckpoint": {"dirpath": "ck"},
    "TQDMProgressBar": {},
    "RichProgressBar": {},
    "ModelSummary": {},
    "RichModelSummary": {},
    "LearningRateMonitor": {},
    "DeviceStatsMonitor": {},
}
ALLOWED = {
    "EarlyStopping": {"monitor": "train/loss"},
    "Timer": {},
    "GradientAccumulationScheduler": {"scheduling": {0: 2}},
}


def make(name, options):
    return getattr(lightning_callbacks, name)(**options)


class WithCallbacks(Quadratic):
    """A module with a callback of its own."""

    def __init__(self, name, options):
        super().__init__(1.0)
        self.arguments = name, options

    def configure_callbacks(self):
        return make(*self.arguments)


def local(module, callbacks=list):
    config = TrainerConfig({"accelerator": "cpu"}, callbacks)
    data = holdings(pairs((1.0, 2.0), (2.0, 1.0)), batch=1)
    return LocalTrainer(ModuleReplica(module), config, data, 2, 0, 0)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder, in which a test leaves nothing."""
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", REFUSED)
def test_a_callback_that_writes_prints_or_logs_is_refused_from_both_places(name):
    options = REFUSED[name]
    trainer = local(Quadratic(1.0), lambda: [make(name, options)])
    with pytest.raises(ConfigError, match=f"^callbacks={name}: is not allowed for a client's Trainer; leave it out"):
        trainer.fit(trainer.replica.read())
    with pytest.raises(ConfigError, match=f"callbacks={name}: is not allowed"):
        make_trainer_config({"accelerator": "cpu"}, lambda: [make(name, options)], Schedule())
    trainer = local(WithCallbacks(name, options))
    message = f"^model=WithCallbacks: makes a {name} in configure_callbacks, which is not allowed .*; leave it out"
    model = trainer.replica.read()
    for use in (
        lambda: trainer.fit(model),
        lambda: trainer.loss(model),
        lambda: evaluate_split(
            trainer.replica, trainer.trainer_config, model, trainer.data.shard_batches(0), "val", trainer.data
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            use()


@pytest.mark.parametrize("name", ALLOWED)
def test_other_callbacks_act_from_both_places(name):
    options = ALLOWED[name]
    trainer = local(Quadratic(1.0), lambda: [make(name, options)])
    own = local(WithCallbacks(name, options))
    start = trainer.replica.read()
    assert trainer.fit(start).steps == own.fit(start).steps


@pytest.mark.parametrize("name", ["logger", "enable_checkpointing", "profiler", "plugins"])
def test_an_argument_that_a_fit_sets_itself_is_refused(name):
    with pytest.raises(ConfigError, match=f"^options={name}: is set by a local fit itself; leave it out$"):
        TrainerConfig({"accelerator": "cpu", name: True})
