"""A trial of one step before round 1 finds errors of user code, and names the part at fault."""

import itertools
from array import array
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
import pytest
import torch
from conftest import Quadratic, images
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import nn
from torch.utils.data import Dataset

from fedlit.aggregation import Channel
from fedlit.aggregation.secure import IdealSum
from fedlit.algorithms import Centralised, FedAvg, FedNova, Moon, Scaffold
from fedlit.client.trainer import TrainerConfig
from fedlit.core.messages import TrainJob
from fedlit.data import Data, Iid, Normalise, TensorSamples
from fedlit.data.custom import DatasetSamples
from fedlit.data.loading import Loading
from fedlit.experiment.trial.first_step import try_first_step
from fedlit.models import Classifier
from fedlit.server.monitor import Monitor
from fedlit.server.sampling import PowerOfChoice, Uniform, Weighted
from fedlit.server.sampling.sampler import as_sampler
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation

ROWS = torch.rand(40, 2, generator=torch.Generator().manual_seed(0))
PAIRS = TensorSamples(ROWS, torch.zeros(40, dtype=torch.int64))


def federation(module, samples=PAIRS, algorithm=None, config=None, noise=None, monitor="val/loss", batch=5, **schedule):
    """A federation of two clients, and its data.

    `config` is the `TrainerConfig`, `noise` the standard deviation for each client.
    """
    data = Data("pairs", samples, samples, (2,), ("0", "1"), samples)

    def partition(samples, generator):
        population = Iid(2)(samples, generator)
        return population if noise is None else replace(population, noise=np.asarray(noise))

    config = config or TrainerConfig()
    fed = Federation.of(
        lambda: module,
        data,
        partition,
        algorithm or FedAvg(),
        Schedule(**{"local_epochs": 3, **schedule}),
        loading=Loading(batch_size=batch, val_fraction=0),
        trainer_config=replace(config, options={"accelerator": "cpu", **config.options}),
        monitor=Monitor(monitor, "min"),
    )
    return fed, data


def error_of(module, *args, **kwargs):
    """The key and the text of the single error of a trial."""
    (error,) = try_first_step(*federation(module, *args, **kwargs))
    return error.key, str(error)


def cnn(**more):
    options = {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}, **more}
    return Classifier("fedlit.models.SimpleCNN", [1, 8, 8], 3, norm="batch", **options)


class ManualOptimization(Quadratic):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.training_loss(batch))
        optimizer.step()


def errors_with_sampler(module, sampler, **more):
    """Key, text and kind (True for a warning) of each error of a trial with another sampler."""
    fed, data = federation(module, **more)
    errors = try_first_step(replace(fed, sampler=as_sampler(sampler)), data)
    return [(error.key, str(error), error.warning) for error in errors]


def test_loss_of_a_module_with_manual_optimization_is_not_available():
    ((key, text, warning),) = errors_with_sampler(ManualOptimization(), PowerOfChoice(1))
    assert (key, warning) == ("model", False)
    assert "uses manual optimization" in text
    assert "use an algorithm and a sampler that do not need clients' losses" in text
    assert errors_with_sampler(ManualOptimization(), Weighted(1), algorithm=FedAvg("uniform")) == []


@pytest.mark.parametrize("sampler", [Weighted(1), PowerOfChoice(1)])
def test_examples_that_count_twice_give_a_warning(sampler):
    ((key, text, warning),) = errors_with_sampler(Quadratic(), sampler)
    assert (key, warning) == ("sampler", True)
    assert "examples count twice; set algorithm.weights=uniform" in text
    assert errors_with_sampler(Quadratic(), sampler, algorithm=FedAvg("uniform")) == []
    assert errors_with_sampler(Quadratic(), Uniform(1)) == []


