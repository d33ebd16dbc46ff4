"""A federation from a configuration, and the errors found before round 1."""

import json
import sys
import time

import pytest
from configured import MODULE, build, errors_of
from conftest import composed as compose_config

from fedlit.core.errors import ConfigErrors
from fedlit.experiment.config.instantiate import matches_type, type_name
from fedlit.experiment.config.plain import to_plain
from fedlit.experiment.runner import run_experiment
from fedlit.experiment.weights import ckpt_bytes

pytestmark = pytest.mark.slow  # whole builds of a configuration


def test_default_is_the_federation_of_the_tutorial_on_digits():
    run = build()
    fed = run.federation
    assert (len(fed.registry), fed.schedule.cohort_size(10)) == (10, 3)
    assert (fed.schedule.rounds, fed.worker.trainer_config.epochs) == (20, 2)
    assert fed.splits == ("val", "test")
    assert len(run.data.val) == 143
    assert sum(run.partition["sizes"]) == 1295
    assert fed.worker.data.loading.local_batch_size == 16


def test_partition_and_initial_weights_depend_only_on_the_seed():
    first, second, third = build("algorithm=fedavg"), build("algorithm=fedprox", "schedule.rounds=3"), build("seed=7")
    assert first.partition == second.partition
    assert first.partition != third.partition
    name = "network.classifier.1.weight"
    assert first.federation.initial.parameters[name].equal(second.federation.initial.parameters[name])
    assert not first.federation.initial.parameters[name].equal(third.federation.initial.parameters[name])


def test_dry_run_before_round_1_changes_nothing():
    fed = build().federation
    assert all(
        tensor.equal(fed.initial.state_dict()[name]) for name, tensor in build().federation.initial.state_dict().items()
    )
    assert fed.worker.replica.module.val_accuracy.update_count == 0


def test_without_a_validation_split_there_is_no_monitor():
    fed = build("data.val_fraction=0").federation
    assert fed.splits == ("test",)
    assert fed.monitor.name is None


def test_full_batch_is_the_whole_shard():
    assert build("data.batch_size=full").federation.worker.data.loading.local_batch_size is None


