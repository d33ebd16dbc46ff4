"""Local training by a real Trainer, against loops written by hand."""

import pickle
import random
from collections import deque

import numpy as np
import pytest
import torch
from conftest import Quadratic, holdings, images, pairs
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn

from fedlit.client.trainer import FIXED_ARGS, LocalTrainer, ModuleReplica, TrainerConfig, evaluate_split
from fedlit.core.errors import ConfigError
from fedlit.core.messages import GradientTerm
from fedlit.models import Classifier

ROWS = ((1.0, 2.0), (3.0, -1.0), (2.0, 0.5), (0.5, 4.0))


def local(module, rows=ROWS, batch=None, round=0, client=0, **recipe):
    samples = rows if not isinstance(rows, tuple) else pairs(*rows)
    options = recipe.pop("options", {})
    recipe = TrainerConfig({"accelerator": "cpu", **options}, **recipe)
    owned = holdings(samples, [client] * len(samples), clients=client + 1, batch=batch or "full")
    return LocalTrainer(ModuleReplica(module), recipe, owned, len(samples), round, client)


def descend(w, steps, lr=0.1, mu=0.0, center=0.0, offset=0.0, rows=ROWS):
    for _ in range(steps):
        gradient = sum(a * (w - b) for a, b in rows) / len(rows)
        w -= lr * (gradient + mu * (w - center) + offset)
    return w


def fit(module, *terms, **more):
    hands = local(module, **more)
    return hands.fit(hands.replica.read(), *terms)


def test_plain_descent_equals_the_loop_and_counts_steps():
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


def test_terms_add_up():
    one = GradientTerm(offset={"w": torch.tensor([1.0])})
    assert fit(Quadratic(), one, one, steps=2).model.parameters["w"].item() == pytest.approx(
        descend(0.0, 2, offset=2.0), abs=1e-6
    )


def test_a_term_acts_once_a_step_under_accumulation_and_before_clipping():
    term = GradientTerm(offset={"w": torch.tensor([10.0])})
    result = fit(Quadratic(), term, batch=1, steps=2, options={"accumulate_grad_batches": 4})
    assert result.model.parameters["w"].item() == pytest.approx(descend(0.0, 2, offset=10.0), abs=1e-6)
    assert result.steps == 2
    clipped = fit(Quadratic(), term, steps=2, options={"gradient_clip_val": 0.5})
    assert clipped.model.parameters["w"].item() == pytest.approx(-2 * 0.1 * 0.5, abs=1e-6)


def test_a_term_reaches_parameters_that_the_loss_does_not():
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


def test_the_learning_rate_follows_the_rounds_through_the_modules_own_scheduler():
    class Scheduled(Quadratic):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.5**n)},
            }

    rate = lambda t: 0.3 if t == 5 else 1.0  # noqa: E731
    result = fit(Scheduled(1.0), epochs=3, rate=rate, round=5)
    w = 1.0
    for epoch in range(3):
        w = descend(w, 1, lr=0.1 * 0.3 * 0.5**epoch)
    assert result.model.parameters["w"].item() == pytest.approx(w, abs=1e-6)


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_schedulers_that_set_rates_themselves_are_refused_under_a_rate_over_rounds(name):
    class Cycles(Quadratic):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            arguments = {"OneCycleLR": (0.1, 10), "CyclicLR": (0.01, 0.1)}[name]
            return [optimizer], [getattr(torch.optim.lr_scheduler, name)(optimizer, *arguments)]

    assert fit(Cycles()).steps == 1
    with pytest.raises(ConfigError, match=name):
        fit(Cycles(), rate=lambda t: 1.0)


def test_a_module_that_steps_past_lightning_is_refused_where_terms_are_to_be_added():
    class Past(Quadratic):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            self.manual_backward(self.training_loss(batch))
            optimizer.step()

    assert fit(Past()).steps == 1
    with pytest.raises(ConfigError, match="steps 1 times, 0 of them"):
        fit(Past(), GradientTerm(offset={"w": torch.ones(1)}))


def test_what_the_module_logs_is_averaged_over_the_fit():
    result = fit(Quadratic(1.0), epochs=2)
    losses = [sum(a / 2 * (w - b) ** 2 for a, b in ROWS) / 4 for w in (1.0, descend(1.0, 1))]
    assert result.metrics["train/loss"] == pytest.approx(sum(losses) / 2, abs=1e-5)


