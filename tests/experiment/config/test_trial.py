"""One step before round 1 finds what only shows when foreign code runs, and says whose fault it is."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from conftest import Quadratic, images
from lightning.pytorch import Callback
from torch import nn
from torch.utils.data import Dataset

from fedlit.algorithms import Centralised, FedAvg
from fedlit.client.trainer import TrainerConfig
from fedlit.data import Data, Iid, Normalise, TensorSamples
from fedlit.data.custom import DatasetSamples
from fedlit.data.samples import Loading
from fedlit.experiment.config.trial import try_first_step
from fedlit.models import Classifier
from fedlit.server.monitor import Monitor
from fedlit.server.sampling import PowerOfChoice, Uniform, Weighted
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation

ROWS = torch.rand(40, 2, generator=torch.Generator().manual_seed(0))
PAIRS = TensorSamples(ROWS, torch.zeros(40, dtype=torch.int64))


def federation(module, samples=PAIRS, algorithm=None, recipe=None, noise=None, monitor="val/loss", **schedule):
    data = Data("pairs", samples, samples, (2,), ("0", "1"), samples)

    def partition(samples, generator):
        made = Iid(2)(samples, generator)
        return made if noise is None else replace(made, noise=np.asarray(noise))

    recipe = replace(recipe or TrainerConfig(), options={"accelerator": "cpu", **(recipe.options if recipe else {})})
    fed = Federation.of(
        lambda: module,
        data,
        partition,
        algorithm or FedAvg(),
        Schedule(**{"local_epochs": 3, **schedule}),
        loading=Loading(batch_size=5, val_fraction=0),
        recipe=recipe,
        monitor=Monitor(monitor, "min"),
    )
    return fed, data


def told(module, *args, **kwargs):
    (mistake,) = try_first_step(*federation(module, *args, **kwargs))
    return mistake.key, str(mistake)


def cnn(**more):
    options = {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}, **more}
    return Classifier("fedlit.models.SimpleCNN", [1, 8, 8], 3, norm="batch", **options)


class ByHand(Quadratic):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.training_loss(batch))
        optimizer.step()


def sampled(module, sampler, **more):
    fed, data = federation(module, **more)
    return [(m.key, str(m), m.warning) for m in try_first_step(replace(fed, sampler=sampler), data)]


def test_a_module_that_optimises_by_hand_cannot_be_asked_for_its_loss():
    ((key, said, warning),) = sampled(ByHand(), PowerOfChoice(1))
    assert (key, warning) == ("model", False)
    assert "optimises by hand" in said
    assert "a sampler that do not ask for it" in said
    assert sampled(ByHand(), Weighted(1), algorithm=FedAvg("uniform")) == []


@pytest.mark.parametrize("sampler", [Weighted(1), PowerOfChoice(1)])
def test_examples_that_count_twice_are_told(sampler):
    ((key, said, warning),) = sampled(Quadratic(), sampler)
    assert (key, warning) == ("sampler", True)
    assert "they count twice" in said
    assert sampled(Quadratic(), sampler, algorithm=FedAvg("uniform")) == []
    assert sampled(Quadratic(), Uniform(1)) == []


def test_a_warning_does_not_hide_what_comes_after_it():
    keys = [key for key, _, _ in sampled(Quadratic(), Weighted(1), monitor="val/nothing")]
    assert keys == ["sampler", "monitor.name"]


def test_centralised_training_samples_its_one_client_whatever_the_sampler():
    parts = {"schedule": Schedule(rounds=1), "loading": Loading(val_fraction=0.1), "sampler": lambda size: Weighted(9)}
    data = Data("pairs", PAIRS, None, (2,), ("0", "1"))
    fed = Federation.of(Quadratic, data, Iid(2), Centralised(), **parts)
    assert fed.sampler == Uniform(1)


def test_a_sampler_that_cannot_draw_is_told_before_round_1():
    ((key, said, _),) = sampled(Quadratic(), lambda clients, generator: generator.choice(clients, 1))
    assert key == "sampler"
    assert "fails to draw a cohort" in said
    ((key, said, _),) = sampled(Quadratic(), lambda pool, generator: [0, 7])
    assert "draws client 7, and there are 2" in said


class AsksItsTrainer(Quadratic):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        assert self.trainer.max_epochs == 3
        steps = int(self.trainer.estimated_stepping_batches)
        assert steps == 3 * 2  # 20 samples in batches of 5, 3 of which make a step
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps, cycle_momentum=False)]


class Counts(Quadratic):
    def __init__(self, counter):
        super().__init__()
        self.counter = counter

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * next(self.counter)


@pytest.mark.parametrize(
    ("module", "samples", "monitor", "options"),
    [
        (lambda: cnn(scheduler={"name": "CosineAnnealingLR", "T_max": 3}), images(40), "val/accuracy", {}),
        (ByHand, PAIRS, "val/loss", {}),
        (AsksItsTrainer, PAIRS, "val/loss", {"accumulate_grad_batches": 3}),
    ],
)
def test_modules_that_are_right_pass(module, samples, monitor, options):
    assert try_first_step(*federation(module(), samples, recipe=TrainerConfig(options), monitor=monitor)) == []


def test_the_trial_takes_one_step_and_closes_its_epoch():
    seen = []

    class Sees(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append((trainer.global_step, trainer.max_epochs))

    assert try_first_step(*federation(Quadratic(), recipe=TrainerConfig(callbacks=lambda: [Sees()]))) == []
    assert seen == [(1, 3), (1, 3)]


def test_a_module_that_keeps_something_from_fit_to_fit_is_refused():
    key, said = told(Counts(itertools.count(1)))
    assert key == "model"
    assert "other numbers when the same client is trained again" in said


class Setup(Quadratic):
    def setup(self, stage):
        self.late = nn.Linear(1, 1)


@pytest.mark.parametrize("algorithm", [FedAvg(), FedAvg(proximal=0.1)])
def test_layers_made_in_setup_are_refused(algorithm):
    key, said = told(Setup(), algorithm=algorithm)
    assert key == "model"
    assert "not federated: late.weight, late.bias" in said


class Broken(Quadratic):
    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self.fail)

    def fail(self, *args, **kwargs):
        raise RuntimeError("broken")


@pytest.mark.parametrize("hook", ["training_step", "validation_step", "test_step", "on_train_epoch_end"])
def test_every_step_and_the_end_of_an_epoch_are_tried(hook):
    key, said = told(Broken(hook))
    assert key == "model"
    assert "RuntimeError: broken" in said


def test_a_module_that_cannot_be_evaluated_is_told_before_round_1():
    module = Quadratic()
    module.validation_step = None
    key, said = told(module, monitor=None)
    assert key == "model"
    assert "validation_step" in said


@pytest.mark.parametrize("lr", [float("nan"), float("inf")])
def test_an_update_that_is_no_number_is_told(lr):
    key, said = told(Quadratic(lr=lr))
    assert key == "model"
    assert "no number in its first step: 1 of 1 numbers" in said


class Dicts(Dataset):
    targets = [0] * 40

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"x": ROWS[index]}


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (DatasetSamples.of(Dicts(), 0), "the batches are a dict"),
        (TensorSamples(ROWS.long(), PAIRS.y), "the inputs are torch.int64"),
    ],
)
def test_noise_on_what_is_no_input_of_floats_is_refused(samples, said):
    key, text = told(Quadratic(), samples, noise=[0.0, 1.0])
    assert key == "partition"
    assert said in text


def test_the_noisiest_client_is_tried_too():
    class NoNoise(Quadratic):
        def training_step(self, batch, batch_idx):
            assert batch[0].max() < 10, "noise"
            return super().training_step(batch, batch_idx)

    assert "AssertionError: noise" in told(NoNoise(), noise=[0.0, 1000.0])[1]
    assert try_first_step(*federation(NoNoise(), noise=[0.0, 0.1])) == []


@dataclass(frozen=True)
class Fails(FedAvg):
    half: str = "client"

    def client(self, local, shared, memory):
        return {}["client"] if self.half == "client" else super().client(local, shared, memory)

    def server(self, state, mean):
        return {}["server"]


@pytest.mark.parametrize("half", ["client", "server"])
def test_both_halves_of_an_algorithm_are_tried_and_blamed(half):
    key, said = told(Quadratic(), algorithm=Fails(half=half))
    assert key == "algorithm"
    assert f"KeyError: '{half}'" in said


def test_an_algorithm_that_sends_no_update_is_blamed():
    class Nothing(FedAvg):
        def client(self, local, shared, memory):
            return None

    assert told(Quadratic(), algorithm=Nothing())[0] == "algorithm"


def wrong(x):
    raise RuntimeError("augmented")


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (replace(PAIRS, augment=wrong), "RuntimeError: augmented"),
        (replace(PAIRS, augment=Broken("forward")), "RuntimeError: broken"),
        (replace(images(40), prepare=Normalise((0.5,) * 3, (0.5,) * 2)), "must match"),
    ],
)
def test_what_prepares_the_data_is_blamed_for_its_own_errors(samples, said):
    key, text = told(Quadratic(), samples)
    assert key == "data"
    assert said in text


def test_a_callback_is_blamed_for_its_own_errors():
    class Late(Callback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("late")

    key, said = told(Quadratic(), recipe=TrainerConfig(callbacks=lambda: [Late()]))
    assert (key, "RuntimeError: late" in said) == ("trainer.callbacks", True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"scheduler": {"name": "StepLR", "step_size": 0}}, "its StepLR fails"),
        ({"optimizer": {"name": "lbfgs"}}, "its LBFGS fails"),
    ],
)
def test_an_optimizer_or_scheduler_is_blamed_for_its_own_errors(more, said):
    key, text = told(cnn(**more), images(40), monitor="val/accuracy")
    assert key == "model"
    assert said in text


class Drawn(Dicts):
    drawn = np.random.default_rng()

    def __getitem__(self, index):
        return ROWS[index] * self.drawn.random(), 0


def test_data_that_draws_from_a_generator_of_its_own_is_warned_of():
    (warning,) = try_first_step(*federation(Quadratic(), DatasetSamples.of(Drawn(), 0)))
    assert (warning.key, warning.warning) == ("data", True)
    assert "other samples when it is read again" in str(warning)
