"""Local training by a real Trainer, compared with loops written by hand."""

import gc
import pickle
import random
import weakref
from collections import deque
from contextlib import suppress

import numpy as np
import pytest
import torch
from conftest import Quadratic, holdings, images, pairs
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn

from fedlit.aggregation.channel import channel_states
from fedlit.algorithms.algorithm import Local
from fedlit.client.evaluation import evaluate_split
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.steps.optimizer_state import algorithm_state, optimizer_state
from fedlit.client.trainer import FIXED_ARGS, LocalTrainer, TrainerConfig
from fedlit.core.errors import ConfigError
from fedlit.core.model import GradientTerm
from fedlit.models import Classifier
from fedlit.server.schedule import Schedule

ROWS = ((1.0, 2.0), (3.0, -1.0), (2.0, 0.5), (0.5, 4.0))


def local(module, rows=ROWS, batch=None, round=0, client=0, **settings):
    samples = rows if not isinstance(rows, tuple) else pairs(*rows)
    options = settings.pop("options", {})
    config = TrainerConfig({"accelerator": "cpu", **options}, **settings)
    data = holdings(samples, [client] * len(samples), clients=client + 1, batch=batch or "full")
    return LocalTrainer(ModuleReplica(module), config, data, len(samples), round, client)


def descend(w, steps, lr=0.1, mu=0.0, center=0.0, offset=0.0, rows=ROWS):
    for _ in range(steps):
        gradient = sum(a * (w - b) for a, b in rows) / len(rows)
        w -= lr * (gradient + mu * (w - center) + offset)
    return w


def fit(module, *terms, **more):
    trainer = local(module, **more)
    return trainer.fit(trainer.replica.read(), *terms)


def test_plain_descent_equals_the_loop_and_counts_its_steps():
    result = fit(Quadratic(1.0), epochs=3)
    assert result.model.parameters["w"].item() == pytest.approx(descend(1.0, 3), abs=1e-6)
    assert (result.steps, result.examples) == (3, 4)


def test_steps_win_over_epochs():
    assert fit(Quadratic(), epochs=1, steps=5).steps == 5


@pytest.mark.parametrize(
    "term", [{"mu": 0.7, "center": 3.0}, {"offset": -0.4}, {"mu": 0.7, "center": 3.0, "offset": 1.5}]
)
def test_a_term_is_added_to_every_gradient(term):
    tensors = {key: {"w": torch.tensor([value])} for key, value in term.items() if key != "mu"}
    result = fit(Quadratic(1.0), GradientTerm(mu=term.get("mu", 0.0), **tensors), steps=4)
    assert result.model.parameters["w"].item() == pytest.approx(descend(1.0, 4, **term), abs=1e-6)


def test_two_terms_are_summed():
    one = GradientTerm(offset={"w": torch.tensor([1.0])})
    assert fit(Quadratic(), one, one, steps=2).model.parameters["w"].item() == pytest.approx(
        descend(0.0, 2, offset=2.0), abs=1e-6
    )


def test_a_term_is_added_once_a_step_under_accumulation_and_before_clipping():
    term = GradientTerm(offset={"w": torch.tensor([10.0])})
    result = fit(Quadratic(), term, batch=1, steps=2, options={"accumulate_grad_batches": 4})
    assert result.model.parameters["w"].item() == pytest.approx(descend(0.0, 2, offset=10.0), abs=1e-6)
    assert result.steps == 2
    clipped = fit(Quadratic(), term, steps=2, options={"gradient_clip_val": 0.5})
    assert clipped.model.parameters["w"].item() == pytest.approx(-2 * 0.1 * 0.5, abs=1e-6)


class SkipsTwo(Quadratic):
    """Two of seven batches have no loss."""

    def training_step(self, batch, batch_idx):
        return None if batch_idx in (2, 5) else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