@pytest.fixture
def my_module(tmp_path, monkeypatch):
    (tmp_path / "my_own_file.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield ["model=custom", "model._target_=my_own_file.Mine"]
    sys.modules.pop("my_own_file", None)


def test_module_of_the_user_is_trained_unmodified_and_monitored_by_its_own_metric(my_module):
    fed = build(
        *my_module,
        "+model.width=5",
        "monitor.name=val_nll",
        "monitor.mode=min",
        "schedule.rounds=2",
        "schedule.local_steps=3",
    ).federation
    records = list(fed.run())
    assert {"train/loss", "val_nll", "test_nll"} <= set(records[-1].metrics)
    assert fed.initial.parameters["net.1.weight"].shape == (5, 64)


def test_monitor_name_that_the_module_does_not_log_is_an_error(my_module):
    assert "val_nll" in errors_of(*my_module)["monitor.name"]


@pytest.mark.skipif(__import__("torch").cuda.is_available(), reason="this machine has a GPU")
def test_missing_accelerator_is_an_error():
    assert "is not on this machine, which has cpu" in errors_of("trainer.accelerator=gpu")["trainer.accelerator"]


def test_errors_of_all_groups_are_found_together():
    assert set(
        errors_of(
            "partition.num_clients=5000",
            "algorithm.weights=x",
            "schedule.rounds=0",
            "model.norm=x",
            "seed=-1",
            "executor.threads=0",
        )
    ) == {"partition.num_clients", "algorithm.weights", "schedule.rounds", "model.norm", "seed", "executor.threads"}


@pytest.mark.parametrize(
    ("group", "wrong"),
    [
        ("schedule", {"rounds": "abc", "quorum": 0, "client_fraction": 2, "lr": "sine", "lr_floor": -1}),
        ("data", {"batch_size": 0, "val_fraction": 1, "num_workers": -1, "eval_batch_size": 0}),
        ("partition", {"num_clients": 0, "alpha": 0, "min_samples": -1, "bins": 0}),
        ("partition", {"num_clients": "ten", "alpha": "high", "foo": 1}),
        ("algorithm", {"weights": "x", "buffers": "x", "lr": 0, "proximal": -1}),
        ("executor", {"workers": "many", "threads": 0, "per_gpu": 0, "wall_timeout_s": 0}),
        ("monitor", {"name": "test/accuracy", "mode": "most"}),
        ("checkpoint", {"keep": 0, "every": 0}),
        ("clock", {"step_s": 0, "up_bytes_s": -1, "step_sigma": 11, "late": "cut", "table": 5}),
        ("clock", {"deadline_s": 0, "late": "wait"}),
        ("faults", {"on_error": "x", "retries": 0, "max_lost_rounds": 0, "max_norm": 0}),
        ("faults.server", {"round": 0, "step": "x"}),
    ],
)
def test_all_errors_of_a_group_are_found_together(group, wrong):
    choices = ["clock=lognormal", "faults=crash_server", "schedule.stop_at=null"]
    errors = errors_of(*choices, *(f"++{group}.{key}={value}" for key, value in wrong.items()))
    assert set(errors) == {f"{group}.{key}" for key in wrong}


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        (["+sampler.foo=1"], "sampler.foo", "not an argument of Uniform"),
        (["+sampler.size=7"], "sampler.size", "which the schedule sets"),
        (["sampler._target_=fedlit.data.Iid"], "sampler", "cannot be created"),
        (
            ["sampler=power_of_choice", "sampler.candidates=2"],
            "sampler.candidates",
            "at least 3, the number of clients in a round",
        ),
        (["sampler=power_of_choice", "sampler.candidates=11"], "sampler.candidates", "more than the 10 clients"),
        (["sampler=poisson", "sampler.q=2"], "sampler.q", "at most 1"),
        (["sampler=available", "sampler.period=0.5"], "sampler.period", "must be a whole number"),
        (["trainer.callbacks=5"], "trainer.callbacks", "must be a mapping of keys to values"),
        (["trainer.callbacks={a:5}"], "trainer.callbacks.a", "must be a mapping with the key _target_"),
        (["trainer.callbacks=[{_target_:nowhere.A}]"], "trainer.callbacks.0._target_", "cannot be imported"),
        (["trainer.callbacks={a:{_target_:fedlit.data.Natural}}"], "trainer.callbacks.a._target_", "makes a Natural"),
        (
            ["observers=default", "observers.terminal=5"],
            "observers.terminal",
            "must be a mapping with the key _target_",
        ),
        (["seed=true"], "seed", "whole number"),
        (["monitor.name=null", "schedule.stop_at=0.9"], "schedule.stop_at", "monitor.name is null"),
        (["monitor.name=test/accuracy", "schedule.stop_at=0.9"], "monitor.name", "choose nothing"),
        (["schedule.lr=step", "schedule.lr_gamma=2"], "schedule.lr_gamma", "at most 1"),
        (["data=synthetic", "partition=natural", "data.seed=-1"], "data.seed", "at least 0"),
        (["~monitor"], "monitor", "is not in the configuration"),
        (["eval=3"], "eval", "must be a mapping of keys to values"),
    ],
)
def test_error_has_its_full_key(overrides, key, text):
    assert list(errors := errors_of(*overrides)) == [key]
    assert text in errors[key]


def test_fault_plans_without_effect_are_errors_under_their_names():
    assert set(errors_of("faults=drop", "faults.plans.drop.clients=[10]", "faults.plans.drop.rounds=[0]")) == {
        "faults.plans.drop.clients",
        "faults.plans.drop.rounds",
    }
    assert "executor.wall_timeout_s" in errors_of("faults=hang")["faults.plans.hang.fault.seconds"]
    assert set(errors_of("faults=crash_server", "schedule.rounds=2")) == {"faults.server.round"}


def test_wrong_number_of_cores_is_an_error_before_round_1(monkeypatch):
    monkeypatch.setenv("FEDLIT_CORES", "abc")
    assert set(errors_of("schedule.rounds=0")) == {"FEDLIT_CORES", "schedule.rounds"}


def test_each_wrong_observer_is_an_error():
    errors = errors_of("+observers.a={_target_:nowhere.A}", "+observers.b={_target_:fedlit.experiment.observers.B}")
    assert set(errors) == {"observers.a._target_", "observers.b._target_"}


def test_missing_value_is_an_error_with_its_key():
    assert "give one: data.root=" in errors_of("data=image_folder")["data.root"]


def test_model_that_fails_on_the_data_is_an_error_with_its_cause(my_module, tmp_path):
    (tmp_path / "my_own_file.py").write_text(MODULE.replace("Linear(64", "Linear(63"))
    with pytest.raises(ConfigErrors) as error:
        build(*my_module, "monitor.name=val_nll")
    assert "model=Mine: fails in its trial on digits (inputs [1, 8, 8], 10 classes)" in str(error.value)
    assert "my_own_file.py:11 in training_step: loss = " in str(error.value)
    assert "compare the module's shapes with the inputs' [1, 8, 8]" in str(error.value)
    assert "shapes cannot be multiplied" in str(error.value.__cause__.__cause__)


