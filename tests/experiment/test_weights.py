import pytest
import torch
from conftest import Quadratic, federation
from safetensors.torch import load_file

from fedlit.client.trainer import ModuleReplica, TrainerConfig
from fedlit.core.errors import ConfigError
from fedlit.experiment.weights import load_weights, safetensors_bytes, save_ckpt
from fedlit.models import Classifier


def other(classes=3):
    torch.manual_seed(99)
    return Classifier("fedlit.models.SimpleCNN", [1, 8, 8], classes, {"name": "sgd", "lr": 0.05}, norm="batch")


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_module_starts_from_what_a_run_left(tmp_path, suffix):
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


class Harm:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_what_is_no_weights_of_this_model_is_a_mistake(tmp_path):
    fed = federation(norm="none")
    save_ckpt(fed.worker.replica, fed.worker.trainer_config, fed.initial, tmp_path / "other.ckpt")
    torch.save({"state_dict": Harm()}, tmp_path / "pickle.ckpt")
    (tmp_path / "short.safetensors").write_bytes(safetensors_bytes(fed.worker.replica, fed.initial)[:100])
    for name in ("other.ckpt", "pickle.ckpt", "short.safetensors", "missing.ckpt"):
        with pytest.raises(ConfigError, match=r"name a \.ckpt or \.safetensors of the same model") as error:
            load_weights(other(), str(tmp_path / name))
        assert error.value.key == "init_from"


class Tied(Quadratic):
    def __init__(self):
        super().__init__(1.0)
        self.same = self.w
        self.register_buffer("count", torch.tensor(3))


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_tied_weights_are_there_under_both_names_and_in_the_models_dtype(tmp_path, suffix):
    bench, path = ModuleReplica(Tied()), tmp_path / f"model.{suffix}"
    model = bench.read()
    bench.module.to(torch.bfloat16)  # as precision=bf16-true does
    if suffix == "ckpt":
        save_ckpt(bench, TrainerConfig({"accelerator": "cpu", "precision": "bf16-true"}), model, path)
        state = torch.load(path, weights_only=True)["state_dict"]
    else:
        path.write_bytes(safetensors_bytes(bench, model))
        state = load_file(path)
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        "w": torch.float32,
        "same": torch.float32,
        "count": torch.int64,
    }
    load_weights(Tied(), str(path))