def test_a_batch_without_a_loss_has_no_term_and_is_no_step():
    term = GradientTerm(offset={"w": torch.tensor([0.3])})
    result = fit(SkipsTwo(), term, batch=1, rows=((1.0, 0.0),) * 7)
    assert result.model.parameters["w"].item() == pytest.approx(
        descend(0.0, 5, offset=0.3, rows=((1.0, 0.0),)), abs=1e-6
    )
    assert result.steps == 5
    assert result.displacement == {"w": pytest.approx(0.5)}


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
def test_a_step_has_as_much_of_a_term_as_of_batches():
    term = GradientTerm(mu=0.5, center={"w": torch.tensor([3.0])}, offset={"w": torch.tensor([0.3])})
    result = fit(SkipsTwo(), term, batch=1, rows=((1.0, 0.0),) * 7, options={"accumulate_grad_batches": 4})
    w = d = 0.0
    for share in (3 / 4, 2 / 4):  # batches 0, 1 and 3; batches 4 and 6
        w -= 0.1 * share * (w + 0.5 * (w - 3) + 0.3)
        d += 0.1 * share * (1 - 0.5 * d)
    assert result.model.parameters["w"].item() == pytest.approx(w, abs=1e-6)
    assert result.displacement == {"w": pytest.approx(d)}
    assert result.steps == 2


def test_a_manual_step_without_gradients_has_no_term_and_is_no_step():
    class StepsTwice(Quadratic):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.step()
            self.manual_backward(self.training_loss(batch))
            optimizer.step()
            optimizer.zero_grad()

    result = fit(StepsTwice(), GradientTerm(offset={"w": torch.tensor([0.3])}), epochs=2)
    assert result.model.parameters["w"].item() == pytest.approx(descend(0.0, 2, offset=0.3), abs=1e-6)
    assert result.steps == 2


def test_steps_of_an_optimizer_that_the_trainer_does_not_know_are_counted():
    class OwnOptimizer(Quadratic):
        def __init__(self):
            super().__init__(1.0)
            self.automatic_optimization = False

        def on_fit_start(self):
            self.own = torch.optim.SGD(self.parameters(), lr=0.1)

        def training_step(self, batch, batch_idx):
            self.own.zero_grad()
            self.manual_backward(self.training_loss(batch))
            self.own.step()

        def configure_optimizers(self):
            return None

    with pytest.warns(UserWarning, match="returned `None`"):
        result = fit(OwnOptimizer(), epochs=3)
    assert (result.steps, result.model.parameters["w"].item()) == (3, pytest.approx(descend(1.0, 3), abs=1e-6))


class StepsInside(Quadratic):
    """Automatic optimisation of w; `training_step` steps an optimizer of its own for v."""

    def __init__(self):
        super().__init__(1.0)
        self.v = nn.Parameter(torch.tensor([2.0]))

    def training_step(self, batch, batch_idx):
        own = torch.optim.SGD([self.v], lr=0.2)
        own.zero_grad()
        self.v.square().sum().backward()
        own.step()
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD([self.w], lr=0.1)


def test_a_step_inside_of_training_step_is_a_step_of_its_own():
    result = fit(StepsInside(), epochs=2, lr_factor=lambda t: 0.5)
    assert result.steps == 4
    assert result.model.parameters["w"].item() == pytest.approx(descend(1.0, 2, lr=0.05), abs=1e-6)
    assert result.model.parameters["v"].item() == pytest.approx(2.0 * (1 - 2 * 0.1) ** 2)
    with pytest.raises(ConfigError, match="takes 4 optimizer steps, and Lightning announces 2 of them"):
        fit(StepsInside(), GradientTerm(mu=0.1, center={"w": torch.zeros(1)}), epochs=2)


def test_a_step_without_terms_is_found_beside_steps_that_evaluate_twice():
    class Twice(StepsInside):
        def configure_optimizers(self):
            return torch.optim.LBFGS([self.w], lr=0.1, max_iter=3)

    with pytest.raises(ConfigError, match="takes 4 optimizer steps, and Lightning announces 1 of them"):
        fit(Twice(), GradientTerm(mu=0.1, center={"w": torch.zeros(1)}))