def test_an_error_of_another_kind_has_the_users_line_and_no_remedy(my_module, tmp_path):
    (tmp_path / "my_own_file.py").write_text(
        MODULE.replace('batch[1])\n        self.log("loss"', "batch['y'])\n        self.log(\"loss\"")
    )
    (text,) = errors_of(*my_module, "monitor.name=val_nll").values()
    assert "TypeError: tuple indices must be integers or slices, not str" in text
    assert text.endswith("cross_entropy(self.net(batch[0]), batch['y']); traceback=true shows where")


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("import torch\nx = = 1\n", "broken.Mine", ("SyntaxError: invalid syntax", "broken.py:2: x = = 1")),
        ("import no_such_library\n", "broken.Mine", ("broken.py:1: import no_such", "install no_such_library, or")),
        ("def f():\n    raise KeyError('k')\nf()\n", "broken.Mine", ("KeyError: 'k'", "broken.py:2 in f: raise Key")),
        ("class Mine: ...\n", "broken.Mina", ("module broken has no Mina", "did you mean Mine?")),
        ("class Mine: ...\n", "broken", ("is a module, not a class or function", "such as broken.Mine")),
        ("class Mine: ...\n", "brokn.Mine", ("No module named 'brokn'", "must be the import path")),
        ("Mine = 3\n", "broken.Mine", ("is a int, not a class or function", "must be the import path")),
        (
            "def Mine():\n    return {}['a']\n",
            "broken.Mine",
            ("cannot be created: KeyError: 'a'", "in Mine: return {}["),
        ),
    ],
)
def test_an_import_path_that_fails_has_the_users_line(tmp_path, monkeypatch, text, target, expected):
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    (error,) = errors_of("model=custom", f"model._target_={target}").values()
    assert all(part in error for part in expected), error


def test_layers_of_configure_model_depend_on_the_seed_and_take_initial_weights(my_module, tmp_path):
    text = MODULE.replace(
        "def __init__(self, width=4):\n        super().__init__()\n", "def configure_model(self, width=4):\n"
    )
    (tmp_path / "my_own_file.py").write_text(
        text.replace("        self.net =", "        if not hasattr(self, 'net'): self.net =")
    )
    first, second = (build(*my_module, "monitor.name=val_nll").federation for _ in range(2))
    assert all(first.initial.parameters[name].equal(tensor) for name, tensor in second.initial.parameters.items())
    (tmp_path / "start.ckpt").write_bytes(ckpt_bytes(first.worker.replica, first.worker.trainer_config, first.initial))
    warm = build(*my_module, "monitor.name=val_nll", "seed=2", f"+model.init_from={tmp_path / 'start.ckpt'}").federation
    assert all(warm.initial.parameters[name].equal(tensor) for name, tensor in first.initial.parameters.items())


def test_classifier_refuses_data_without_classes(tmp_path, monkeypatch):
    (tmp_path / "my_numbers.py").write_text(REGRESSION)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_numbers", raising=False)
    errors = errors_of("data=custom", "data._target_=my_numbers.targets", "model=logistic", "partition=iid")
    assert "needs classes, and your data has none: its labels are not classes" in errors["model.classes"]


@pytest.mark.parametrize(
    ("value", "hint", "is_match"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        ("1", float, False),
        (None, int | None, True),
        ("x", int | None, False),
        ([1], list[int], True),
    ],
)
def test_plain_value_matches_its_type(value, hint, is_match):
    assert matches_type(value, hint) == is_match


def test_type_name_is_in_words():
    assert type_name(int | None) == "a whole number or null"
    assert type_name(str) == "a string"


def test_model_takes_initial_weights_from_a_file(tmp_path):
    cold = build("seed=1").federation
    (tmp_path / "start.ckpt").write_bytes(ckpt_bytes(cold.worker.replica, cold.worker.trainer_config, cold.initial))
    warm = build("seed=2", f"model.init_from={tmp_path / 'start.ckpt'}").federation
    assert all(tensor.equal(cold.initial.state_dict()[name]) for name, tensor in warm.initial.state_dict().items())


def test_deterministic_sets_the_options_that_torch_needs_on_a_gpu(monkeypatch):
    import os

    import torch

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        build("trainer.deterministic=true")
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)


