"""A light Trainer runs a fit as Lightning's own does: the same hooks in the same order, and the same numbers."""

import inspect

import pytest
import torch
from conftest import Quadratic, pairs
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.hooks import ModelHooks
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.states import RunningStage, TrainerState
from torchmetrics import CatMetric, MeanMetric

from fedlit.client.fit import light_trainer, lightning_hooks
from fedlit.client.fit.light_trainer import HostStrategy, LightTrainer, new_trainer
from fedlit.client.module.replica import ModuleReplica

pytestmark = pytest.mark.filterwarnings("ignore:.*(many workers|validation_step|LeafSpec)")  # of plain Trainers

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "devices": 1,
    "max_epochs": 2,
    "num_sanity_val_steps": 0,
}
HOOKS = [name for name in dir(Callback) if name.startswith(("on_", "setup", "teardown"))]
MODULE_HOOKS = [name for name in dir(ModelHooks) if name.startswith(("on_", "configure_model"))] + [
    *("setup", "teardown", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping", "backward"),
    *("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer", "lr_scheduler_step"),
]
STAGES = ("training", "validating", "testing", "predicting", "sanity_checking", "evaluating")


def look(trainer):
    """All that a hook can read of the state of a run."""
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    stages = tuple(getattr(trainer, stage) for stage in STAGES)
    return stages, trainer.global_step, trainer.current_epoch, metrics, str(trainer.strategy.root_device)


def recording(owner, name, events):
    method = getattr(owner, name)

    def hook(self, *args, **kwargs):
        trainer = self.trainer if isinstance(self, LightningModule) else args[0]
        events.append((owner.__name__, name, look(trainer)))
        return method(self, *args, **kwargs)

    return hook


class Steps(Quadratic):
    """A module with a metric, a scheduler and a validation."""

    def __init__(self):
        super().__init__(1.0, momentum=0.9)
        self.mean = MeanMetric()

    def training_step(self, batch, batch_idx):
        self.mean.update(batch[0][:, 1])
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def run(make, module_hooks=MODULE_HOOKS, callback_hooks=HOOKS, **options):
    """Fit a module that records hooks of its own and of a callback."""
    events = []
    module = type("Module", (Steps,), {name: recording(Steps, name, events) for name in module_hooks})()
    callback = type("Recorder", (Callback,), {name: recording(Callback, name, events) for name in callback_hooks})()
    batches = pairs(*[(1.0, i) for i in range(5)]).batches(None, 2)
    arguments = {**QUIET, "gradient_clip_val": 5.0, "accelerator": "cpu", **options}
    trainer = make(callbacks=[callback], **arguments)
    trainer.fit(module, train_dataloaders=batches, val_dataloaders=batches)
    return events, module.w.item(), trainer


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed", "accumulate_grad_batches": 2}], ids=["", "mixed"])
def test_each_hook_is_called_as_by_lightnings_own_trainer(options):
    own, light = (run(make, **options) for make in (Trainer, new_trainer))
    assert type(light[2]) is LightTrainer
    assert type(light[2].strategy) is HostStrategy
    assert own[:2] == light[:2]
    assert {name for _, name, _ in own[0]} >= {
        "on_before_optimizer_step",
        "on_train_end",
        "configure_model",
        "backward",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module_hooks", "callback_hooks"),
    [([], []), *(([name], []) for name in lightning_hooks.MODULE), *(([], [name]) for name in lightning_hooks.HOOKS)],
    ids=lambda hooks: " ".join(hooks) or "-",
)
def test_a_hook_that_alone_is_overridden_is_called_as_by_lightnings_own_trainer(module_hooks, callback_hooks):
    own, light = (run(make, module_hooks, callback_hooks, max_epochs=1) for make in (Trainer, new_trainer))
    assert own[:2] == light[:2]


@pytest.mark.parametrize("stage", [None, *RunningStage])
def test_the_training_stage_is_that_of_lightnings_own_property(stage):
    light, own = new_trainer(accelerator="cpu", **QUIET), Trainer(accelerator="cpu", **QUIET)
    for trainer in (light, own):
        trainer.state = TrainerState(stage=stage)
    assert light.training is own.training
    for value in (False, True):
        light.training = own.training = value
        assert (light.state.stage, light.training) == (own.state.stage, own.training)


@pytest.fixture
def fresh_process():
    """No environment variable was read yet."""
    light_trainer._has_environment_arguments.cache_clear()
    yield
    light_trainer._has_environment_arguments.cache_clear()


@pytest.mark.usefixtures("fresh_process")
def test_an_environment_variable_still_sets_an_argument(monkeypatch):
    monkeypatch.setenv("PL_TRAINER_GRADIENT_CLIP_VAL", "2.5")
    assert Trainer(accelerator="cpu", **QUIET).gradient_clip_val == 2.5
    assert new_trainer(accelerator="cpu", **QUIET).gradient_clip_val == 2.5


def test_a_trainer_reads_the_signature_of_its_class_for_environment_variables(monkeypatch):
    """If Lightning reads it in another way, the light Trainer could ask for variables again, and be slow."""
    seen, signature = [], inspect.signature
    monkeypatch.setattr(inspect, "signature", lambda of, **options: seen.append(of) or signature(of, **options))
    assert not signature(LightTrainer).parameters
    assert signature(Trainer).parameters
    new_trainer(accelerator="cpu", **QUIET)
    assert LightTrainer in seen


def test_a_strategy_of_the_user_stays():
    strategy = SingleDeviceStrategy("cpu")
    assert new_trainer(strategy=strategy, accelerator="cpu", **QUIET).strategy is strategy


@pytest.mark.parametrize(("device", "expected"), [("cpu", HostStrategy), ("cuda", SingleDeviceStrategy)])
def test_an_automatic_choice_of_the_device_stays_lightnings_own(device, expected, monkeypatch):
    monkeypatch.setattr(light_trainer, "_automatic_device", lambda: device)
    trainer = new_trainer(accelerator="auto", **QUIET)
    assert (type(trainer.strategy) is HostStrategy) == (expected is HostStrategy)


class Moves(Quadratic):
    """A module that moves by code of its own."""

    def __init__(self):
        super().__init__()
        self.moves = []

    def to(self, *args, **kwargs):
        self.moves.append("to")
        return super().to(*args, **kwargs)

    def cpu(self):
        self.moves.append("cpu")
        return super().cpu()


def test_a_module_that_moves_by_code_of_its_own_is_moved():
    module = Moves()
    new_trainer(accelerator="cpu", **QUIET).fit(module, train_dataloaders=pairs((1.0, 2.0)).batches(None, 1))
    assert module.moves == ["to", "cpu"]


class CountsMoves(torch.nn.Linear):
    """A layer with something of its own to move."""

    moves = 0

    def _apply(self, fn, recurse=True):
        self.moves += 1
        return super()._apply(fn, recurse)


def test_a_layer_that_moves_by_code_of_its_own_is_moved():
    module = Quadratic()
    module.layer = CountsMoves(1, 1)
    new_trainer(accelerator="cpu", **QUIET).fit(module, train_dataloaders=pairs((1.0, 2.0)).batches(None, 1))
    assert module.layer.moves == 2


def test_a_metric_whose_states_are_lists_gets_new_lists():
    """Metrics of one compute group share a list until a move."""
    module = Quadratic()
    module.metric, module.mean = CatMetric(), MeanMetric()
    shared, state = module.metric.value, module.mean.mean_value
    new_trainer(accelerator="cpu", **QUIET).fit(module, train_dataloaders=pairs((1.0, 2.0)).batches(None, 1))
    assert module.metric.value is not shared
    assert module.mean.mean_value is state


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_module_that_is_made_on_a_gpu_trains_on_the_cpu():
    replica = ModuleReplica(Quadratic().cuda())
    new_trainer(accelerator="cpu", **QUIET).fit(replica.module, train_dataloaders=pairs((1.0, 2.0)).batches(None, 1))
    assert replica.read().parameters["w"].device.type == "cpu"


def test_an_action_of_the_user_has_lightnings_own_profile():
    profile = new_trainer(accelerator="cpu", **QUIET).profiler.profile
    with profile("mine") as name:
        assert name == "mine"
    assert profile("mine")(lambda: 3)() == 3


def test_a_move_that_a_module_has_on_its_instance_is_called():
    module, moves = Quadratic(), []
    module.cpu = lambda: moves.append("cpu")
    new_trainer(accelerator="cpu", limit_val_batches=0, **QUIET).fit(
        module, train_dataloaders=pairs((1.0, 2.0)).batches(None, 1)
    )
    assert moves == ["cpu"]
