"""A model's weights on disk: Lightning checkpoints, and safetensors."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file, save

from fedlit.client.replica import configure_module
from fedlit.client.trainer import ModuleReplica, TrainerConfig
from fedlit.core.errors import ConfigError
from fedlit.core.messages import Model


def save_ckpt(bench: ModuleReplica, recipe: TrainerConfig, model: Model, path: Path) -> None:
    """Writes a checkpoint that `LightningModule.load_from_checkpoint` opens, with weights_only too: weights and
    hyper-parameters."""
    bench.load(model)  # in the dtypes that the model has, whatever the Trainer's precision
    trainer = recipe.make_trainer(accelerator="cpu")
    trainer.strategy.connect(bench.module)
    trainer.save_checkpoint(path, weights_only=True)


def safetensors_bytes(bench: ModuleReplica, model: Model) -> bytes:
    """The module's whole state dict, which `load_state_dict` takes: weights that have two names are in it under both."""
    bench.load(model)
    return save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in bench.module.state_dict().items()}
    )


def load_weights(module: LightningModule, path: str) -> None:
    """Loads a module's weights from a Lightning checkpoint (opened with weights_only) or a .safetensors file.

    Raises:
        Mistake: if it cannot be read, or is of another model.
    """
    try:
        if path.endswith(".safetensors"):
            weights = load_file(Path(path).expanduser())
        else:
            weights = torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)
            weights = weights.get("state_dict", weights)
        configure_module(module).load_state_dict(weights)
    except Exception as error:  # a missing file, a pickle that is not weights, other names or shapes
        why = " ".join(str(error).split())[:200]
        raise ConfigError(
            "init_from", path, f"cannot be loaded: {why}", "name a .ckpt or .safetensors of the same model"
        ) from error