def test_the_displacement_has_the_steps_of_each_optimizer():
    class OwnOptimizer(StepsInside):
        def on_fit_start(self):
            self.own = torch.optim.SGD([self.v], lr=0.2)

        def training_step(self, batch, batch_idx):
            self.own.zero_grad()
            self.v.sum().backward()
            self.own.step()
            return Quadratic.training_step(self, batch, batch_idx)

    result = fit(OwnOptimizer(), epochs=2)
    assert result.displacement == {"w": pytest.approx(0.2), "v": pytest.approx(0.4)}


def test_optimizers_on_copies_of_the_weights_are_left_alone():
    """An inner loop on copies, as meta-learning has one: its rate is not the client's, and it is not kept alive."""
    alive = []

    class InnerLoop(Quadratic):
        def training_step(self, batch, batch_idx):
            fast = self.w.detach().clone().requires_grad_()
            inner = torch.optim.SGD([fast], lr=0.3)
            alive.append(weakref.ref(inner))
            fast.square().sum().backward()
            inner.step()
            self.moved = float(fast.detach() - 0.4 * self.w.detach())
            assert self.moved == pytest.approx(0.0, abs=1e-6)
            return super().training_step(batch, batch_idx)

        def on_train_batch_start(self, batch, batch_idx):
            gc.collect()
            assert not any(reference() for reference in alive)

    assert fit(InnerLoop(1.0), epochs=3, lr_factor=lambda t: 0.5).steps == 3
    assert len(alive) == 3


def test_a_step_that_fails_leaves_the_next_one_as_it_was():
    class Fails(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            raise ArithmeticError

    class Retries(Quadratic):
        def __init__(self):
            super().__init__(1.0)
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            assert optimizer.param_groups[0]["lr"] == 0.1
            self.manual_backward(self.training_loss(batch))
            with suppress(ArithmeticError):
                optimizer.step()
            optimizer.zero_grad()

        def configure_optimizers(self):
            return Fails(self.parameters(), lr=0.1)

    result = fit(Retries(), epochs=3, lr_factor=lambda t: 0.5)
    assert result.model.parameters["w"].item() == pytest.approx(descend(1.0, 3, lr=0.05), abs=1e-6)


def test_an_optimizer_may_catch_the_failure_of_one_inside_of_it():
    class Fails(torch.optim.SGD):
        def step(self, closure=None):
            raise ArithmeticError

    class FallsBack(torch.optim.SGD):
        def __init__(self, params, lr):
            super().__init__(params, lr)
            self.risky = Fails(self.param_groups[0]["params"], lr=lr)

        def step(self, closure=None):
            with torch.enable_grad():
                closure()
            try:
                self.risky.step()
            except ArithmeticError:
                super().step()

    class Careful(Quadratic):
        def configure_optimizers(self):
            return FallsBack(self.parameters(), lr=0.1)

    result = fit(Careful(1.0), epochs=3, lr_factor=lambda t: 0.5)
    assert result.model.parameters["w"].item() == pytest.approx(descend(1.0, 3, lr=0.05), abs=1e-6)
    assert result.steps == 3


def test_a_subclass_of_sgd_with_its_own_step_has_no_known_displacement():
    class Doubles(torch.optim.SGD):
        def step(self, closure=None):
            loss = super().step(closure)
            super().step()
            return loss

    class Doubled(Quadratic):
        def configure_optimizers(self):
            return Doubles(self.parameters(), lr=0.1)

    result = fit(Doubled(1.0))
    assert result.steps == 1
    with pytest.raises(ConfigError, match="Doubles: has no known step length"):
        result.displacement  # noqa: B018


def test_an_optimizer_of_sparse_gradients_alone_is_refused_with_terms(monkeypatch):
    monkeypatch.setattr(Quadratic, "configure_optimizers", lambda self: torch.optim.SparseAdam(self.parameters()))
    with pytest.raises(ConfigError, match="SparseAdam: takes sparse gradients alone"):
        fit(Quadratic(), GradientTerm(mu=0.1, center={"w": torch.zeros(1)}))


def test_a_term_moves_parameters_that_the_loss_does_not_reach():
    class Unused(Quadratic):
        def __init__(self):
            super().__init__()
            self.idle, self.frozen = (
                nn.Parameter(torch.tensor([1.0])),
                nn.Parameter(torch.tensor([1.0]), requires_grad=False),
            )

    tensors = {"w": torch.zeros(1), "idle": torch.tensor([2.0]), "frozen": torch.tensor([2.0])}
    after = fit(Unused(), GradientTerm(offset=tensors), steps=1).model.parameters
    assert after["idle"].item() == pytest.approx(1.0 - 0.1 * 2.0)
    assert after["frozen"].item() == 1.0


def test_the_learning_rate_of_a_round_scales_the_modules_own_scheduler():
    class Scheduled(Quadratic):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.5**n)},
            }

    result = fit(Scheduled(1.0), epochs=3, lr_factor=lambda t: 0.3 if t == 5 else 1.0, round=5)
    w = 1.0
    for epoch in range(3):
        w = descend(w, 1, lr=0.1 * 0.3 * 0.5**epoch)
    assert result.model.parameters["w"].item() == pytest.approx(w, abs=1e-6)


