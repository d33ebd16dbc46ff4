"""Every file under conf can be chosen, and its parts can be made."""

from itertools import groupby, zip_longest
from pathlib import Path

import pytest
from conftest import composed
from hydra import compose
from omegaconf import OmegaConf

from fedlit.cli.command_line import config_dir, config_loader
from fedlit.cli.sweep.plan import plan_sweep
from fedlit.core.errors import ErrorCollector
from fedlit.core.files import flatten
from fedlit.experiment.config.parts import make_components
from fedlit.experiment.config.plain import to_plain
from fedlit.experiment.config.settings import make_settings
from fedlit.experiment.observers.loggers import choices as loggers

pytestmark = pytest.mark.slow  # each composes the configuration
CHOICES = sorted(
    (path.parent.relative_to(config_dir()).as_posix(), path.stem)
    for path in config_dir().glob("*/**/*.yaml")
    if path.relative_to(config_dir()).parts[0] not in ("hydra", "hparams_search") and not path.stem.startswith("_")
)


ALONE = (
    "experiment",
    "debug",
)  # groups that choose other groups themselves, so that no other choice may stand beside them
SECURE = ("encryption",)  # a secure sum goes together with few of the other groups' choices
CODECS = ("compression", "compression/down")  # noise on the client does not go together with a lossy codec


def beside(is_chosen):
    """Choices of several groups, one list for each configuration; each choice is in one of them."""
    groups = groupby((pair for pair in CHOICES if is_chosen(pair[0])), lambda pair: pair[0])
    rows = zip_longest(*([f"{group}={choice}" for _, choice in choices] for group, choices in groups))
    return [[choice for choice in row if choice] for row in rows]