def test_an_empty_shard_takes_no_step():
    hands = local(Quadratic(), rows=pairs())
    model = hands.replica.read()
    result = hands.fit(model)
    assert (result.model, result.steps, result.examples, result.metrics) == (model, 0, 0, {})
    assert hands.loss(model) == 0.0


def test_the_loss_is_the_mean_over_the_shard_in_eval_mode():
    hands = local(Quadratic(), batch=3)
    model = hands.replica.read()
    assert hands.loss(model) == pytest.approx(sum(a / 2 * b**2 for a, b in ROWS) / 4, abs=1e-6)
    cnn = Classifier("fedlit.models.SimpleCNN", [1, 8, 8], 3, {"name": "sgd", "lr": 0.1}, dropout=0.5)
    hands = local(cnn, rows=images(20), batch=7)
    assert hands.loss(hands.replica.read()) == hands.loss(hands.replica.read())
    assert cnn.training
    assert cnn.train_accuracy.update_count == 0


def test_the_loss_of_a_module_that_optimises_by_hand_is_refused():
    module = Quadratic()
    module.automatic_optimization = False
    hands = local(module)
    with pytest.raises(ValueError, match="optimises by hand"):
        hands.loss(hands.replica.read())


def test_several_optimizers_under_manual_optimisation_work_with_terms():
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


def test_callbacks_are_made_anew_for_each_fit():
    made = []

    def callbacks():
        made.append(EarlyStopping("train/loss", patience=1, min_delta=1e9, check_on_train_epoch_end=True))
        return made[-1:]

    hands = local(Quadratic(), epochs=10, callbacks=callbacks)
    first, second = (hands.fit(hands.replica.read()) for _ in range(2))
    assert (first.steps, second.steps) == (2, 2)
    assert made[0] is not made[1]


def test_metrics_logged_at_the_end_of_an_epoch_reach_monitoring_callbacks():
    class AtTheEnd(Quadratic):
        def on_train_epoch_end(self):
            self.log("score", torch.tensor(float(self.current_epoch)))

    stop = EarlyStopping("score", patience=1, mode="min", check_on_train_epoch_end=True)
    result = fit(AtTheEnd(), epochs=10, callbacks=lambda: [stop])
    assert result.steps == 2
    assert result.metrics["score"] == 0.5


class Draws(Callback):
    def on_train_start(self, trainer, pl_module):
        self.drawn = (torch.rand(1).item(), np.random.rand(), random.random())


def test_foreign_random_numbers_are_keyed_by_seed_round_and_client():
    seen = []
    for round, client in ((0, 0), (0, 0), (0, 1), (1, 0)):
        draws = Draws()
        fit(Quadratic(), round=round, client=client, callbacks=lambda draws=draws: [draws])
        seen.append(draws.drawn)
    assert seen[0] == seen[1]
    assert len({seen[0], seen[2], seen[3]}) == 3


def test_one_module_serves_many_fits_and_leaves_no_trace_in_the_next():
    hands = local(Quadratic(momentum=0.9), epochs=2)
    start = hands.replica.read()
    first = hands.fit(start).model.parameters["w"].item()
    assert hands.fit(start).model.parameters["w"].item() == first
    assert start.parameters["w"].item() == 0.0
    assert "log" not in vars(hands.replica.module)


def test_buffers_are_read_and_loaded_and_those_that_are_not_kept_are_not():
    module = Classifier("fedlit.models.SimpleCNN", [1, 8, 8], 3, {"name": "sgd", "lr": 0.1}, norm="batch")
    module.register_buffer("scratch", torch.zeros(1), persistent=False)
    hands = local(module, rows=images(20), batch=10)
    before = hands.replica.read()
    after = hands.fit(before).model
    assert set(before.buffers) == {
        f"network.features.{i}.{n}" for i in (1, 5) for n in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert after.buffers["network.features.1.num_batches_tracked"] == 2
    hands.replica.load(before)
    assert module.network.features[1].num_batches_tracked == 0
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.state_dict().items())


