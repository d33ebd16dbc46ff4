"""Errors in a configuration: each says what is allowed, the command ends with status 2, and no file is left."""

import logging
import re
import sys

import pytest
from conftest import composed

from fedlit.cli import train
from fedlit.core.errors import ConfigError, ConfigErrors, require_positive
from fedlit.experiment.config.plain import to_plain
from fedlit.experiment.config.settings import setting_errors
from fedlit.experiment.runner import run_experiment

pytestmark = pytest.mark.slow


def run_command(monkeypatch, capsys, folder, *arguments):
    """Exit status and standard error of the command in a folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["fedlit", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stop:
        train.main()
    return stop.value.code, capsys.readouterr().err


def run_composed(monkeypatch, capsys, folder, *arguments):
    """The same as `run_command`, with a cached composition: Hydra's takes most of the time."""
    # The log handlers that Hydra made for an earlier command write to closed streams.
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    with pytest.raises(ConfigErrors) as stop:
        run_experiment(to_plain(composed(*arguments)), folder, {}, 0.0)
    train.print_config_errors(stop.value.errors)
    return 2, capsys.readouterr().err


def paragraphs(output):
    """The text of each error on standard error, by its first line."""
    pattern = r"^  (\S.*)\n((?: {6}.*\n)+)"
    return {line: " ".join(text.split()) for line, text in re.findall(pattern, output, re.MULTILINE)}


