"""A client's Trainer takes the arguments with their usual meaning, and refuses the others with a hint."""

import inspect

import pytest
from lightning.pytorch import Trainer

from fedlit.client.trainer import FIXED_ARGS
from fedlit.core.errors import ConfigError
from fedlit.experiment.config.trainer_args import make_trainer_config
from fedlit.experiment.config.trainer_values import ALLOWED_ARGS, REFUSED_ARGS, REFUSED_DEFAULTS
from fedlit.server.schedule import Schedule

CPU = {"accelerator": "cpu"}


def refused(**options):
    with pytest.raises(ConfigError) as error:
        make_trainer_config({**CPU, **options}, list, Schedule())
    assert error.value.hint or error.value.problem.startswith("must be")
    return error.value


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("limit_train_batches", 0, "at least 1"),
        ("limit_train_batches", 1.5, "up to 1.0"),
        ("limit_train_batches", True, "at least 1"),
        ("limit_test_batches", 1, "evaluated completely"),
        ("limit_predict_batches", 1, "evaluated completely"),
        ("limit_val_batches", 1, "evaluated completely"),
        ("overfit_batches", 1, "schedule.local_steps"),
        ("min_steps", 1, "schedule.local_steps"),
        ("min_epochs", 1, "schedule.local_steps"),
        ("max_time", "00:00:00:01", "a time limit"),
        ("num_nodes", 2, "one device"),
        ("strategy", "ddp", "one device"),
        ("devices", 2, "one device"),
        ("use_distributed_sampler", False, "one device"),
        ("sync_batchnorm", True, "one device"),
        ("reload_dataloaders_every_n_epochs", 1, "leave it out"),
        ("profiler", "simple", "observers"),
        ("log_every_n_steps", 1, "observers"),
        ("val_check_interval", 0.5, "schedule.eval_every"),
        ("fast_dev_run", True, "debug=quick"),
        ("barebones", True, "leave it out"),
        ("default_root_dir", "here", "hydra.run.dir"),
        ("gradient_clip_val", -1, "greater than 0"),
        ("gradient_clip_val", "high", "greater than 0"),
        ("gradient_clip_algorithm", "norm", "gradient_clip_val"),
        ("accumulate_grad_batches", 0, "at least 1"),
        ("deterministic", "maybe", "true, false, warn, null"),
        ("benchmark", 1, "true, false, null"),
        ("inference_mode", "no", "true, false"),
        ("precision", "16-mixed", "bf16-mixed"),
        ("precision", 16, "bf16-mixed"),
        ("acelerator", "cpu", "did you mean accelerator"),
    ],
)
def test_argument_that_changes_results_silently_or_does_nothing_is_refused(key, value, text):
    error = refused(**{key: value})
    assert error.key == key
    assert text in str(error)


def test_every_argument_is_allowed_or_refused_with_a_hint():
    everything = set(inspect.signature(Trainer.__init__).parameters) - {"self", "callbacks"}
    assert set(ALLOWED_ARGS) | set(REFUSED_ARGS) == everything
    parameters = inspect.signature(Trainer.__init__).parameters
    assert {key: parameters[key].default for key in REFUSED_ARGS} == {
        key: REFUSED_DEFAULTS.get(key) for key in REFUSED_ARGS
    }
    assert not set(ALLOWED_ARGS) & (set(REFUSED_ARGS) | set(FIXED_ARGS))


def test_refused_arguments_with_their_default_values_are_ignored():
    defaults = {"max_time": None, "devices": 1, "num_nodes": 1, "strategy": "auto", "logger": None}
    options = make_trainer_config({**CPU, **defaults, "precision": "bf16-mixed"}, list, Schedule()).options
    assert options == {"accelerator": "cpu", "precision": "bf16-mixed"}


def test_allowed_arguments_reach_the_clients_trainer():
    options = {**CPU, "gradient_clip_val": 0.5, "gradient_clip_algorithm": "value", "deterministic": False}
    assert make_trainer_config(options, list, Schedule()).options == options
