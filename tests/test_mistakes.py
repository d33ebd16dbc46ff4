"""Wrong configurations, through the command itself: each is named with what is allowed, ends with status 2, and nothing is
left behind."""

import sys

import pytest

from fedlit import train

pytestmark = pytest.mark.slow


def typed(monkeypatch, capsys, folder, *arguments):
    """Status and standard error of the command in a folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["fedlit", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stop:
        train.main()
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "key", "said"),
    [
        (["partition.num_clients=5000"], "partition.num_clients", "more than the 1295 samples"),
        (["schedule.clients_per_round=11"], "schedule.clients_per_round", "more than the 10 clients"),
        (["schedule.clients_per_round=0"], "schedule.clients_per_round", "at least 1"),
        (["schedule.client_fraction=0"], "schedule.client_fraction", "above 0"),
        (["schedule.rounds=abc"], "schedule.rounds", "a whole number"),
        (["schedule.local_epochs=1.5"], "schedule.local_epochs", "a whole number"),
        (["schedule.lr=cosin"], "schedule.lr", "did you mean cosine"),
        (["partition.alpha=0"], "partition.alpha", "above 0"),
        (["partition.alpha=-1"], "partition.alpha", "above 0"),
        (["partition.alpha=high"], "partition.alpha", "a number"),
        (["algorithm.weights=exmaples"], "algorithm.weights", "did you mean examples"),
        (["algorithm.lr=0"], "algorithm.lr", "above 0"),
        (["algorithm=fedprox", "algorithm.proximal=-1"], "algorithm.proximal", "at least 0"),
        (["data.batch_size=0"], "data.batch_size", "at least 1"),
        (["data.val_fraction=1"], "data.val_fraction", "below 1"),
        (["data.std=[0]"], "data.std", "above 0"),
        (["data=image_folder", "data.root=/nowhere/at/all"], "data.root", "is not a folder"),
        (
            ["data=mnist", "data.root=/proc/nowhere", "data.download=false"],
            "data.root",
            "data=digits needs no download",
        ),
        (["model.shape=[3,32,32]"], "model.shape", "does not fit digits"),
        (["model.classes=5"], "model.classes", "does not fit digits"),
        (["model.norm=bach"], "model.norm", "did you mean batch"),
        (["model.optimizer.name=sdg"], "model.optimizer.name", "did you mean sgd"),
        (["model.optimizer.lr=-1"], "model.optimizer", "Invalid learning rate"),
        (
            ["model.optimizer.name=adam"],
            "model.optimizer.momentum",
            "is not an argument of Adam leave it out: ~model.optimizer.momentum",
        ),
        (["model.scheduler={name:StepLR}"], "model.scheduler", "step_size"),
        (
            ["model=custom", "model._target_=torch.nn.Linear", "+model.in_features=1", "+model.out_features=1"],
            "model._target_",
            "must make a LightningModule",
        ),
        (["model=custom", "model._target_=no.such.Module"], "model._target_", "cannot be imported"),
        (["+model.width=3"], "model", "width"),
        (["+partition.beta=3"], "partition.beta", "is not an argument of Dirichlet"),
        (["trainer.accelerator=tpuu"], "trainer.accelerator", "did you mean tpu"),
        (["trainer.precision=17"], "trainer.precision", "refuses"),
        (["+trainer.max_epochs=3"], "trainer.max_epochs", "schedule.local_epochs"),
        (["+trainer.acumulate=3"], "trainer.acumulate", "is not an argument of lightning.Trainer"),
        (
            ["trainer.callbacks={a:{_target_:lightning.pytorch.callbacks.EarlyStoping}}"],
            "trainer.callbacks.a._target_",
            "cannot be imported",
        ),
        (["executor.threads=0"], "executor.threads", "at least 1"),
        (["+observers.mine={_target_:fedlit.observers.Terminall}"], "observers.mine._target_", "cannot be imported"),
        (["monitor.name=val/acuracy"], "monitor.name", "did you mean val/accuracy"),
        (["monitor.mode=up"], "monitor.mode", "max, min"),
        (
            ["schedule.lr=step", "model.scheduler={name:OneCycleLR,max_lr:0.1,total_steps:9,interval:step}"],
            "schedule.lr",
            "OneCycleLR",
        ),
        (["sampler=unifrom"], "sampler=unifrom", "did you mean uniform"),
        (["experiment=tutoral"], "experiment=tutoral", "did you mean tutorial"),
        (["debug=quik"], "debug=quik", "did you mean quick"),
        (["observers=nobody"], "observers=nobody", "must be one of default, none"),
        (["executor=inlne"], "executor=inlne", "did you mean inline"),
        (["sampler.fraction=0.1"], "sampler.fraction=0.1", "is not a key"),
        (["hydra.run.dir=/proc/nowhere"], "hydra.run.dir=/proc/nowhere", "cannot be written"),
        (["trainer.devices=2"], "trainer.devices=2", "is not a key"),
        (["+trainer.devices=2"], "trainer.devices=2", "one client at a time has one device"),
        (["+trainer.logger=true"], "trainer.logger", "see observers"),
        (["data.drop_last=true", "data.batch_size=1000"], "data.batch_size=1000", "data.drop_last=false"),
        (
            ["schedule.stop_at=0.9", "data.val_fraction=0"],
            "schedule.stop_at=0.9",
            "data.val_fraction=0.1 holds some out",
        ),
        (["data.num_workers=-1"], "data.num_workers=-1", "at least 0"),
        (["data=synthetic", "partition=natural", "data.clients=0"], "data.clients=0", "at least 1"),
        (
            ["data=synthetic", "partition=natural", "data.val_fraction=0.1"],
            "data.val_fraction",
            "brings its own validation",
        ),
        (["model.init_from=/nowhere.ckpt"], "model.init_from=/nowhere.ckpt", "name a .ckpt or .safetensors"),
        (
            ["algorithm=custom", "algorithm._target_=fedlit.algorithms.FedAvgg"],
            "algorithm._target_",
            "cannot be imported",
        ),
        (["data=custom", "data._target_=builtins.dict"], "data._target_", "must make a pair of map-style datasets"),
        (["data.mean=0.5"], "data.mean=0.5", "must be a list"),
        (["model.dropout=2"], "model.dropout=2", "below 1"),
        (["model.dropout=abc"], "model.dropout=abc", "must be a number"),
        (["model.optimizer=sgd"], "model.optimizer=sgd", "such as {name: sgd, lr: 0.01}"),
        (["monitor=null"], "monitor=None", "must be keys with values"),
        (["algorithm=null"], "algorithm=None", "leave it out to take the default"),
        (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0", "at least 1"),
        (["executor=processes", "executor.workers=0"], "executor.workers=0", "at least 1"),
        (["model.network=nope"], "model.network=nope", "cannot be imported"),
        (["check=maybe"], "check=maybe", "true or false"),
        (["schedule.client_state=kept"], "schedule.client_state", "did you mean keep"),
        (["schedule.client_state=keep", "model.optimizer.momentum=0"], "schedule.client_state", "has nothing to keep"),
        (["data.client_test_fraction=1"], "data.client_test_fraction", "below 1"),
        (["partition=natural"], "partition", "whose each sample is"),
        (["eval.clients=0"], "eval.clients", "at least 1"),
        (["eval.clients=every"], "eval.clients", "must be cohort, all or a number"),
        (["seed=-1"], "seed", "at least 0"),
        (["seed=one"], "seed", "at least 0"),
        (["~check"], "~check", "cannot be left out"),
        (["trainer.callbacks=5"], "trainer.callbacks=5", "must be keys with values"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed_and_what_to_do(
    monkeypatch, capsys, tmp_path, overrides, key, said
):
    status, told = typed(monkeypatch, capsys, tmp_path, "observers=none", *overrides)
    assert status == 2
    assert "1 mistake in" in told
    assert f"\n  {key}" in told
    assert said in " ".join(told.split())
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
