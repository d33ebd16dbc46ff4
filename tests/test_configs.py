"""Every file under conf can be chosen, and what it says can be made."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from fedlit.build import Findings, parts, plain
from fedlit.command_line import conf
from fedlit.sweep import planned

CHOICES = sorted(
    (path.parent.name, path.stem)
    for path in conf().glob("*/*.yaml")
    if path.parent.name not in ("hydra", "hparams_search") and not path.stem.startswith("_")
)


def composed(*overrides):
    with initialize_config_dir(str(conf()), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_is_made_without_a_mistake(group, choice, tmp_path):
    config = composed(f"{group}={choice}")
    targets = {
        "model": "fedlit.models.Classifier",
        "data": "fedlit.data.digits",
        "algorithm": "fedlit.algorithms.FedAvg",
    }
    (tmp_path / "speeds.csv").write_text("client,step_s,up_bytes_s,down_bytes_s\n0,1,1,1\n")
    others = {"clock.table": str(tmp_path / "speeds.csv")}
    missing = {
        key: targets[key.split(".")[0]] if key.endswith("_target_") else others.get(key, "folder")
        for key in OmegaConf.missing_keys(config)
    }
    for key, value in missing.items():
        OmegaConf.update(config, key, value)
    findings = Findings()
    parts(plain(config), findings)
    assert not findings.found


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
        "clock",
        "faults",
        "observers",
        "experiment",
        "debug",
    ],
)
def test_the_groups_are_there(group):
    assert [choice for name, choice in CHOICES if name == group]


def test_the_tutorial_is_the_tutorials():
    config = plain(composed("experiment=tutorial", "data=image_folder", "data.root=folder"))
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
    with initialize_config_dir(str(conf()), version_base="1.3"):
        whole = compose("config", ["experiment=noniid"], return_hydra_config=True)
    sweep, config = whole.hydra.sweeper.params, plain(composed("experiment=noniid"))
    files = [OmegaConf.load(conf() / "partition" / f"{name}.yaml") for name in sweep.partition.split(",")]
    assert [file.get("alpha") for file in files] == [0.1, 0.5, 5, None]
    assert [file.get("defaults") for file in files[:3]] == [["dirichlet"]] * 3
    assert files[3] == {"_target_": "fedlit.data.Iid", "num_clients": 10}
    assert sweep.seed == "1,2,3"
    assert config["partition"] == plain(composed())["partition"]
    schedule = {"rounds": 10, "client_fraction": 1.0, "local_epochs": 2, "local_steps": None}
    assert {key: config["schedule"][key] for key in schedule} == schedule
    optimizer = {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0}
    assert {key: config["model"]["optimizer"][key] for key in optimizer} == optimizer
    assert (config["model"]["network"], config["data"]["name"]) == ("fedlit.models.LeNet", "FashionMNIST")
    assert (config["data"]["batch_size"], config["partition"]["num_clients"]) == (64, 10)


def test_the_label_skew_experiment_is_one_run_unless_a_sweep_is_asked_for():
    assert planned(["experiment=noniid"]) is None