@pytest.mark.parametrize(
    "choices",
    [
        *([f"{group}={choice}"] for group, choice in CHOICES if group in ALONE),
        *beside(lambda group: group not in (*ALONE, *CODECS, *SECURE)),
        *beside(lambda group: group in SECURE),
        *beside(lambda group: group in CODECS),
    ],
    ids=" ".join,
)
def test_every_choice_is_made_without_an_error(choices, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", bool)  # their packages need not be installed
    config = composed(*choices)
    targets = {
        "model": "fedlit.models.Classifier",
        "data": "fedlit.data.digits",
        "algorithm": "fedlit.algorithms.FedAvg",
        "partition": "fedlit.data.Natural",
        "compression": "fedlit.aggregation.compression.Int8",
    }
    (tmp_path / "speeds.csv").write_text("client,step_s,up_bytes_s,down_bytes_s\n0,1,1,1\n")
    others = {"clock.table": str(tmp_path / "speeds.csv")}
    missing = {
        key: targets[key.split(".")[0]] if key.endswith("_target_") else others.get(key, "folder")
        for key in OmegaConf.missing_keys(config)
    }
    for key, value in missing.items():
        OmegaConf.update(config, key, value)
    if config.privacy and config.privacy.epsilon is None:
        config.privacy.noise_multiplier = 1.0  # or an epsilon: one of them must be given
    collector = ErrorCollector()
    make_components(to_plain(config), make_settings(to_plain(config), collector), collector)
    assert not collector.all


@pytest.mark.parametrize(("group", "choice"), [pair for pair in CHOICES if pair[0] in ALONE], ids=str)
def test_values_of_an_experiment_are_the_composed_values(group, choice):
    config = composed(f"{group}={choice}")
    file = OmegaConf.merge({"seed": config.seed}, OmegaConf.load(config_dir() / group / f"{choice}.yaml"))
    for key in sorted(flatten({key: value for key, value in file.items() if key not in ("defaults", "hydra")})):
        assert OmegaConf.select(config, key) == OmegaConf.select(file, key), key


@pytest.mark.parametrize(
    "group",
    [
        "data",
        "partition",
        "model",
        "algorithm",
        "sampler",
        "schedule",
        "trainer",
        "executor",
        "compression",
        "compression/down",
        "clock",
        "faults",
        "observers",
        "loggers",
        "experiment",
        "debug",
    ],
)
def test_every_group_has_a_choice(group):
    assert [choice for name, choice in CHOICES if name == group]


@pytest.mark.parametrize(
    "overrides",
    [
        ["data=custom", "data._target_=a.b", "+data.batch_size=6", "~monitor", "eval=3", "++model.width=3"],
        [
            "experiment=tutorial",
            "debug=quick",
            "seed=9",
            "trainer.callbacks=[{_target_:nowhere.A}]",
            "~observers.terminal",
        ],
    ],
)
def test_cached_composition_of_the_tests_equals_hydras(overrides):
    with config_loader():
        assert OmegaConf.to_yaml(composed(*overrides)) == OmegaConf.to_yaml(compose("config", overrides))


def test_tutorial_has_the_values_of_the_tutorial():
    config = to_plain(composed("experiment=tutorial", "data=image_folder", "data.root=folder"))
    assert config["seed"] == 42
    assert {key: config["schedule"][key] for key in ("rounds", "client_fraction", "local_epochs", "local_steps")} == {
        "rounds": 20,
        "client_fraction": 0.3,
        "local_epochs": 2,
        "local_steps": None,
    }
    partition = {
        "_target_": "fedlit.data.Dirichlet",
        "num_clients": 10,
        "alpha": 0.5,
        "balanced": False,
        "min_samples": 0,
    }
    assert {key: config["partition"][key] for key in partition} == partition
    assert {key: config["data"][key] for key in ("batch_size", "val_fraction", "mean", "std")} == {
        "batch_size": 32,
        "val_fraction": 0.0,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    assert {key: config["model"]["optimizer"][key] for key in ("name", "lr", "momentum", "weight_decay")} == {
        "name": "sgd",
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 0.0,
    }
    assert (config["model"]["dropout"], config["model"]["norm"], config["algorithm"]["weights"]) == (
        0.5,
        "none",
        "examples",
    )


def test_the_label_skew_experiment_sweeps_three_alphas_and_iid_over_three_seeds():
    with config_loader():
        whole = compose("config", ["experiment=noniid"], return_hydra_config=True)
    sweep, config = whole.hydra.sweeper.params, to_plain(composed("experiment=noniid"))
    files = [OmegaConf.load(config_dir() / "partition" / f"{name}.yaml") for name in sweep.partition.split(",")]
    assert [file.get("alpha") for file in files] == [0.1, 0.5, 5, None]
    assert [file.get("defaults") for file in files[:3]] == [["dirichlet"]] * 3
    assert files[3] == {"_target_": "fedlit.data.Iid", "num_clients": 10}
    assert sweep.seed == "1,2,3"
    assert config["partition"] == to_plain(composed())["partition"]
    schedule = {"rounds": 10, "client_fraction": 1.0, "local_epochs": 2, "local_steps": None}
    assert {key: config["schedule"][key] for key in schedule} == schedule
    optimizer = {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0}
    assert {key: config["model"]["optimizer"][key] for key in optimizer} == optimizer
    assert (config["model"]["network"], config["data"]["name"]) == ("fedlit.models.LeNet", "FashionMNIST")
    assert (config["data"]["batch_size"], config["partition"]["num_clients"]) == (64, 10)


def test_the_bench_experiment_compares_four_algorithms_on_three_partitions_over_three_seeds():
    sweep = plan_sweep(["-m", "experiment=niid_bench", "algorithm=scaffold", "partition=iid"])
    assert sweep is not None
    assert sweep.folder == Path("outputs/sweeps/niid_bench")
    with config_loader():
        params = compose("config", ["experiment=niid_bench"], return_hydra_config=True).hydra.sweeper.params
    assert params.seed == "1,2,3"
    assert params.algorithm == "fedavg,fedprox,scaffold,fednova"
    files = [OmegaConf.load(config_dir() / "partition" / f"{name}.yaml") for name in params.partition.split(",")]
    assert [file.get("_target_", "fedlit.data.Dirichlet") for file in files] == [
        "fedlit.data.Iid",
        "fedlit.data.Dirichlet",
        "fedlit.data.Classes",
    ]
    assert (files[1].alpha, files[2].classes_per_client) == (0.5, 2)


def test_the_label_skew_experiment_is_one_run_without_a_sweep_flag():
    assert plan_sweep(["experiment=noniid"]) is None