def test_a_weight_that_cannot_be_masked_is_an_error_before_round_1():
    class Halves(FedAvg):
        def weight(self, y):
            return y.examples / 2 + 0.25

    fed, data = federation(Quadratic(), algorithm=Halves())
    masked = Channel.of([IdealSum(max_weight=100)])
    (error,) = try_first_step(fed.with_worker(replace(fed.worker, channel=masked)), data)
    assert str(error).startswith("algorithm: gives a client the weight 10.25, and a mask needs a whole number")
    assert try_first_step(fed, data) == []


def test_a_warning_does_not_hide_later_errors():
    keys = [key for key, _, _ in errors_with_sampler(Quadratic(), Weighted(1), monitor="val/nothing")]
    assert keys == ["sampler", "monitor.name"]


@pytest.mark.parametrize(
    ("logged", "hint"),
    [
        (["val/score", "val_loss"], "set monitor.name=val_loss monitor.mode=min"),
        (["val/score"], "set monitor.name=val/score and monitor.mode"),
        ([], "log one in validation_step, such as self.log('val_loss', loss)"),
    ],
)
def test_an_unknown_monitored_metric_has_the_settings_of_a_logged_one(logged, hint):
    class Logging(Quadratic):
        def validation_step(self, batch, batch_idx):
            for name in logged:
                self.log(name, 0.5)

    ((key, text, warning),) = errors_with_sampler(Logging(), Uniform(1), monitor="val/nothing")
    assert (key, warning) == ("monitor.name", False)
    assert text.endswith(f"{', '.join(logged) or 'it logs none'}; {hint}")


def test_centralised_training_samples_its_one_client_with_any_sampler():
    parts = {"schedule": Schedule(rounds=1), "loading": Loading(val_fraction=0.1), "sampler": lambda size: Weighted(9)}
    data = Data("pairs", PAIRS, None, (2,), ("0", "1"))
    fed = Federation.of(Quadratic, data, Iid(2), Centralised(), **parts)
    assert fed.sampler == Uniform(1)


def test_a_sampler_that_cannot_draw_is_an_error_before_round_1():
    ((key, text, _),) = errors_with_sampler(Quadratic(), lambda clients, generator: generator.choice(clients, 1))
    assert key == "sampler"
    assert "fails to draw a cohort" in text
    ((key, text, _),) = errors_with_sampler(Quadratic(), lambda pool, generator: [0, 7])
    assert "draws client 7, and there are 2" in text


class ReadsItsTrainer(Quadratic):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        assert self.trainer.max_epochs == 3
        steps = int(self.trainer.estimated_stepping_batches)
        assert steps == 3 * 2  # 20 samples in batches of 5, 3 of which make a step
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps, cycle_momentum=False)]


class CountsSteps(Quadratic):
    def __init__(self, counter):
        super().__init__()
        self.counter = counter

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * next(self.counter)


@pytest.mark.parametrize(
    ("module", "samples", "monitor", "options"),
    [
        (lambda: cnn(scheduler={"name": "CosineAnnealingLR", "T_max": 3}), images(40), "val/accuracy", {}),
        (ManualOptimization, PAIRS, "val/loss", {}),
        (ReadsItsTrainer, PAIRS, "val/loss", {"accumulate_grad_batches": 3}),
    ],
)
def test_valid_modules_pass(module, samples, monitor, options):
    assert try_first_step(*federation(module(), samples, config=TrainerConfig(options), monitor=monitor)) == []


