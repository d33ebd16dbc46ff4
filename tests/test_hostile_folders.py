"""No command runs code, writes elsewhere or prints a secret because of a run's folder."""

import shutil
import sys
import time
from contextlib import suppress

import pytest
import torch
import yaml
from configured import compose_plain
from hostile_folders import BUILDING, COMMANDS, SECRET, SECRET_VARIABLE, VARIANTS, Canary, is_printable
from omegaconf import OmegaConf
from small import composed as compose_config
from torch import load

from fedlit.cli import arguments, evaluate, resume, train
from fedlit.experiment.config import instantiate
from fedlit.experiment.config.trust.public_names import PUBLIC_NAMES
from fedlit.experiment.runner import run_experiment
from fedlit.reports import compare, report

pytestmark = pytest.mark.slow  # whole runs, and many configurations

CHECKS = (
    (evaluate, "untrusted_targets"),
    (evaluate, "interpolation_errors"),
    (resume, "untrusted_targets"),
    (resume, "foreign_command_errors"),
)
"""The checks of a folder from elsewhere: each returns a list of errors."""
MORE_ROUNDS = {"log_is_a_link": ["schedule.rounds=3"]}
"""Arguments with which a finished run has something to log."""
WRITTEN_REPORTS = ("report_files_are_links", "labels_hold_markup_and_formulas")
"""Folders into which a report's files are written: they take time."""
OVERRIDES = ["model=logistic", "partition=iid", "partition.num_clients=3", "schedule.rounds=2", "schedule.local_steps=1",
             "observers=none", "executor=inline"]  # fmt: skip


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("honest") / "run"
    run_experiment(compose_plain(*OVERRIDES), folder, {}, time.time(), OVERRIDES)
    return folder


@pytest.fixture
def call(honest, monkeypatch, capfd):
    """Call a command on a folder; return its exit status and its output."""
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    monkeypatch.delenv("FEDLIT_ALLOW", raising=False)
    monkeypatch.setattr(resume, "compose", lambda name, overrides: compose_config(*overrides))  # a fast one
    client = yaml.safe_load((honest / "rounds.jsonl").read_text().splitlines()[0])["cohort"][0]

    def run(command, folder, *options):
        mains = {
            "evaluate": (arguments.evaluate_command, [folder]),
            "replay": (arguments.replay_command, [folder, "--round", "1", "--client", client]),
            "resume": (train.main, [f"resume={folder}"]),
            "report": (report.main, [folder]),
            "compare": (compare.main, [honest, folder]),
        }
        main, words = mains[command]
        monkeypatch.setattr(sys, "argv", [command, *map(str, [*words, *options])])
        capfd.readouterr()
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
        return status, "".join(capfd.readouterr())

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_a_copy_of_an_honest_run_is_accepted(honest, call, tmp_path, command):
    status, text = call(command, shutil.copytree(honest, tmp_path / "copy"))
    assert (status, "Traceback" in text) == (0, False)


@pytest.mark.parametrize("command", ["evaluate", "replay"])
def test_the_names_that_are_called_are_those_that_were_checked(honest, call, tmp_path, monkeypatch, command):
    called, find = [], instantiate.instantiate
    monkeypatch.setattr(instantiate, "instantiate", lambda node: called.append(node["_target_"]) or find(node))
    status, _ = call(command, shutil.copytree(honest, tmp_path / "copy"))
    assert status == 0
    assert {"fedlit.data.digits", "fedlit.models.Classifier", "fedlit.algorithms.FedAvg"} <= set(called) <= PUBLIC_NAMES


@pytest.mark.parametrize("name", VARIANTS)
def test_a_hostile_folder_harms_nothing(honest, call, tmp_path, name):
    edit, refused, _ = VARIANTS[name]
    canary = Canary(tmp_path / "canary")
    for command in COMMANDS:
        folder = shutil.copytree(honest, tmp_path / command)
        edit(folder, canary)
        has_files = command == "report" and name in WRITTEN_REPORTS
        status, text = call(command, folder, *(["--out", folder] if has_files else []))
        assert canary.is_alive, command
        assert SECRET not in text, command
        assert is_printable(text), (command, text)
        assert "Traceback" not in text, (command, text)
        assert status == 2 if command in refused else status in (0, 2), (command, status, text)
        assert refused != BUILDING or command not in BUILDING or "from elsewhere" in text, (command, text)


@pytest.mark.parametrize("name", [name for name, (*_, fires) in VARIANTS.items() if fires])
def test_the_same_folder_does_harm_if_nothing_is_checked(honest, call, tmp_path, monkeypatch, name):
    """The tests above would see a harm: each of these folders does one as soon as the checks are off."""
    for module, check in CHECKS:
        monkeypatch.setattr(module, check, lambda *_, **__: [])
    monkeypatch.setattr(evaluate, "literal", lambda value: value)
    monkeypatch.setattr(instantiate, "_instantiate", instantiate_without_rules)
    monkeypatch.setattr(instantiate, "check_types", lambda *_: None)
    monkeypatch.setattr(torch, "load", lambda f, **_: load(f, weights_only=False))
    edit, refused, _ = VARIANTS[name]
    canary, texts = Canary(tmp_path / "canary"), []
    for command in refused:
        folder = shutil.copytree(honest, tmp_path / command)
        edit(folder, canary)
        with suppress(Exception):
            texts += [call(command, folder, *MORE_ROUNDS.get(name, ()))[1]]
    assert not canary.is_alive or SECRET in "".join(texts)


def instantiate_without_rules(node):
    """The object of a node, as an instantiation without any rule makes it: it resolves the values once more."""
    return _make(OmegaConf.to_container(OmegaConf.create(node, flags={"allow_objects": True}), resolve=True))


def _make(node):
    if isinstance(node, list):
        return [_make(part) for part in node]
    if not isinstance(node, dict):
        return node
    parts = {key: _make(value) for key, value in node.items()}
    if "_target_" not in parts:
        return parts
    values = {key: value for key, value in parts.items() if key not in ("_target_", "_args_", "_partial_", "_convert_")}
    return instantiate.import_object(parts["_target_"])(*parts.get("_args_", ()), **values)