def test_client_test_fraction_gives_each_client_its_own_test_set():
    fed = build(
        "data.client_test_fraction=0.2", "eval.clients=all", "schedule.rounds=1", "schedule.local_steps=1"
    ).federation
    tests = fed.worker.data.client_tests
    assert tests.population.sizes.sum() + fed.registry.sizes.sum() == 1295
    for client in range(10):
        assert not set(tests.population.shard(client)) & set(fed.worker.data.population.shard(client))
    assert {"own/accuracy", "own/loss", "own/accuracy_std"} <= set(next(iter(fed.run())).metrics)


REGRESSION = """
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import Dataset, TensorDataset

X = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))

def targets():
    return TensorDataset(X, X.sum(1)), TensorDataset(X[:50], X[:50].sum(1))

class Bare(Dataset):
    def __len__(self):
        return len(X)
    def __getitem__(self, index):
        return X[index], X[index].sum()

def label_free():
    return Bare(), Bare()

class Linear(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(5, 1)
    def training_step(self, batch, batch_idx):
        return ((self.layer(batch[0]).squeeze(1) - batch[1]) ** 2).mean()
    def validation_step(self, batch, batch_idx):
        self.log("val/mse", self.training_step(batch, batch_idx))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)
"""


@pytest.mark.slow  # whole runs
@pytest.mark.parametrize(
    ("source", "partition"), [("targets", "dirichlet"), ("targets", "quantity"), ("label_free", "iid")]
)
def test_regression_and_label_free_data_run_with_all_observers(tmp_path, monkeypatch, source, partition):
    (tmp_path / "my_regression.py").write_text(REGRESSION)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_regression", raising=False)
    model = ["model=custom", "model._target_=my_regression.Linear", "monitor.name=val/mse", "monitor.mode=min"]
    data = ["data=custom", f"data._target_=my_regression.{source}", f"partition={partition}", "schedule.rounds=3"]
    observers = ["observers=default", "observers.terminal=null"]
    best = run_experiment(to_plain(compose_config(*model, *data, *observers)), tmp_path / "run", {}, time.time())
    losses = [json.loads(line)["val/mse"] for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert best == min(losses)
    assert (tmp_path / "run" / "partition.png").is_file()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["observers_failed"] == {}


def test_only_the_natural_partition_has_the_test_sets_of_the_hospitals():
    hospitals = ["data=heart_disease", "model=logistic"]
    assert build(*hospitals, "partition=natural").federation.worker.data.client_tests is not None
    assert build(*hospitals, "partition=iid", "partition.num_clients=4").federation.worker.data.client_tests is None


MODULE_OF_DATA = """
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

class Mine(LightningDataModule):
    def __init__(self, batch_size=8):
        super().__init__()
        self.batch_size = batch_size
        assert batch_size != 5

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(60, 64), torch.arange(60) % 10), self.batch_size)

    val_dataloader = test_dataloader = train_dataloader

class Splitting(Mine):
    def __init__(self, val_fraction=0.5):
        super().__init__()
        assert val_fraction == 0.2
"""


def test_data_module_has_its_validation_set_and_shares_arguments_with_the_loading(tmp_path, monkeypatch):
    (tmp_path / "my_loaders.py").write_text(MODULE_OF_DATA)
    monkeypatch.syspath_prepend(tmp_path)
    custom = ["data=custom", "data._target_=my_loaders.Mine", "model=logistic", "partition=iid"]
    run = build(*custom, "+data.batch_size=6")
    assert len(run.data.val) == len(run.data.train) == 60
    assert run.federation.worker.data.loading.local_batch_size == 6
    assert "brings its own" in errors_of(*custom, "+data.val_fraction=0.1")["data.val_fraction"]
    assert "cannot be created" in errors_of(*custom, "+data.batch_size=5")["data"]  # passed to the module too
    run = build(*custom, "data._target_=my_loaders.Splitting", "+data.val_fraction=0.2")
    assert len(run.data.val) == len(run.data.train) == 60


def test_random_data_source_is_seeded(tmp_path, monkeypatch):
    (tmp_path / "my_drawn.py").write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n"
        "def make():\n    return [TensorDataset(torch.randn(60, 64), torch.arange(60) % 10) for _ in range(2)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    custom = ["data=custom", "data._target_=my_drawn.make", "model=logistic", "partition=iid", "schedule.rounds=1"]
    first, second = ([record.sha256 for record in build(*custom).federation.run()] for _ in range(2))
    assert first == second