def test_the_trial_takes_few_steps_and_ends_its_epoch():
    epochs = []

    class Spy(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            epochs.append((trainer.global_step, trainer.max_epochs))

    assert try_first_step(*federation(Quadratic(), config=TrainerConfig(callbacks=lambda: [Spy()]))) == []
    assert epochs == [(1, 3), (4, 3), (4, 3), (1, 3)]  # two fits of round 1, and one of round 2


class Guarded(Classifier):
    """A module that cannot be copied."""

    def __init__(self):
        super().__init__("fedlit.models.Logistic", [1, 8, 8], 3, {"name": "sgd", "lr": 0.1})
        self.guard = Lock()


def test_a_module_that_cannot_be_copied_is_refused_by_an_algorithm_that_copies_it():
    setting = {"samples": images(40), "monitor": None}
    key, text = error_of(Guarded(), algorithm=Moon(), **setting)
    assert key == "model"
    assert "Guarded: cannot be copied" in text
    assert "cannot pickle '_thread.lock' object" in text
    assert try_first_step(*federation(Guarded(), **setting)) == []


class Twice(FedAvg):
    """An algorithm whose update has other names from a client's second round."""

    def client(self, local, shared, client_state):
        update = super().client(local, shared, client_state)
        groups = {**update.groups, "more": {"count": torch.ones(1)}} if client_state else update.groups
        return replace(update, groups=groups, client_state={"seen": {"seen": torch.ones(1)}})


class Doubles(FedAvg):
    """An algorithm whose update is float64, unlike its template."""

    def client(self, local, shared, client_state):
        update = super().client(local, shared, client_state)
        if local.examples == 0:
            return update
        groups = {group: {k: t.double() for k, t in named.items()} for group, named in update.groups.items()}
        return replace(update, groups=groups)


def test_an_update_with_another_dtype_is_refused_before_round_1():
    key, text = error_of(Quadratic(), algorithm=Doubles())
    assert key == "algorithm"
    assert (
        "Doubles: gives an invalid update in a client's first round: parameters/w is float64 [1], not float32" in text
    )


def test_an_update_that_is_invalid_from_a_clients_second_round_is_refused():
    key, text = error_of(Quadratic(), algorithm=Twice())
    assert key == "algorithm"
    assert "Twice: gives an invalid update in a client's second round" in text


def test_a_kept_optimizer_that_cannot_be_loaded_is_refused(monkeypatch):
    def broken(self, state):
        raise RuntimeError("broken")

    monkeypatch.setattr(torch.optim.SGD, "load_state_dict", broken)
    _, text = error_of(Quadratic(momentum=0.5), client_state="keep")
    assert "RuntimeError: broken" in text
    assert try_first_step(*federation(Quadratic(momentum=0.5))) == []


def test_a_module_that_keeps_state_from_one_fit_to_the_next_is_refused():
    key, text = error_of(CountsSteps(itertools.count(1)))
    assert key == "model"
    assert "keeps state from one fit to the next, in objects that cannot be restored: counter; keep" in text


class UsesArray(Quadratic):
    """Its array, of the standard library, counts the steps. It weighs the loss only if `weighs` is True."""

    def __init__(self, weighs):
        super().__init__()
        self.steps, self.weighs = array("i", [0]), weighs

    def training_step(self, batch, batch_idx):
        self.steps[0] += 1
        return super().training_step(batch, batch_idx) * (self.steps[0] if self.weighs else 1)


@pytest.mark.parametrize("weighs", [True, False])
def test_an_object_that_cannot_be_restored_is_refused_if_it_changes_the_results(weighs):
    (error,) = try_first_step(*federation(UsesArray(weighs)))
    assert "keeps state from one fit to the next, in objects that cannot be restored: steps; keep" in str(error)
    assert error.warning is not weighs


class CountsInItsClass(Quadratic):
    """A loss with another weight after three steps of the process."""

    steps = 0

    def training_step(self, batch, batch_idx):
        type(self).steps += 1
        return super().training_step(batch, batch_idx) * (1.0 if self.steps <= 3 else 2.0)


@pytest.mark.parametrize("batch", [5, "full"])
def test_the_trial_looks_further_than_a_step(monkeypatch, batch):
    monkeypatch.setattr(CountsInItsClass, "steps", 0)
    key, text = error_of(CountsInItsClass(), batch=batch, local_epochs=1)
    assert key == "model"
    assert "gives other results when the same client trains again: it keeps state from one fit to the next" in text
    assert CountsInItsClass.steps > 3


class Balancer:
    """Weighs a loss by the inverse of its running mean, after a warm-up of three steps."""

    def __init__(self):
        self.count, self.mean = 0, torch.zeros(())

    def __call__(self, loss):
        self.count += 1
        self.mean = self.mean + (loss.detach() - self.mean) / self.count
        return loss if self.count <= 3 else loss / self.mean


class Balanced(Quadratic):
    def __init__(self):
        super().__init__()
        self.balancer = Balancer()

    def training_step(self, batch, batch_idx):
        return self.balancer(super().training_step(batch, batch_idx))


def test_state_of_a_helper_object_does_not_reach_the_next_client():
    fed, data = federation(Balanced())
    assert try_first_step(fed, data) == []
    together = fed.worker(TrainJob(0, 0, (0, 1)), fed.initial_state())
    for client in (0, 1):  # alone, in a new module
        alone, _ = federation(Balanced())
        update = alone.worker(TrainJob(0, 0, (client,)), fed.initial_state())
        together = replace(together, total=together.total - update.total)
    assert together.total.abs().max() < 1e-12


class Setup(Quadratic):
    def setup(self, stage):
        self.late = nn.Linear(1, 1)


@pytest.mark.parametrize("algorithm", [FedAvg(), FedAvg(proximal=0.1)])
def test_layers_made_in_setup_are_refused(algorithm):
    key, text = error_of(Setup(), algorithm=algorithm)
    assert key == "model"
    assert "not federated: late.weight, late.bias" in text


class Broken(Quadratic):
    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self.fail)

    def fail(self, *args, **kwargs):
        raise RuntimeError("broken")