class OwnRate(torch.optim.SGD):
    """An optimizer that sets its rate inside of its step."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = 0.9 * group["lr"]
        return super().step(closure)


class OtherName(torch.optim.SGD):
    """An optimizer whose rate has another name."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.rate = self.param_groups[0].pop("lr")

    def step(self, closure=None):
        self.param_groups[0]["lr"] = self.rate
        loss = super().step(closure)
        del self.param_groups[0]["lr"]
        return loss


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (OwnRate, "OwnRate sets its learning rate inside of its step, where the round's factor is lost"),
        (OtherName, "OtherName has a parameter group without a number `lr`"),
    ],
)
def test_an_optimizer_with_a_rate_out_of_reach_is_refused_under_a_schedule_over_rounds(monkeypatch, kind, problem):
    monkeypatch.setattr(Quadratic, "configure_optimizers", lambda self: kind(self.parameters(), lr=0.1))
    assert fit(Quadratic()).steps == 1
    with pytest.raises(ConfigError, match=problem) as error:
        fit(Quadratic(), lr_factor=lambda t: 1.0)
    assert error.value.key == "schedule.lr"


def test_a_module_that_steps_without_lightning_is_refused_with_terms():
    class BypassesLightning(Quadratic):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            self.manual_backward(self.training_loss(batch))
            optimizer.step()

    assert fit(BypassesLightning()).steps == 1
    with pytest.raises(ConfigError, match="takes 1 optimizer steps, and Lightning announces 0 of them"):
        fit(BypassesLightning(), GradientTerm(offset={"w": torch.ones(1)}))


def test_logged_metrics_are_those_at_the_end_of_the_fit():
    result = fit(Quadratic(1.0), epochs=2)
    loss = sum(a / 2 * (descend(1.0, 1) - b) ** 2 for a, b in ROWS) / 4
    assert result.metrics["train/loss"] == pytest.approx(loss, abs=1e-5)


def test_an_empty_shard_takes_no_step():
    trainer = local(Quadratic(), rows=pairs())
    model = trainer.replica.read()
    result = trainer.fit(model)
    assert (result.model, result.steps, result.examples, result.metrics) == (model, 0, 0, {})
    assert trainer.loss(model) == 0.0


def test_the_loss_is_the_mean_over_the_shard_in_eval_mode():
    trainer = local(Quadratic(), batch=3)
    model = trainer.replica.read()
    assert trainer.loss(model) == pytest.approx(sum(a / 2 * b**2 for a, b in ROWS) / 4, abs=1e-6)
    cnn = Classifier("fedlit.models.SimpleCNN", [1, 8, 8], 3, {"name": "sgd", "lr": 0.1}, dropout=0.5)
    trainer = local(cnn, rows=images(20), batch=7)
    assert trainer.loss(trainer.replica.read()) == trainer.loss(trainer.replica.read())
    assert cnn.training
    assert cnn.train_accuracy.update_count == 0


