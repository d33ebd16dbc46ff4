"""A configuration from elsewhere may call exactly the names on the list."""

import inspect
import os
import pickle

import pytest
import torch
import torchmetrics
import yaml
from hydra.utils import get_object
from lightning.pytorch import Callback

from fedlit.cli.command_line import config_dir
from fedlit.executors.pool import transport
from fedlit.experiment.config.trust.allowlist import ALLOW_VARIABLE, untrusted_targets
from fedlit.experiment.config.trust.public_names import FEDLIT_NAMES, LIBRARY_NAMES, NETWORKS, PUBLIC_NAMES


def refused(config, *allow, names=()):
    return [error.key for error in untrusted_targets(config, allow, names)]


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
def test_name_on_the_list_passes(target):
    assert refused({"a": {"_target_": target}}) == []


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "torch.load",
        "torch.hub.load",
        "torch.nn.Module",
        "torch.nn.Module.load_state_dict",
        "torch.nn.modules.linear.Linear",
        "torch.nn.Linear.__class__",
        "torchvision.datasets.utils.download_url",
        "torchvision.models.resnet18",
        "torchvision.transforms.v2.Lambda",
        "torchvision._internally_replaced_utils.load_state_dict_from_url",
        "lightning.pytorch.callbacks.ModelCheckpoint",
        "lightning.pytorch.loggers.CSVLogger",
        "fedlit.cli.train.os.system",
        "fedlit.cli.sweep.jobs.shutil.rmtree",
        "fedlit.core.files.write_atomic",
        "fedlit.data.image_folder.__globals__",
        "fedlit.models.SimpleCNN.__init__",
        "fedlitx.Thing",
        "torch.nnx.Thing",
        "",
        None,
        3,
        ["os.system"],
        "fedlit.cli.train.os",
    ],
)
def test_any_other_name_is_refused(target):
    assert refused({"a": {"_target_": target}}) == ["a._target_"]


def test_targets_at_any_depth_and_the_network_of_a_classifier_are_checked():
    config = {
        "a": [{"b": {"_target_": "os.system"}}],
        "c": {"_target_": "torch.nn.Linear", "_partial_": True, "_recursive_": False, "d": {"_target_": "os.system"}},
        "model": {"_target_": "fedlit.models.Classifier", "network": "my.Net"},
    }
    assert refused(config) == ["a[0].b._target_", "c.d._target_", "model.network"]
    for name in NETWORKS:
        assert refused({"model": {"_target_": "fedlit.models.Classifier", "network": name}}) == []
    for name in ("fedlit.data.image_folder", "torch.nn.Linear", "fedlit.cli.train.os.system"):
        assert refused({"model": {"_target_": "fedlit.models.Classifier", "network": name}}) == ["model.network"]


def test_no_module_outside_the_list_is_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert refused({"_target_": "evil_module.Thing"}) == ["_target_"]


def test_command_and_environment_extend_the_list_by_public_names(monkeypatch):
    assert refused({"_target_": "collections.OrderedDict"}, "collections") == []
    assert refused({"_target_": "collections.OrderedDict"}, names=["collections.OrderedDict"]) == []
    assert refused({"_target_": "collections.OrderedDict", "allow": ["collections"]}) == ["_target_"]
    assert refused({"_target_": "collections._sys.exit"}, "collections") == ["_target_"]
    assert refused({"_target_": "json.codecs.open"}, "json") == ["_target_"]
    for name in (
        "collections.OrderedDict.fromkeys",
        "collections.abc",
        "collections",
    ):  # no class or function of its own
        assert refused({"_target_": name}, "collections") == ["_target_"]
    monkeypatch.setenv(ALLOW_VARIABLE, "json,collections")
    assert refused({"_target_": "collections.OrderedDict"}) == []
    assert os.environ[ALLOW_VARIABLE]


def test_positional_arguments_are_refused():
    assert refused({"model": {"_target_": "fedlit.models.Classifier", "_args_": ["evil.Net"]}}) == ["model._args_"]


