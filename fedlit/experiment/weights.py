"""A model's weights on disk: Lightning checkpoints, and safetensors."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file, save

from fedlit.client.lightning_internals import connect_module, trainer_scope
from fedlit.client.module.replica import ModuleReplica, configure_module
from fedlit.client.trainer import TrainerConfig
from fedlit.core.errors import ConfigError
from fedlit.core.model import Model


def save_ckpt(replica: ModuleReplica, config: TrainerConfig, model: Model, path: Path) -> None:
    """Write weights and hyperparameters as a Lightning checkpoint.

    `LightningModule.load_from_checkpoint` opens the file, with weights_only too.
    """
    replica.load(model)  # in the model's dtypes, whatever the Trainer's precision
    trainer = config.make_trainer(accelerator="cpu")
    with trainer_scope():
        connect_module(trainer, replica.module)
        trainer.save_checkpoint(path, weights_only=True)


def safetensors_bytes(replica: ModuleReplica, model: Model) -> bytes:
    """Return the module's whole state dict as safetensors.

    `load_state_dict` takes it: tied weights stand under each of their names.
    """
    replica.load(model)
    return save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in replica.module.state_dict().items()}
    )


def load_weights(module: LightningModule, path: str) -> None:
    """Load a module's weights from a Lightning checkpoint or safetensors file.

    A checkpoint is opened with weights_only.

    Raises:
        ConfigError: if the file cannot be read, or belongs to another model.
    """
    try:
        if path.endswith(".safetensors"):
            weights = load_file(Path(path).expanduser())
        else:
            weights = torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)
            weights = weights.get("state_dict", weights)
        configure_module(module).load_state_dict(weights)
    except Exception as error:  # a missing file, a pickle without weights, other names or shapes
        reason = " ".join(str(error).split())[:200]
        hint = "name a .ckpt or .safetensors file of the same model"
        raise ConfigError("init_from", path, f"cannot be loaded: {reason}", hint) from error