def test_the_loss_of_a_module_with_manual_optimization_is_refused():
    module = Quadratic()
    module.automatic_optimization = False
    trainer = local(module)
    with pytest.raises(ValueError, match="uses manual optimization"):
        trainer.loss(trainer.replica.read())


def test_several_optimizers_under_manual_optimization_work_with_terms():
    class Two(Quadratic):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.v = nn.Parameter(torch.tensor([0.0]))

        def training_step(self, batch, batch_idx):
            for optimizer, parameter in zip(self.optimizers(), (self.w, self.v), strict=True):
                optimizer.zero_grad()
                self.manual_backward((parameter - 1).sum() ** 2)
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD([self.w], lr=0.1), torch.optim.SGD([self.v], lr=0.2)]

    result = fit(Two(), GradientTerm(offset={"w": torch.tensor([1.0]), "v": torch.tensor([1.0])}), epochs=1)
    assert result.model.parameters["w"].item() == pytest.approx(0.1 * (2 - 1))
    assert result.model.parameters["v"].item() == pytest.approx(0.2 * (2 - 1))
    assert result.steps == 2


def test_each_fit_has_new_callbacks():
    stoppers = []

    def callbacks():
        stoppers.append(EarlyStopping("train/loss", patience=1, min_delta=1e9, check_on_train_epoch_end=True))
        return stoppers[-1:]

    trainer = local(Quadratic(), epochs=10, callbacks=callbacks)
    first, second = (trainer.fit(trainer.replica.read()) for _ in range(2))
    assert (first.steps, second.steps) == (2, 2)
    assert stoppers[0] is not stoppers[1]


def test_metrics_logged_at_the_end_of_an_epoch_reach_monitoring_callbacks():
    class LogsAtTheEnd(Quadratic):
        def on_train_epoch_end(self):
            self.log("score", torch.tensor(float(self.current_epoch)))

    stop = EarlyStopping("score", patience=1, mode="min", check_on_train_epoch_end=True)
    result = fit(LogsAtTheEnd(), epochs=10, callbacks=lambda: [stop])
    assert result.steps == 2
    assert result.metrics["score"] == 1.0


class Draws(Callback):
    def on_train_start(self, trainer, pl_module):
        self.numbers = (torch.rand(1).item(), np.random.rand(), random.random())


def test_global_random_numbers_are_keyed_by_seed_round_and_client():
    seen = []
    for round, client in ((0, 0), (0, 0), (0, 1), (1, 0)):
        draws = Draws()
        fit(Quadratic(), round=round, client=client, callbacks=lambda draws=draws: [draws])
        seen.append(draws.numbers)
    assert seen[0] == seen[1]
    assert len({seen[0], seen[2], seen[3]}) == 3


def test_a_fit_does_not_influence_the_next_fit_of_the_same_module():
    trainer = local(Quadratic(momentum=0.9), epochs=2)
    start = trainer.replica.read()
    first = trainer.fit(start).model.parameters["w"].item()
    assert trainer.fit(start).model.parameters["w"].item() == first
    assert start.parameters["w"].item() == 0.0
    assert "log" not in vars(trainer.replica.module)


def test_persistent_buffers_are_read_and_loaded_and_others_are_not():
    module = Classifier("fedlit.models.SimpleCNN", [1, 8, 8], 3, {"name": "sgd", "lr": 0.1}, norm="batch")
    module.register_buffer("scratch", torch.zeros(1), persistent=False)
    trainer = local(module, rows=images(20), batch=10)
    before = trainer.replica.read()
    after = trainer.fit(before).model
    assert set(before.buffers) == {
        f"network.features.{i}.{n}" for i in (1, 5) for n in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert after.buffers["network.features.1.num_batches_tracked"] == 2
    trainer.replica.load(before)
    assert module.network.features[1].num_batches_tracked == 0
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.state_dict().items())