@pytest.mark.parametrize("hook", ["training_step", "validation_step", "test_step", "on_train_epoch_end"])
def test_every_kind_of_step_and_the_end_of_an_epoch_are_tried(hook):
    key, text = error_of(Broken(hook))
    assert key == "model"
    assert "RuntimeError: broken" in text


def test_a_module_that_cannot_be_evaluated_is_an_error_before_round_1():
    module = Quadratic()
    module.validation_step = None
    key, text = error_of(module, monitor=None)
    assert key == "model"
    assert "validation_step" in text


@pytest.mark.parametrize("lr", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_is_an_error(lr):
    key, text = error_of(Quadratic(lr=lr))
    assert key == "model"
    assert "gives an invalid update in its first step: 1 of 1 numbers are NaN or infinite" in text


class Dicts(Dataset):
    targets = [0] * 40

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"x": ROWS[index]}


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (DatasetSamples.of(Dicts(), 0), "the batches are a dict"),
        (TensorSamples(ROWS.long(), PAIRS.y), "the inputs are torch.int64"),
    ],
)
def test_noise_on_inputs_that_are_not_floats_is_refused(samples, expected):
    key, text = error_of(Quadratic(), samples, noise=[0.0, 1.0])
    assert key == "partition"
    assert expected in text


def test_the_noisiest_client_is_tried_too():
    class NoNoise(Quadratic):
        def training_step(self, batch, batch_idx):
            assert batch[0].max() < 10, "noise"
            return super().training_step(batch, batch_idx)

    assert "AssertionError: noise" in error_of(NoNoise(), noise=[0.0, 1000.0])[1]
    assert try_first_step(*federation(NoNoise(), noise=[0.0, 0.1])) == []


@dataclass(frozen=True)
class Fails(FedAvg):
    half: str = "client"

    def client(self, local, shared, client_state):
        return {}["client"] if self.half == "client" else super().client(local, shared, client_state)

    def server(self, state, mean):
        return {}["server"]


@pytest.mark.parametrize("half", ["client", "server"])
def test_both_halves_of_an_algorithm_are_tried_and_blamed(half):
    key, text = error_of(Quadratic(), algorithm=Fails(half=half))
    assert key == "algorithm"
    assert f"KeyError: '{half}'" in text


