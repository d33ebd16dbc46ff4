import pytest
import torch
from conftest import Quadratic, federation
from safetensors.torch import load_file

from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.core.errors import ConfigError
from fedlit.experiment.weights import load_weights, safetensors_bytes, save_ckpt
from fedlit.models import Classifier


def other(classes=3):
    torch.manual_seed(99)
    return Classifier("fedlit.models.SimpleCNN", [1, 8, 8], classes, {"name": "sgd", "lr": 0.05}, norm="batch")


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_module_starts_from_the_weights_of_a_run(tmp_path, suffix):
    fed, path = federation(norm="batch"), tmp_path / f"model.{suffix}"
    if suffix == "ckpt":
        save_ckpt(fed.worker.replica, fed.worker.trainer_config, fed.initial, path)
    else:
        path.write_bytes(safetensors_bytes(fed.worker.replica, fed.initial))
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
    save_ckpt(fed.worker.replica, fed.worker.trainer_config, fed.initial, tmp_path / "other.ckpt")
    torch.save({"state_dict": Malicious()}, tmp_path / "pickle.ckpt")
    (tmp_path / "short.safetensors").write_bytes(safetensors_bytes(fed.worker.replica, fed.initial)[:100])
    message = r"cannot be loaded: .*; name a \.ckpt or \.safetensors file of the same model"
    for name in ("other.ckpt", "pickle.ckpt", "short.safetensors", "missing.ckpt"):
        with pytest.raises(ConfigError, match=message) as error:
            load_weights(other(), str(tmp_path / name))
        assert error.value.key == "init_from"


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
        save_ckpt(replica, TrainerConfig({"accelerator": "cpu", "precision": "bf16-true"}), model, path)
        state = torch.load(path, weights_only=True)["state_dict"]
    else:
        path.write_bytes(safetensors_bytes(replica, model))
        state = load_file(path)
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        "w": torch.float32,
        "same": torch.float32,
        "count": torch.int64,
    }
    load_weights(Tied(), str(path))