@pytest.mark.parametrize(
    ("split", "name", "expected"),
    [
        ("val", "val/loss", "val/loss"),
        ("val", "loss", "val/loss"),
        ("test", "val_loss", "test_loss"),
        ("test", "loss", "test/loss"),
        ("test", "value", "test/value"),
        ("test", "validation/loss", "test/validation/loss"),
    ],
)
def test_logged_names_become_names_of_the_split(split, name, expected):
    class Own(Quadratic):
        def validation_step(self, batch, batch_idx):
            self.log(name, self.training_loss(batch))

    replica, data = ModuleReplica(Own(1.0)), holdings(pairs(*ROWS))
    batches = data.train.batches(None, 3)
    scores = evaluate_split(replica, TrainerConfig({"accelerator": "cpu"}), replica.read(), batches, split, data)
    assert scores == {expected: pytest.approx(sum(a / 2 * (1 - b) ** 2 for a, b in ROWS) / 4, abs=1e-5)}


def test_a_fit_installs_no_handler_for_signals_of_slurm(monkeypatch):
    import signal

    for name, value in (
        ("SLURM_NTASKS", "1"),
        ("SLURM_JOB_NAME", "job"),
        ("SLURM_JOB_ID", "1"),
        ("SLURM_PROCID", "0"),
        ("SLURM_LOCALID", "0"),
    ):
        monkeypatch.setenv(name, value)
    handlers = []

    class ReadsHandler(Callback):
        def on_train_start(self, trainer, pl_module):
            handlers.append(signal.getsignal(signal.SIGUSR1))

    fit(Quadratic(), callbacks=lambda: [ReadsHandler()])
    assert handlers == [signal.SIG_DFL]


def test_a_fused_optimizer_under_a_scaler_is_refused():
    class AddsScaler(Callback):
        def setup(self, trainer, pl_module, stage):
            trainer.strategy.precision_plugin.scaler = object()

    with pytest.raises(ConfigError, match=r"before they can be unscaled; set model\.optimizer\.fused=false"):
        fit(Quadratic(fused=True), callbacks=lambda: [AddsScaler()])


def test_fixed_arguments_are_arguments_of_a_trainer():
    import inspect

    from lightning.pytorch import Trainer

    assert set(FIXED_ARGS) <= set(inspect.signature(Trainer.__init__).parameters)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_fit_on_a_gpu_is_repeatable_and_close_to_the_cpu():
    module = Classifier("fedlit.models.SimpleCNN", [1, 8, 8], 3, {"name": "sgd", "lr": 0.1}, dropout=0.0)
    start = ModuleReplica(module).read()
    samples = images(40)
    results = []
    for accelerator in ("gpu", "gpu", "cpu"):
        device = torch.device("cuda" if accelerator == "gpu" else "cpu")
        data = holdings(samples, batch=10).to(device)
        trainer = LocalTrainer(
            ModuleReplica(module), TrainerConfig({"accelerator": accelerator}, epochs=2), data, 40, 0, 0
        )
        results.append(trainer.fit(start, GradientTerm(mu=0.1, center=start.parameters)).model.parameters)
        assert trainer.loss(start) == pytest.approx(np.log(3), abs=0.5)
    for name in start.parameters:
        assert torch.equal(results[0][name], results[1][name])
        assert torch.allclose(results[0][name], results[2][name], atol=1e-3)


class ChangesItself(Quadratic):
    """Counts its steps, freezes a parameter, and changes a scratch buffer."""

    def __init__(self):
        super().__init__(1.0)
        self.count, self.seen = 0, []
        self.register_buffer("scratch", torch.zeros(1), persistent=False)
        self.v = nn.Parameter(torch.tensor([1.0]))

    def training_step(self, batch, batch_idx):
        self.count += 1
        self.seen.append(self.count)
        self.scratch += 1
        self.new = len(self.seen)
        return self.training_loss(batch) * (self.count + self.scratch.sum() + len(self.seen)) + (self.v**2).sum()

    def on_train_epoch_end(self):
        self.v.requires_grad_(False)
        self.layer_is_frozen = True