def test_an_algorithm_that_sends_no_update_is_blamed():
    class Nothing(FedAvg):
        def client(self, local, shared, client_state):
            return None

    assert error_of(Quadratic(), algorithm=Nothing())[0] == "algorithm"


def failing_augment(x):
    raise RuntimeError("augmented")


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (replace(PAIRS, augment=failing_augment), "RuntimeError: augmented"),
        (replace(PAIRS, augment=Broken("forward")), "RuntimeError: broken"),
        (replace(images(40), prepare=Normalise((0.5,) * 3, (0.5,) * 2)), "must match"),
    ],
)
def test_preparation_of_the_data_is_blamed_for_its_own_errors(samples, expected):
    key, text = error_of(Quadratic(), samples)
    assert key == "data"
    assert expected in text


def test_a_callback_is_blamed_for_its_own_errors():
    class Late(Callback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("late")

    key, text = error_of(Quadratic(), config=TrainerConfig(callbacks=lambda: [Late()]))
    assert (key, "RuntimeError: late" in text) == ("trainer.callbacks", True)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"scheduler": {"name": "StepLR", "step_size": 0}}, "its StepLR fails"),
        ({"optimizer": {"name": "lbfgs"}}, "its LBFGS fails"),
    ],
)
def test_an_optimizer_or_scheduler_is_blamed_for_its_own_errors(more, expected):
    key, text = error_of(cnn(**more), images(40), monitor="val/accuracy")
    assert key == "model"
    assert expected in text


class OwnGenerator(Dicts):
    generator = np.random.default_rng()

    def __getitem__(self, index):
        return ROWS[index] * self.generator.random(), 0


def test_an_average_that_lags_behind_is_a_warning():
    class OwnAverage(Quadratic):
        def configure_callbacks(self):
            return EMAWeightAveraging(decay=0.999)

    for module, callbacks in ((OwnAverage(), list), (Quadratic(), lambda: [EMAWeightAveraging(decay=0.999)])):
        (warning,) = try_first_step(*federation(module, config=TrainerConfig(callbacks=callbacks)))
        assert warning.warning
        assert "after 12 steps in 3 epochs, the average has moved 9% of the distance" in str(warning)
    config = TrainerConfig(callbacks=lambda: [EMAWeightAveraging(decay=0.5)])
    assert try_first_step(*federation(Quadratic(), config=config)) == []


def test_an_average_that_never_moves_is_an_error():
    config = TrainerConfig(callbacks=lambda: [StochasticWeightAveraging(0.1)])
    key, text = error_of(Quadratic(), config=config, local_epochs=1)
    assert key == "trainer.callbacks"
    assert "the average has moved 0% of the distance" in text


class ClipsWeights(Quadratic):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.w.data.clamp_(-0.01, 0.01)


@pytest.mark.parametrize("algorithm", [FedNova(), Scaffold(), Scaffold(option=1)], ids=repr)
def test_weights_that_change_outside_of_steps_are_refused_where_steps_have_a_length(algorithm):
    key, text = error_of(ClipsWeights(), algorithm=algorithm)
    assert (key, "has weights that change outside of optimizer steps (w)" in text) == ("model", True)
    config = TrainerConfig(callbacks=lambda: [EMAWeightAveraging(decay=0.5)])
    key, text = error_of(Quadratic(), algorithm=algorithm, config=config)
    assert (key, "replaces the weights by an average" in text) == ("trainer.callbacks", True)
    assert try_first_step(*federation(ClipsWeights())) == []


def test_data_with_its_own_random_generator_gives_a_warning():
    (warning,) = try_first_step(*federation(Quadratic(), DatasetSamples.of(OwnGenerator(), 0)))
    assert (warning.key, warning.warning) == ("data", True)
    assert "gives other examples when it is read again" in str(warning)