@pytest.mark.parametrize(
    ("split", "logged", "expected"),
    [
        ("val", "val/loss", "val/loss"),
        ("val", "loss", "val/loss"),
        ("test", "val_loss", "test_loss"),
        ("test", "loss", "test/loss"),
    ],
)
def test_a_modules_own_names_become_those_of_the_split(split, logged, expected):
    class Own(Quadratic):
        def validation_step(self, batch, batch_idx):
            self.log(logged, self.training_loss(batch))

    bench = ModuleReplica(Own(1.0))
    scores = evaluate_split(
        bench, TrainerConfig({"accelerator": "cpu"}), bench.read(), pairs(*ROWS).batches(None, 3), split, 0
    )
    assert scores == {expected: pytest.approx(sum(a / 2 * (1 - b) ** 2 for a, b in ROWS) / 4, abs=1e-5)}


def test_lightnings_question_to_all_packages_is_asked_once():
    """Fails when Lightning renames what local.py keeps the answer of: then each Trainer costs half as much again."""
    import lightning.pytorch.trainer.connectors.callback_connector as connector

    fit(Quadratic())
    before = connector._load_external_callbacks.cache_info()
    fit(Quadratic())
    after = connector._load_external_callbacks.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 1)


def test_torch_still_remembers_the_number_of_gpus_where_local_expects_it():
    assert hasattr(torch.cuda, "_cached_device_count")


def test_a_fit_installs_no_handler_of_slurms_signals(monkeypatch):
    import signal

    for name, value in (
        ("SLURM_NTASKS", "1"),
        ("SLURM_JOB_NAME", "job"),
        ("SLURM_JOB_ID", "1"),
        ("SLURM_PROCID", "0"),
        ("SLURM_LOCALID", "0"),
    ):
        monkeypatch.setenv(name, value)
    seen = []

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append(signal.getsignal(signal.SIGUSR1))

    fit(Quadratic(), callbacks=lambda: [Look()])
    assert seen == [signal.SIG_DFL]


def test_a_fused_optimizer_under_a_scaler_is_refused():
    class Swap(Callback):
        def setup(self, trainer, pl_module, stage):
            trainer.strategy.precision_plugin.scaler = object()

    with pytest.raises(ConfigError, match="fused=false"):
        fit(Quadratic(fused=True), callbacks=lambda: [Swap()])


def test_what_a_fit_sets_itself_is_known_to_lightning():
    import inspect

    from lightning.pytorch import Trainer

    assert set(FIXED_ARGS) <= set(inspect.signature(Trainer.__init__).parameters)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_fit_is_the_same_again_and_near_the_cpus():
    module = Classifier("fedlit.models.SimpleCNN", [1, 8, 8], 3, {"name": "sgd", "lr": 0.1}, dropout=0.0)
    start = ModuleReplica(module).read()
    samples = images(40)
    results = []
    for accelerator in ("gpu", "gpu", "cpu"):
        device = torch.device("cuda" if accelerator == "gpu" else "cpu")
        held = holdings(samples, batch=10).to(device)
        hands = LocalTrainer(
            ModuleReplica(module), TrainerConfig({"accelerator": accelerator}, epochs=2), held, 40, 0, 0
        )
        results.append(hands.fit(start, GradientTerm(mu=0.1, center=start.parameters)).model.parameters)
        assert hands.loss(start) == pytest.approx(np.log(3), abs=0.5)
    for name in start.parameters:
        assert torch.equal(results[0][name], results[1][name])
        assert torch.allclose(results[0][name], results[2][name], atol=1e-3)


class Leaves(Quadratic):
    """Counts its steps, and lets them change the loss; toggles what is trained; keeps a buffer that is not saved."""

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