def test_changes_of_the_module_in_a_fit_do_not_reach_the_next_fit():
    trainer = local(ChangesItself(), epochs=2)
    start = trainer.replica.read()
    first, second = (trainer.fit(start).model.parameters for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    trainer.replica.load(start)
    module = trainer.replica.module
    assert (module.count, module.seen, module.scratch.item(), module.v.requires_grad) == (0, [], 0.0, True)
    assert not hasattr(module, "new")


class Meter:
    """Neither a number nor a container: a snapshot cannot restore its content."""

    total = 0.0


class ChangesObjects(Quadratic):
    """Changes objects in its attributes, and uses them in its loss."""

    def __init__(self):
        super().__init__(1.0)
        self._scale, self.table = torch.ones(1), np.ones(2)
        self.recent, self.means = deque([1.0], maxlen=3), {"a": [torch.ones(1)]}
        self.draws, self.numpy_draws = torch.Generator().manual_seed(1), np.random.default_rng(1)
        self.same = self._scale
        self.own = [self.w]  # weights are no part of a snapshot

    def training_step(self, batch, batch_idx):
        self._scale += 1
        self.table *= 2
        self.recent.append(self.recent[-1] * 2)
        self.means["a"][0] += 1
        self.means["b"] = [torch.ones(1)]
        self._late = getattr(self, "_late", 0) + 1
        self._meter = getattr(self, "_meter", Meter())
        self._meter.total += 1
        noise = torch.rand(1, generator=self.draws) + self.numpy_draws.random()
        counted = self.same + float(self.table.sum()) + self.recent[-1] + self.means["a"][0]
        return self.training_loss(batch) * (counted + noise + self._late + len(self.means) + self._meter.total)


def test_tensors_arrays_containers_and_generators_are_restored_in_place():
    trainer = local(ChangesObjects(), epochs=2)
    start = trainer.replica.read()
    first, second = (trainer.fit(start).model.parameters["w"] for _ in range(2))
    assert torch.equal(first, second)
    trainer.replica.load(start)
    module = trainer.replica.module
    assert (module._scale.item(), module.table.tolist(), list(module.recent)) == (1.0, [1.0, 1.0], [1.0])
    assert list(module.means) == ["a"]
    assert module.means["a"][0].item() == 1.0
    assert module.same is module._scale
    assert module.own[0] is module.w
    assert not {"_late", "_meter"} & set(vars(module))


def test_a_snapshot_still_restores_after_pickling():
    replica = pickle.loads(pickle.dumps(local(ChangesObjects(), epochs=2).replica))
    replica.module._scale += 1
    replica.load(replica.read())
    assert replica.module.same.item() == 1.0


class Deferred(Quadratic):
    def configure_model(self):
        if "layer" not in self._modules:
            self.layer = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean() + self.training_loss(batch)


def test_layers_of_configure_model_are_trained_and_read():
    trainer = local(Deferred())
    before = trainer.replica.read()
    assert set(before.parameters) == {"w", "layer.weight", "layer.bias"}
    assert not torch.equal(trainer.fit(before).model.parameters["layer.weight"], before.parameters["layer.weight"])
    assert trainer.replica.new_parameters() == []


class Late(Quadratic):
    def setup(self, stage):
        self.late = nn.Linear(1, 1)


def test_layers_that_a_fit_creates_are_reported():
    trainer = local(Late())
    trainer.fit(trainer.replica.read())
    assert trainer.replica.new_parameters() == ["late.weight", "late.bias"]


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        (nn.LazyLinear(3), "without a shape before the first batch: layer.weight"),
        (nn.Linear(2, 2, dtype=torch.complex64), "an update keeps only their real part: layer.weight"),
    ],
)
def test_layers_that_cannot_be_federated_are_an_error(layer, problem):
    module = Quadratic()
    module.layer = layer
    with pytest.raises(ConfigError, match=problem) as error:
        ModuleReplica(module)
    assert error.value.key == "model"


