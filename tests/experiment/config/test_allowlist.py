"""A configuration from elsewhere may name only modules on the list."""

import os

import pytest

from fedlit.experiment.config.allowlist import ALLOW_VARIABLE, untrusted_targets


def refused(config, *allow):
    return [error.key for error in untrusted_targets(config, allow)]


@pytest.mark.parametrize(
    "target",
    [
        "fedlit.models.Classifier",
        "torch.nn.Linear",
        "torch.optim.SGD",
        "torchvision.transforms.v2.RandomCrop",
        "torchmetrics.Accuracy",
        "lightning.pytorch.callbacks.EarlyStopping",
    ],
)
def test_target_in_an_allowed_module_passes(target):
    assert refused({"a": {"_target_": target}}) == []


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "torch.load",
        "torch.hub.load",
        "fedlit.cli.train.os.system",
        "fedlit.cli.sweep.jobs.shutil.rmtree",
        "fedlitx.Thing",
        "torch.nnx.Thing",
        "",
        None,
        3,
        "fedlit.cli.train.os",
    ],
)
def test_target_of_another_module_is_refused_by_its_path_or_by_its_definition(target):
    assert refused({"a": {"_target_": target}}) == ["a._target_"]


def test_targets_at_any_depth_and_the_network_of_a_classifier_are_checked():
    config = {
        "a": [{"b": {"_target_": "os.system"}}],
        "model": {"_target_": "fedlit.models.Classifier", "network": "my.Net"},
    }
    assert refused(config) == ["a[0].b._target_", "model.network"]


def test_no_module_outside_the_list_is_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert refused({"_target_": "evil_module.Thing"}) == ["_target_"]


def test_command_and_environment_extend_the_list(monkeypatch):
    assert refused({"_target_": "collections.OrderedDict"}, "collections") == []
    assert refused({"_target_": "collections.OrderedDict", "allow": ["collections"]}) == ["_target_"]
    monkeypatch.setenv(ALLOW_VARIABLE, "json,collections")
    assert refused({"_target_": "collections.OrderedDict"}) == []
    assert os.environ[ALLOW_VARIABLE]


def test_positional_arguments_are_refused():
    assert refused({"model": {"_target_": "fedlit.models.Classifier", "_args_": ["evil.Net"]}}) == ["model._args_"]
    assert refused({"_target_": "torchvision.datasets.utils.download_url"}) == ["_target_"]
