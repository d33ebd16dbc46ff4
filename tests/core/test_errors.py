"""Wrong configurations: each is named with what is allowed, ends with status 2, and nothing is left behind."""

import logging
import re
import sys

import pytest
from conftest import composed

from fedlit.cli import train
from fedlit.core.errors import ConfigErrors
from fedlit.experiment.config.build import to_plain
from fedlit.experiment.runner import run_experiment as begin

pytestmark = pytest.mark.slow


def typed(monkeypatch, capsys, folder, *arguments):
    """Status and standard error of the command in a folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["fedlit", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stop:
        train.main()
    return stop.value.code, capsys.readouterr().err


def begun(monkeypatch, capsys, folder, *arguments):
    """What the command comes to once Hydra has composed, which takes most of its time."""
    # Those that Hydra made for an earlier command write where nobody looks any more.
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    with pytest.raises(ConfigErrors) as stop:
        begin(to_plain(composed(*arguments)), folder, {}, 0.0)
    train.print_config_errors(stop.value.errors)
    return 2, capsys.readouterr().err


def paragraphs(told):
    """What standard error says of each mistake, by its first line."""
    return {
        line: " ".join(said.split()) for line, said in re.findall(r"^  (\S.*)\n((?: {6}.*\n)+)", told, re.MULTILINE)
    }


TOGETHER = {
    "names": [
        (["sampler=unifrom"], "sampler=unifrom", "did you mean uniform"),
        (["experiment=tutoral"], "experiment=tutoral", "did you mean tutorial"),
        (["debug=quik"], "debug=quik", "did you mean quick"),
        (["observers=nobody"], "observers=nobody", "must be one of default, none"),
        (["executor=inlne"], "executor=inlne", "did you mean inline"),
        (["algorithm=null"], "algorithm=None", "leave it out to take the default"),
        (["sampler.fraction=0.1"], "sampler.fraction=0.1", "is not a key"),
        (["trainer.devices=2"], "trainer.devices=2", "is not a key"),
        (["~check"], "~check", "cannot be left out"),
        (["hydra.run.dir=/proc/nowhere"], "hydra.run.dir=/proc/nowhere", "cannot be written"),
    ],
    "no keys": [(["monitor=null"], "monitor=None", "must be keys with values")],
    "clients": [(["partition.num_clients=5000"], "partition.num_clients", "more than the 1295 samples")],
    "values 1": [
        (["schedule.clients_per_round=0"], "schedule.clients_per_round", "at least 1"),
        (["algorithm.weights=exmaples"], "algorithm.weights", "did you mean examples"),
        (["data.batch_size=0"], "data.batch_size", "at least 1"),
        (["model.shape=[3,32,32]"], "model.shape", "does not fit digits"),
        (["trainer.accelerator=tpuu"], "trainer.accelerator", "did you mean tpu"),
        (["executor.threads=0"], "executor.threads", "at least 1"),
        (
            ["+observers.mine={_target_:fedlit.experiment.observers.Terminall}"],
            "observers.mine._target_",
            "cannot be imported",
        ),
        (["monitor.mode=up"], "monitor.mode", "max, min"),
        (["eval.clients=0"], "eval.clients", "at least 1"),
        (["seed=-1"], "seed", "at least 0"),
    ],
    "values 2": [
        (["partition.alpha=0"], "partition.alpha", "above 0"),
        (["schedule.client_fraction=0"], "schedule.client_fraction", "above 0"),
        (["algorithm.lr=0"], "algorithm.lr", "above 0"),
        (["data.val_fraction=1"], "data.val_fraction", "below 1"),
        (["model.classes=5"], "model.classes", "does not fit digits"),
        (["trainer.precision=17"], "trainer.precision", "refuses"),
        (["executor=processes", "executor.workers=0"], "executor.workers=0", "at least 1"),
        (["eval.clients=every"], "eval.clients", "must be cohort, all or a number"),
        (["seed=one"], "seed", "at least 0"),
        (["check=maybe"], "check=maybe", "true or false"),
    ],
    "values 3": [
        (["partition.alpha=-1"], "partition.alpha", "above 0"),
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
        (["model.optimizer.lr=-1"], "model.optimizer", "Invalid learning rate"),
        (
            ["trainer.callbacks={a:{_target_:lightning.pytorch.callbacks.EarlyStoping}}"],
            "trainer.callbacks.a._target_",
            "cannot be imported",
        ),
    ],
    "values 6": [
        (["schedule.client_state=kept"], "schedule.client_state", "did you mean keep"),
        (
            ["model.optimizer.name=adam"],
            "model.optimizer.momentum",
            "is not an argument of Adam leave it out: ~model.optimizer.momentum",
        ),
        (["+trainer.devices=2"], "trainer.devices=2", "one client at a time has one device"),
    ],
    "values 7": [
        (["model.scheduler={name:StepLR}"], "model.scheduler", "step_size"),
        (["+trainer.logger=true"], "trainer.logger", "see observers"),
    ],
    "values 8": [
        (
            ["model=custom", "model._target_=torch.nn.Linear", "+model.in_features=1", "+model.out_features=1"],
            "model._target_",
            "must make a LightningModule",
        ),
        (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0", "at least 1"),
    ],
    "values 9": [
        (["model=custom", "model._target_=no.such.Module"], "model._target_", "cannot be imported"),
        (["trainer.callbacks=5"], "trainer.callbacks=5", "must be keys with values"),
    ],
    "model 1": [(["+model.width=3"], "model.width", "is not an argument of SimpleCNN")],
    "model 2": [(["model.dropout=2"], "model.dropout=2", "below 1")],
    "model 3": [(["model.dropout=abc"], "model.dropout=abc", "must be a number")],
    "model 4": [(["model.optimizer=sgd"], "model.optimizer=sgd", "such as {name: sgd, lr: 0.01}")],
    "model 5": [(["model.network=nope"], "model.network=nope", "cannot be imported")],
    "model 6": [
        (["model.init_from=/nowhere.ckpt"], "model.init_from=/nowhere.ckpt", "name a .ckpt or .safetensors"),
    ],
    "data 1": [(["data.std=[0]"], "data.std", "above 0")],
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
        (["data=custom", "data._target_=builtins.dict"], "data._target_", "must make a pair of map-style datasets"),
    ],
    "cohort": [(["schedule.clients_per_round=11"], "schedule.clients_per_round", "more than the 10 clients")],
    "partition": [(["partition=natural"], "partition", "whose each sample is")],
    "rules": [
        (["data.drop_last=true", "data.batch_size=1000"], "data.batch_size=1000", "data.drop_last=false"),
        (
            ["schedule.stop_at=0.9", "data.val_fraction=0"],
            "schedule.stop_at=0.9",
            "data.val_fraction=0.1 holds some out",
        ),
    ],
    "memory": [
        (["schedule.client_state=keep", "model.optimizer.momentum=0"], "schedule.client_state", "has nothing to keep"),
    ],
    "trial": [(["monitor.name=val/acuracy"], "monitor.name", "did you mean val/accuracy")],
    "schedules": [
        (
            ["schedule.lr=step", "model.scheduler={name:OneCycleLR,max_lr:0.1,total_steps:9,interval:step}"],
            "schedule.lr",
            "OneCycleLR",
        ),
    ],
}
"""Wrong configurations. Those in one row are found at the same time, and so can be typed and told together."""

TYPED = ("names", "no keys", "values 1", "values 5", "values 8", "data 3", "rules", "trial")
"""Rows that go through the command itself: one or two of each time at which mistakes are found."""


@pytest.mark.parametrize(("row", "wrong"), TOGETHER.items(), ids=TOGETHER)
def test_a_wrong_value_is_named_with_what_is_allowed_and_what_to_do(monkeypatch, capsys, tmp_path, row, wrong):
    overrides = [override for given, _, _ in wrong for override in given]
    way = typed if row in TYPED else begun
    status, told = way(monkeypatch, capsys, tmp_path, "observers=none", *overrides)
    assert status == 2
    assert f"fedlit: {len(wrong)} mistake{'s' * (len(wrong) > 1)} in the configuration; nothing was trained\n" in told
    found = paragraphs(told)
    assert len(found) == len(wrong)
    for _, key, said in wrong:
        (text,) = [text for line, text in found.items() if line == key or line.startswith((f"{key}=", f"{key}."))]
        assert said in text
    assert "Traceback" not in told
    assert not list((tmp_path / "outputs").rglob("*.json"))


def test_check_prints_the_plan_and_leaves_no_folder(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fedlit", "check=true", "partition.alpha=0.01", "partition.num_clients=60"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    train.main()
    said = capsys.readouterr()
    assert "plan: nothing was trained" in said.out
    assert "clients have no sample" in said.err
    assert not [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]


def test_mistakes_in_values_are_told_together_and_traceback_shows_where(monkeypatch, capsys, tmp_path):
    wrong = ["partition.num_clients=5000", "model.norm=x"]
    status, told = typed(monkeypatch, capsys, tmp_path, *wrong)
    assert status == 2
    assert "2 mistakes" in told
    assert "Traceback" not in told
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    status, told = typed(monkeypatch, capsys, tmp_path, *wrong, "traceback=true")
    assert status == 2
    assert "Traceback" in told
    assert "findings.stop()" in told
    assert "2 mistakes" in told
