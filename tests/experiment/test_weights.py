from pathlib import Path

import pytest
import torch
from conftest import Quadratic, federation
from odd_modules import Classes, ExtraState, Lambda
from safetensors.torch import load_file

from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.core.errors import ConfigError
from fedlit.experiment.weights import ckpt_bytes, load_weights, safetensors_bytes
from fedlit.models import Classifier


def other(classes=3):
    torch.manual_seed(99)
    return Classifier("fedlit.models.SimpleCNN", [1, 8, 8], classes, {"name": "sgd", "lr": 0.05}, norm="batch")


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_module_starts_from_the_weights_of_a_run(tmp_path, suffix):
    fed, path = federation(norm="batch"), tmp_path / f"model.{suffix}"
    if suffix == "ckpt":
        path.write_bytes(ckpt_bytes(fed.worker.replica, fed.worker.trainer_config, fed.initial))
    else:
        path.write_bytes(safetensors_bytes(fed.worker.replica, fed.initial)[0])
    module = other()
    load_weights(module, str(path))
    assert all(
        torch.equal(t, fed.initial.state_dict()[name]) for name, t in ModuleReplica(module).read().state_dict().items()
    )


class Malicious:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_files_without_weights_of_this_model_are_an_error(tmp_path):
    fed = federation(norm="none")
    (tmp_path / "other.ckpt").write_bytes(ckpt_bytes(fed.worker.replica, fed.worker.trainer_config, fed.initial))
    torch.save({"state_dict": Malicious()}, tmp_path / "pickle.ckpt")
    (tmp_path / "short.safetensors").write_bytes(safetensors_bytes(fed.worker.replica, fed.initial)[0][:100])
    message = r"cannot be loaded: .*; name a \.ckpt or \.safetensors file of the same model"
    for name in ("other.ckpt", "pickle.ckpt", "short.safetensors", "missing.ckpt"):
        with pytest.raises(ConfigError, match=message) as error:
            load_weights(other(), str(tmp_path / name))
        assert error.value.key == "init_from"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.ckpt", b"hello world\n", "it is not a checkpoint of Lightning or torch.save (KeyError: 101)"),
        ("empty.ckpt", b"", "it is not a checkpoint of Lightning or torch.save (EOFError"),
        ("zip.safetensors", b"PK\x03\x04aaaaaaaaaa", "it is not a safetensors file (SafetensorError: "),
        ("missing.ckpt", None, "No such file or directory"),
        ("folder.safetensors", "folder", "Is a directory"),
    ],
)
def test_a_file_of_another_kind_is_an_error_that_says_so(tmp_path, name, content, reason):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_weights(other(), str(path))
    assert reason in error.value.problem


class Tied(Quadratic):
    def __init__(self):
        super().__init__(1.0)
        self.same = self.w
        self.register_buffer("count", torch.tensor(3))


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_tied_weights_are_saved_under_both_names_in_the_models_dtype(tmp_path, suffix):
    replica, path = ModuleReplica(Tied()), tmp_path / f"model.{suffix}"
    model = replica.read()
    replica.module.to(torch.bfloat16)  # as precision=bf16-true does
    if suffix == "ckpt":
        path.write_bytes(ckpt_bytes(replica, TrainerConfig({"accelerator": "cpu", "precision": "bf16-true"}), model))
        state = torch.load(path, weights_only=True)["state_dict"]
    else:
        path.write_bytes(safetensors_bytes(replica, model)[0])
        state = load_file(path)
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        "w": torch.float32,
        "same": torch.float32,
        "count": torch.int64,
    }
    load_weights(Tied(), str(path))


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("kind", [Classes, ExtraState])
def test_weights_are_read_beside_state_and_hyperparameters_of_any_class(tmp_path, suffix, kind):
    replica, path = ModuleReplica(kind()), tmp_path / f"model.{suffix}"
    model, config = replica.read(), TrainerConfig({"accelerator": "cpu"})
    path.write_bytes(ckpt_bytes(replica, config, model) if suffix == "ckpt" else safetensors_bytes(replica, model)[0])
    module = kind()
    load_weights(module, str(path))
    read = ModuleReplica(module).read().state_dict()
    assert all(torch.equal(tensor, read[name]) for name, tensor in model.state_dict().items())
    if kind is ExtraState:
        assert module.seen == {"start": torch.Size([7])}  # the module's own


def test_extra_state_of_plain_values_is_read(tmp_path):
    class Plain(ExtraState):
        def __init__(self):
            super().__init__()
            self.hparams.clear()

    replica = ModuleReplica(Plain())
    replica.module.seen["start"] = 9
    model = replica.read()
    replica = ModuleReplica(replica.module)
    (tmp_path / "model.ckpt").write_bytes(ckpt_bytes(replica, TrainerConfig({"accelerator": "cpu"}), model))
    module = Plain()
    load_weights(module, str(tmp_path / "model.ckpt"))
    assert module.seen == {"start": 9}


def touch(path):
    Path(path).touch()


class Touches:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return touch, (str(self.path),)


def test_a_class_in_a_checkpoint_is_not_imported(tmp_path):
    canary = tmp_path / "canary"
    torch.save({"state_dict": {"w": torch.ones(1)}, "hyper_parameters": Touches(canary)}, tmp_path / "model.ckpt")
    module = Quadratic()
    load_weights(module, str(tmp_path / "model.ckpt"))
    assert module.w.item() == 1.0
    assert not canary.exists()
    torch.load(tmp_path / "model.ckpt", weights_only=False)
    assert canary.exists()


def test_hyperparameters_that_cannot_be_pickled_are_removed_once_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="'activation' removed from hparams because it cannot be pickled"):
        replica = ModuleReplica(Lambda())
    path = tmp_path / "model.ckpt"
    for _ in range(2):
        path.write_bytes(ckpt_bytes(replica, TrainerConfig({"accelerator": "cpu"}), replica.read()))
    assert Lambda.load_from_checkpoint(path).hparams["width"] == 3