def test_a_module_without_a_parameter_to_train_is_an_error():
    module = Quadratic()
    module.w.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter to train"):
        ModuleReplica(module)


class Strict(Quadratic):
    """Accepts batches in its Trainer's dtype only, and reads its progress."""

    def setup(self, stage):
        self.ready = stage

    def training_step(self, batch, batch_idx):
        assert batch[0].dtype == self.w.dtype
        assert (self.ready, self.trainer.global_step) == ("fit", 0)
        return {"loss": self.training_loss(batch)}

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] * 1, batch[1]

    def on_validation_epoch_end(self):
        raise AssertionError("no validation is expected")


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_the_loss_is_computed_in_the_precision_of_a_fit(precision):
    trainer = local(Strict(), batch=3, options={"precision": precision})
    model = trainer.replica.read()
    assert trainer.loss(model) == pytest.approx(sum(a / 2 * b**2 for a, b in ROWS) / 4, abs=1e-2)


def test_a_trainers_precision_does_not_change_the_dtypes_of_the_federated_model():
    trainer = local(Quadratic(1.0), options={"precision": "bf16-true"})
    start = trainer.replica.read()
    trainer.fit(start)
    assert trainer.replica.module.w.dtype == torch.bfloat16
    trainer.replica.load(start)
    assert trainer.replica.module.w.dtype == torch.float32


def test_a_module_sees_the_planned_steps_of_its_fit():
    plans = []

    class ReadsPlan(Quadratic):
        def configure_optimizers(self):
            plans.append((self.trainer.estimated_stepping_batches, self.trainer.max_epochs))
            return super().configure_optimizers()

    fit(ReadsPlan(), batch=1, steps=7)
    fit(ReadsPlan(), batch=1, epochs=3, options={"accumulate_grad_batches": 2})
    assert plans == [(7, -1), (6, 3)]


def test_a_classifier_with_fewer_than_two_classes_is_an_error():
    with pytest.raises(ConfigError, match="model=custom for another task") as error:
        Classifier("fedlit.models.MLP", [4], 0, {"name": "sgd", "lr": 0.1})
    assert error.value.key == "classes"


def test_the_client_state_has_parts_of_optimizer_channel_and_algorithm():
    parts = {
        name: {"x": torch.tensor(float(i))} for i, name in enumerate(("optimizer/0/1", "channel/topk", "controls"))
    }
    assert list(optimizer_state(parts)) == ["optimizer/0/1"]
    assert list(algorithm_state(parts)) == ["controls"]
    assert channel_states(parts) == {"topk": parts["channel/topk"]}


def test_a_schedule_configures_trainers_by_plain_values():
    schedule = Schedule(rounds=4, local_epochs=3, local_steps=7, lr="step", lr_every=1, client_state="keep")
    config = schedule.configure(TrainerConfig({"accelerator": "cpu"}))
    assert (config.epochs, config.steps, config.keep_optimizer, config.options) == (3, 7, True, {"accelerator": "cpu"})
    assert [config.lr_factor(round) for round in range(3)] == [1.0, 0.5, 0.25]
    assert Schedule().configure(config).lr_factor is None


def test_a_local_trainer_implements_the_protocol_of_algorithms():
    trainer: Local = local(Quadratic())
    for name in ("examples", "fit", "loss", "gradient"):
        assert hasattr(trainer, name)
        assert hasattr(Local, name)


def test_a_module_without_a_validation_step_gives_no_warning(recwarn):
    class TrainsOnly(LightningModule):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def training_step(self, batch, batch_idx):
            return (batch[0][:, 0] * self.w).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    replica = ModuleReplica(TrainsOnly())
    data = holdings(pairs((1.0, 0.0), (2.0, 0.0)), batch=1)
    local = LocalTrainer(replica, TrainerConfig({"accelerator": "cpu"}), data, 2, 0, 0)
    assert local.fit(replica.read()).steps == 2
    assert not [str(warning.message) for warning in recwarn]