def test_what_a_fit_leaves_in_the_module_does_not_reach_the_next():
    hands = local(Leaves(), epochs=2)
    start = hands.replica.read()
    first, second = (hands.fit(start).model.parameters for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    hands.replica.load(start)
    module = hands.replica.module
    assert (module.count, module.seen, module.scratch.item(), module.v.requires_grad) == (0, [], 0.0, True)
    assert not hasattr(module, "new")


class Meter:
    """Neither number nor container: what is in it cannot be put back."""

    total = 0.0


class LeavesMore(Quadratic):
    """Notes things in attributes that are no numbers or words, and lets them change the loss."""

    def __init__(self):
        super().__init__(1.0)
        self._scale, self.table = torch.ones(1), np.ones(2)
        self.recent, self.means = deque([1.0], maxlen=3), {"a": [torch.ones(1)]}
        self.draws, self.numpy_draws = torch.Generator().manual_seed(1), np.random.default_rng(1)
        self.same = self._scale
        self.own = [self.w]  # a parameter is no attribute to put back

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


def test_tensors_arrays_containers_and_generators_are_put_back_where_they_are():
    hands = local(LeavesMore(), epochs=2)
    start = hands.replica.read()
    first, second = (hands.fit(start).model.parameters["w"] for _ in range(2))
    assert torch.equal(first, second)
    hands.replica.load(start)
    module = hands.replica.module
    assert (module._scale.item(), module.table.tolist(), list(module.recent)) == (1.0, [1.0, 1.0], [1.0])
    assert list(module.means) == ["a"]
    assert module.means["a"][0].item() == 1.0
    assert module.same is module._scale
    assert module.own[0] is module.w
    assert not {"_late", "_meter"} & set(vars(module))


def test_a_snapshot_holds_on_in_another_process():
    bench = pickle.loads(pickle.dumps(local(LeavesMore(), epochs=2).replica))
    bench.module._scale += 1
    bench.load(bench.read())
    assert bench.module.same.item() == 1.0


class Deferred(Quadratic):
    def configure_model(self):
        if "layer" not in self._modules:
            self.layer = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean() + self.training_loss(batch)


def test_layers_of_configure_model_are_federated():
    hands = local(Deferred())
    before = hands.replica.read()
    assert set(before.parameters) == {"w", "layer.weight", "layer.bias"}
    assert not torch.equal(hands.fit(before).model.parameters["layer.weight"], before.parameters["layer.weight"])
    assert hands.replica.new_parameters() == []


class Late(Quadratic):
    def setup(self, stage):
        self.late = nn.Linear(1, 1)


def test_layers_that_a_fit_makes_are_noticed():
    hands = local(Late())
    hands.fit(hands.replica.read())
    assert hands.replica.new_parameters() == ["late.weight", "late.bias"]


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.LazyLinear(3), "shape only after a first batch: layer.weight"),
        (nn.Linear(2, 2, dtype=torch.complex64), "real part alone: layer.weight"),
    ],
)
def test_layers_that_cannot_be_federated_are_a_mistake(layer, said):
    module = Quadratic()
    module.layer = layer
    with pytest.raises(ConfigError, match=said) as error:
        ModuleReplica(module)
    assert error.value.key == "model"


def test_a_module_without_anything_to_train_is_a_mistake():
    module = Quadratic()
    module.w.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter to train"):
        ModuleReplica(module)


class Strict(Quadratic):
    """Takes its numbers only as its Trainer gives them, and asks it where it is."""

    def setup(self, stage):
        self.ready = stage

    def training_step(self, batch, batch_idx):
        assert batch[0].dtype == self.w.dtype
        assert (self.ready, self.trainer.global_step) == ("fit", 0)
        return {"loss": self.training_loss(batch)}

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] * 1, batch[1]

    def on_validation_epoch_end(self):
        raise AssertionError("nobody validates")


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_the_loss_is_asked_in_the_precision_of_a_fit(precision):
    hands = local(Strict(), batch=3, options={"precision": precision})
    model = hands.replica.read()
    assert hands.loss(model) == pytest.approx(sum(a / 2 * b**2 for a, b in ROWS) / 4, abs=1e-2)


def test_a_trainers_precision_leaves_the_federated_model_in_its_own():
    hands = local(Quadratic(1.0), options={"precision": "bf16-true"})
    start = hands.replica.read()
    hands.fit(start)
    assert hands.replica.module.w.dtype == torch.bfloat16
    hands.replica.load(start)
    assert hands.replica.module.w.dtype == torch.float32


def test_a_modules_scheduler_is_told_the_steps_of_a_fit_by_steps():
    told = []

    class Asks(Quadratic):
        def configure_optimizers(self):
            told.append((self.trainer.estimated_stepping_batches, self.trainer.max_epochs))
            return super().configure_optimizers()

    fit(Asks(), batch=1, steps=7)
    fit(Asks(), batch=1, epochs=3, options={"accumulate_grad_batches": 2})
    assert told == [(7, -1), (6, 3)]


def test_a_classifier_of_less_than_two_classes_is_a_mistake():
    with pytest.raises(ConfigError, match="model=custom for another task") as error:
        Classifier("fedlit.models.MLP", [4], 0, {"name": "sgd", "lr": 0.1})
    assert error.value.key == "classes"