def test_arguments_that_could_do_more_than_compute_have_rules():
    images = {"_target_": "fedlit.data.torchvision_images", "name": "EMNIST", "options": {"split": "letters"}}
    assert refused({"data": images}) == []
    assert refused({"data": {**images, "name": "LSUN"}}) == ["data.name"]
    assert refused({"data": {**images, "options": {"loader": 1}}}) == ["data.options"]
    assert refused({"data": {"_target_": "fedlit.data.image_folder", "cache": None}}) == []
    assert refused({"data": {"_target_": "fedlit.data.image_folder", "cache": "elsewhere"}}) == ["data.cache"]
    for address, keys in (
        (None, []),
        ("auto", []),
        ("10.0.0.9:6379", ["executor.address"]),
        ("ray://x", ["executor.address"]),
    ):
        assert refused({"executor": {"_target_": "fedlit.executors.Ray", "address": address}}) == keys


@pytest.mark.parametrize("name", ["deserialize", "load", "loads"])
def test_messages_between_processes_are_no_target_even_if_the_user_allows_all_of_fedlit(name, monkeypatch):
    functions = [key for key, value in vars(transport).items() if inspect.isfunction(value)]
    assert any("pickle.loads" in inspect.getsource(getattr(transport, key)) for key in functions)
    monkeypatch.setenv(ALLOW_VARIABLE, "fedlit,fedlit.executors.pool.transport")
    for key in [*functions, name]:
        assert refused({"_target_": f"fedlit.executors.pool.transport.{key}"}, "fedlit.executors") == ["_target_"]


def test_every_name_that_the_configuration_has_is_on_the_list():
    names = set()

    def collect(node):
        if isinstance(node, dict):
            names.update(str(node[key]) for key in ("_target_", "network") if key in node)
            [collect(value) for value in node.values()]

    for path in config_dir().rglob("*.yaml"):
        collect(yaml.safe_load(path.read_text()))
    assert names - {"???"} <= PUBLIC_NAMES | NETWORKS


def test_each_name_is_a_public_class_of_its_kind_or_a_data_source():
    bases = {
        "torch.nn": torch.nn.Module,
        "torch.optim": torch.optim.Optimizer,
        "torch.optim.lr_scheduler": torch.optim.lr_scheduler.LRScheduler,
        "torchmetrics": (torchmetrics.Metric, torchmetrics.MetricCollection),
        "torchmetrics.classification": torchmetrics.Metric,
        "torchmetrics.regression": torchmetrics.Metric,
        "torchmetrics.aggregation": torchmetrics.Metric,
        "torchvision.transforms.v2": object,
        "lightning.pytorch.callbacks": Callback,
    }
    for name in LIBRARY_NAMES:
        module = name.rpartition(".")[0]
        target = get_object(name)
        assert inspect.isclass(target), name
        assert issubclass(target, bases[module]), name
    functions = {name for name in FEDLIT_NAMES if inspect.isfunction(get_object(name))}
    data = "digits heart_disease image_folder shakespeare synthetic synthetic_hybrid torchvision_images"
    assert functions == {f"fedlit.data.{name}" for name in data.split()}
    assert not [name for name in PUBLIC_NAMES | NETWORKS if any(part.startswith("_") for part in name.split("."))]


def test_no_argument_of_a_library_class_names_a_file_or_an_address():
    words = ("path", "file", "dir", "url", "root", "pretrained", "checkpoint", "download")
    for name in LIBRARY_NAMES:
        try:
            arguments = inspect.signature(get_object(name)).parameters
        except ValueError:  # some classes have no signature
            continue
        named = [key for key in arguments if key != "bidirectional" and any(word in key for word in words)]
        assert named == [], name


def test_no_module_of_a_listed_name_of_fedlit_unpickles():
    modules = {inspect.getsourcefile(inspect.unwrap(get_object(name))) for name in FEDLIT_NAMES}
    assert modules
    for path in modules:
        with open(path) as file:
            text = file.read()
        assert not [word for word in ("pickle.load", "torch.load", "eval(", "exec(") if word in text], path
    assert pickle


def test_an_allowed_module_gives_its_public_classes_and_functions_alone(tmp_path, monkeypatch):
    text = "class Net:\n    def __call__(self): ...\ndef make(): ...\ndef _load(): ...\nshared = Net()\n"
    (tmp_path / "mine_allowed.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("Net", "make"):
        assert refused({"_target_": f"mine_allowed.{name}"}, "mine_allowed") == []
    for name in ("_load", "shared", "Net.__init__"):
        assert refused({"_target_": f"mine_allowed.{name}"}, "mine_allowed") == ["_target_"]