TOGETHER = {
    "names": [
        (["sampler=unifrom"], "sampler=unifrom", "did you mean uniform"),
        (["experiment=tutoral"], "experiment=tutoral", "did you mean tutorial"),
        (["debug=quik"], "debug=quik", "did you mean quick"),
        (["observers=nobody"], "observers=nobody", "must be one of default, none"),
        (["executor=inlne"], "executor=inlne", "did you mean inline"),
        (["algorithm=null"], "algorithm=None", "leave it out to take the default"),
        (["sampler.fraction=0.1"], "sampler.fraction=0.1", "is not a key"),
        (["trainer.devices=2"], "trainer.devices=2", "each client trains on one device"),
        (["~check"], "~check", "cannot be left out"),
        (["hydra.run.dir=/proc/nowhere"], "hydra.run.dir=/proc/nowhere", "cannot be written"),
    ],
    "no keys": [(["monitor=null"], "monitor=null", "must be a mapping of keys to values")],
    "clients": [
        (
            ["partition.num_clients=5000"],
            "partition.num_clients",
            "more than the 1295 training samples of digits use fewer clients",
        )
    ],
    "values 1": [
        (["schedule.clients_per_round=0"], "schedule.clients_per_round", "at least 1"),
        (["algorithm.weights=exmaples"], "algorithm.weights", "did you mean examples"),
        (["data.batch_size=0"], "data.batch_size", "at least 1"),
        (["executor.threads=0"], "executor.threads", "at least 1"),
        (["monitor.mode=up"], "monitor.mode", "max, min"),
        (["eval.clients=0"], "eval.clients", "at least 1"),
        (["seed=-1"], "seed", "at least 0"),
    ],
    "values 2": [
        (["partition.alpha=0"], "partition.alpha", "greater than 0"),
        (["schedule.client_fraction=0"], "schedule.client_fraction", "above 0"),
        (["algorithm.lr=0"], "algorithm.lr", "greater than 0"),
        (["data.val_fraction=1"], "data.val_fraction", "below 1"),
        (["model.classes=5"], "model.classes", "does not fit digits"),
        (["trainer.precision=17"], "trainer.precision", "is refused by lightning.Trainer"),
        (["executor=processes", "executor.workers=0"], "executor.workers=0", "at least 1"),
        (["eval.clients=every"], "eval.clients", "must be cohort, all or a number"),
        (["seed=one"], "seed", "at least 0"),
        (["check=maybe"], "check=maybe", "true or false"),
    ],
    "values 3": [
        (["partition.alpha=-1"], "partition.alpha", "greater than 0"),
        (["schedule.rounds=abc"], "schedule.rounds", "a whole number"),
        (["algorithm=fedprox", "algorithm.proximal=-1"], "algorithm.proximal", "at least 0"),
        (["data.num_workers=-1"], "data.num_workers=-1", "at least 0"),
        (["model.norm=bach"], "model.norm", "did you mean batch"),
        (["+trainer.max_epochs=3"], "trainer.max_epochs", "schedule.local_epochs"),
    ],
    "values 4": [
        (["partition.alpha=high"], "partition.alpha", "a number"),
        (["schedule.local_epochs=1.5"], "schedule.local_epochs", "a whole number"),
        (
            ["algorithm=custom", "algorithm._target_=fedlit.algorithms.FedAvgg"],
            "algorithm._target_",
            "cannot be imported",
        ),
        (["data.client_test_fraction=1"], "data.client_test_fraction", "below 1"),
        (["model.optimizer.name=sdg"], "model.optimizer.name", "did you mean sgd"),
        (["+trainer.acumulate=3"], "trainer.acumulate", "is not an argument of lightning.Trainer"),
    ],
    "values 5": [
        (["+partition.beta=3"], "partition.beta", "is not an argument of Dirichlet"),
        (["schedule.lr=cosin"], "schedule.lr", "did you mean cosine"),
    ],
    "values 6": [
        (["schedule.client_state=kept"], "schedule.client_state", "did you mean keep"),
        (
            ["model.optimizer.name=adam"],
            "model.optimizer.momentum",
            "is not an argument of Adam leave it out: ~model.optimizer.momentum",
        ),
        (["+trainer.devices=2"], "trainer.devices=2", "each client trains on one device"),
    ],
    "values 7": [
        (["model.scheduler={name:StepLR}"], "model.scheduler", "step_size"),
        (["+trainer.logger=true"], "trainer.logger", "the observers log rounds, not single fits"),
    ],
    "values 8": [
        (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0", "at least 1"),
    ],
    "values 9": [
        (["model=custom", "model._target_=no.such.Module"], "model._target_", "No module named 'no'"),
        (["trainer.callbacks=5"], "trainer.callbacks=5", "must be a mapping of keys to values such as {stop:"),
    ],
    "model 1": [(["+model.width=3"], "model.width", "is not an argument of SimpleCNN")],
    "model 2": [(["model.dropout=2"], "model.dropout=2", "below 1")],
    "model 3": [(["model.dropout=abc"], "model.dropout=abc", "must be a number")],
    "model 4": [(["model.optimizer=sgd"], "model.optimizer=sgd", "such as {name: sgd, lr: 0.01}")],
    "model 5": [(["model.network=nope"], "model.network=nope", "No module named 'nope'")],
    "model 6": [
        (["model.init_from=/nowhere.ckpt"], "model.init_from=/nowhere.ckpt", "name a .ckpt or .safetensors"),
    ],
    "data 1": [(["data.std=[0]"], "data.std", "greater than 0")],
    "data 2": [(["data.mean=0.5"], "data.mean=0.5", "must be a list")],
    "data 3": [(["data=image_folder", "data.root=/nowhere/at/all"], "data.root", "is not a folder")],
    "data 4": [
        (
            ["data=mnist", "data.root=/proc/nowhere", "data.download=false"],
            "data.root",
            "data=digits needs no download",
        ),
    ],
    "data 5": [(["data=synthetic", "partition=natural", "data.clients=0"], "data.clients=0", "at least 1")],
    "data 6": [
        (
            ["data=synthetic", "partition=natural", "data.val_fraction=0.1"],
            "data.val_fraction",
            "brings its own validation",
        ),
    ],
    "data 7": [
        (["data=custom", "data._target_=builtins.dict"], "data._target_", "must be a pair of map-style datasets"),
    ],
    "cohort": [(["schedule.clients_per_round=11"], "schedule.clients_per_round", "more than the 10 clients")],
    "partition": [(["partition=natural"], "partition", "needs data that names the owner of each sample")],
    "rules": [
        (["data.drop_last=true", "data.batch_size=1000"], "data.batch_size=1000", "data.drop_last=false"),
        (
            ["schedule.stop_at=0.9", "data.val_fraction=0"],
            "schedule.stop_at=0.9",
            "data.val_fraction=0.1 holds some out",
        ),
    ],
    "client state": [
        (
            ["schedule.client_state=keep", "model.optimizer.momentum=0"],
            "schedule.client_state",
            "has no effect: the optimizer has no state",
        ),
    ],
    "trial": [(["monitor.name=val/acuracy"], "monitor.name", "did you mean val/accuracy")],
    "values that need torch 2": [
        (["model.optimizer.lr=-1"], "model.optimizer", "Invalid learning rate"),
        (
            ["trainer.callbacks={a:{_target_:lightning.pytorch.callbacks.EarlyStoping}}"],
            "trainer.callbacks.a._target_",
            "cannot be imported",
        ),
    ],
    "values that need torch 3": [
        (
            ["model=custom", "model._target_=torch.nn.Linear", "+model.in_features=1", "+model.out_features=1"],
            "model._target_",
            "must make a LightningModule",
        ),
    ],
    "values that need torch 1": [
        (["model.shape=[3,32,32]"], "model.shape", "does not fit digits"),
        (["trainer.accelerator=tpuu"], "trainer.accelerator", "did you mean tpu"),
        (
            ["+observers.mine={_target_:fedlit.experiment.observers.Terminall}"],
            "observers.mine._target_",
            "cannot be imported",
        ),
    ],
}
"""Rows of wrong overrides. Errors of one row are found at the same time, so that they are printed together."""

BY_COMMAND = ("names", "no keys", "values 1", "values that need torch 1", "data 3", "rules", "trial")
"""Rows that run the command itself: one or two for each time at which errors are found."""


@pytest.mark.parametrize(("row", "cases"), TOGETHER.items(), ids=TOGETHER)
def test_error_has_the_wrong_value_the_allowed_ones_and_a_hint(monkeypatch, capsys, tmp_path, row, cases):
    overrides = [override for arguments, _, _ in cases for override in arguments]
    run = run_command if row in BY_COMMAND else run_composed
    status, output = run(monkeypatch, capsys, tmp_path, "observers=none", *overrides)
    assert status == 2
    assert f"fedlit: {len(cases)} error{'s' * (len(cases) > 1)} in the configuration; nothing was trained\n" in output
    texts = paragraphs(output)
    assert len(texts) == len(cases)
    for _, key, expected in cases:
        (text,) = [text for line, text in texts.items() if line == key or line.startswith((f"{key}=", f"{key}."))]
        assert expected in text
    assert "Traceback" not in output
    assert not list((tmp_path / "outputs").rglob("*.json"))


def test_a_missing_file_of_weights_is_an_error_before_torch_and_the_data_are_loaded(tmp_path):
    path = tmp_path / "start.ckpt"
    config = to_plain(composed(f"model.init_from={path}"))
    (error,) = setting_errors(config)
    assert (error.subject, error.problem) == (f"model.init_from={path}", "there is no such file")
    path.touch()
    assert setting_errors(config) == []


def test_check_prints_the_plan_and_leaves_no_folder(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fedlit", "check=true", "partition.alpha=0.01", "partition.num_clients=60"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    train.main()
    printed = capsys.readouterr()
    assert "plan: nothing was trained" in printed.out
    assert "partition: leaves 32 of 60 clients without examples" in printed.err
    assert not [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]


def test_errors_in_values_are_printed_together_and_a_traceback_on_request(monkeypatch, capsys, tmp_path):
    overrides = ["partition.num_clients=5000", "model.norm=x"]
    status, output = run_command(monkeypatch, capsys, tmp_path, *overrides)
    assert status == 2
    assert "2 errors" in output
    assert "Traceback" not in output
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    status, output = run_command(monkeypatch, capsys, tmp_path, *overrides, "traceback=true")
    assert status == 2
    assert "Traceback" in output
    assert "collector.raise_if_any()" in output
    assert "2 errors" in output


@pytest.mark.parametrize(("value", "word"), [(None, "null"), (True, "true"), (False, "false"), (0, "0"), ("", "")])
def test_an_error_spells_a_value_as_a_configuration_does(value, word):
    assert str(ConfigError("key", value, "is wrong")) == ("key=" + word).rstrip("=") + ": is wrong"


@pytest.mark.parametrize(
    ("value", "problem"), [(float("inf"), "must be a finite number"), (0, "must be greater than 0")]
)
def test_a_number_that_must_be_positive_is_also_finite(value, problem):
    assert str(require_positive("key", value)) == f"key={value}: {problem}"
    assert require_positive("key", 0.5) is None
