"""A model's weights on disk: Lightning checkpoints, and safetensors."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file, save
from torch import Tensor

from fedlit.client.lightning_internals import trainer_scope, weights_checkpoint
from fedlit.client.module.replica import ModuleReplica, configure_module
from fedlit.client.trainer import TrainerConfig
from fedlit.core.errors import ConfigError, describe_exception
from fedlit.core.model import Model


def ckpt_bytes(
    replica: ModuleReplica, config: TrainerConfig, model: Model, arguments: Mapping[str, Any] | None = None
) -> bytes:
    """Return a model as a Lightning checkpoint, with the module's hyperparameters.

    `LightningModule.load_from_checkpoint` opens it, with weights_only too if the hyperparameters are plain values.

    Args:
        replica: the module.
        config: configuration of the Trainer.
        model: the weights.
        arguments: the constructor's plain arguments, the hyperparameters of a module that has saved none itself.

    Raises:
        Exception: any exception of a hook of the module, or of an object that cannot be pickled.
    """
    replica.load(model)  # in the model's dtypes, whatever the Trainer's precision
    with trainer_scope():
        content = weights_checkpoint(config.make_trainer(accelerator="cpu"), replica.module)
    if arguments:
        content = {LightningModule.CHECKPOINT_HYPER_PARAMS_KEY: dict(arguments), **content}
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def safetensors_bytes(replica: ModuleReplica, model: Model) -> tuple[bytes, list[str]]:
    """Return the module's whole state dict as safetensors.

    Tied weights stand under each of their names.

    Returns:
        The file, and names of the entries that it leaves out because they are not tensors, such as a module's extra state.
    """
    replica.load(model)
    state = replica.module.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    return content, [name for name in state if name not in tensors]


def load_weights(module: LightningModule, path: str) -> None:
    """Load a module's weights from a Lightning checkpoint or safetensors file.

    A checkpoint is opened with weights_only. Entries that the file lacks keep the module's own value if they are not tensors.

    Raises:
        ConfigError: if the file cannot be read, or belongs to another model.
    """
    try:
        weights = _read_weights(Path(path).expanduser())
        own = configure_module(module).state_dict()
        module.load_state_dict({name: t for name, t in own.items() if not isinstance(t, Tensor)} | dict(weights))
    except Exception as error:  # a missing file, a pickle without weights, other names or shapes
        reason = " ".join(str(error).split())[:200]
        hint = "name a .ckpt or .safetensors file of the same model"
        raise ConfigError("init_from", path, f"cannot be loaded: {reason}", hint) from error


def _read_weights(file: Path) -> Mapping[str, Any]:
    """Return the state dict in a file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if its content is not of the kind that its name says.
    """
    is_safetensors = file.suffix == ".safetensors"
    file.open("rb").close()  # raises for a missing file and for a folder
    try:
        return load_file(file) if is_safetensors else _read_ckpt(file)
    except Exception as error:  # a pickle of anything can raise anything
        kind = "not a safetensors file" if is_safetensors else "not a checkpoint of Lightning or torch.save"
        raise ValueError(f"it is {kind} ({describe_exception(error)})") from error


class _Unknown:
    """A checkpoint's object whose class is not imported."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _read_ckpt(file: Path) -> Mapping[str, Any]:
    """Return the state dict of a checkpoint.

    Nothing in the file is executed. A checkpoint may have hyperparameters of any class. Then only its tensors are returned.
    """
    try:
        content, is_plain = torch.load(file, map_location="cpu", weights_only=True), True
    except pickle.UnpicklingError:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
        with torch.serialization.safe_globals([(_Unknown, name) for name in names]):
            content, is_plain = torch.load(file, map_location="cpu", weights_only=True), False
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(weights, Mapping):
        raise ValueError("it holds no state dict")  # such as a single tensor
    return {name: value for name, value in weights.items() if is_plain or isinstance(value, Tensor)}
