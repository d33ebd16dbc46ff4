import pytest
import torch
from conftest import Quadratic, federation
from safetensors.torch import load_file

from fedlit.client.trainer import Bench, Recipe
from fedlit.core.errors import Mistake
from fedlit.experiment.weights import checkpoint, safetensors, start_from
from fedlit.models import Classifier


def other(classes=3):
    torch.manual_seed(99)
    return Classifier("fedlit.models.SimpleCNN", [1, 8, 8], classes, {"name": "sgd", "lr": 0.05}, norm="batch")


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_module_starts_from_what_a_run_left(tmp_path, suffix):
    fed, path = federation(norm="batch"), tmp_path / f"model.{suffix}"
    if suffix == "ckpt":
        checkpoint(fed.worker.bench, fed.worker.recipe, fed.initial, path)
    else:
        path.write_bytes(safetensors(fed.worker.bench, fed.initial))
    module = other()
    start_from(module, str(path))
    assert all(torch.equal(t, fed.initial.state_dict()[name]) for name, t in Bench(module).read().state_dict().items())


class Harm:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_what_is_no_weights_of_this_model_is_a_mistake(tmp_path):
    fed = federation(norm="none")
    checkpoint(fed.worker.bench, fed.worker.recipe, fed.initial, tmp_path / "other.ckpt")
    torch.save({"state_dict": Harm()}, tmp_path / "pickle.ckpt")
    (tmp_path / "short.safetensors").write_bytes(safetensors(fed.worker.bench, fed.initial)[:100])
    for name in ("other.ckpt", "pickle.ckpt", "short.safetensors", "missing.ckpt"):
        with pytest.raises(Mistake, match=r"name a \.ckpt or \.safetensors of the same model") as error:
            start_from(other(), str(tmp_path / name))
        assert error.value.key == "init_from"


class Tied(Quadratic):
    def __init__(self):
        super().__init__(1.0)
        self.same = self.w
        self.register_buffer("count", torch.tensor(3))


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_tied_weights_are_there_under_both_names_and_in_the_models_dtype(tmp_path, suffix):
    bench, path = Bench(Tied()), tmp_path / f"model.{suffix}"
    model = bench.read()
    bench.module.to(torch.bfloat16)  # as precision=bf16-true does
    if suffix == "ckpt":
        checkpoint(bench, Recipe({"accelerator": "cpu", "precision": "bf16-true"}), model, path)
        state = torch.load(path, weights_only=True)["state_dict"]
    else:
        path.write_bytes(safetensors(bench, model))
        state = load_file(path)
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        "w": torch.float32,
        "same": torch.float32,
        "count": torch.int64,
    }
    start_from(Tied(), str(path))
