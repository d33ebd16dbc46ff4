"""The model-contrastive loss on the features of a module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call
from torchmetrics import Metric

from fedlit.algorithms.layers import last_layer
from fedlit.client.lightning_internals import detached_trainer, share_trainer
from fedlit.core.errors import ConfigError, describe_exception, did_you_mean
from fedlit.core.model import ContrastiveTerm, Model


@contextmanager
def contrastive_loss(module: LightningModule, start: Model, term: ContrastiveTerm) -> Iterator[None]:
    """Add a contrastive term to the module's training loss inside the block.

    Args:
        module: the module with the weights from which training begins.
        start: model with the names that the term's models lack.
        term: the term to add.

    Raises:
        ConfigError: if the module has no such layer, uses manual optimization, or trains nothing that changes the features.
    """
    if not module.automatic_optimization:
        problem = "uses manual optimization: there is no single loss to which a contrastive term can be added"
        raise ConfigError("model", type(module).__name__, problem, "use an algorithm without a contrastive term")
    if term.away is None:
        _, stop = capture_features(module, term.layer)  # raises if the module has no such layer
        stop()
        yield
        return
    near, far = (FrozenModel(module, model.fill_from(start), term.layer) for model in (term.towards, term.away))
    with add_contrast(module, term, near, far):
        yield


@contextmanager
def add_contrast(module: LightningModule, term: ContrastiveTerm, near: FrozenModel, far: FrozenModel) -> Iterator[None]:
    """Add the contrast with two frozen models inside the block.

    Args:
        module: the module.
        term: weight, temperature and layer.
        near, far: copies of the module with the weights of `term.towards` and `term.away`.

    Raises:
        ConfigError: if the module has no such layer, or trains nothing that changes the features.
    """
    read_features, stop = capture_features(module, term.layer)  # after the copies, which would copy the hook too
    original = module.training_step
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]

    @wraps(original)
    def training_step(*args: Any) -> Any:
        output: Any = original(*args)
        if output is None:  # the module skips this batch
            return None
        features = read_features()
        are_frozen_for_now = not all(parameter.requires_grad for parameter in trained)  # by a callback, for example
        if not (features.requires_grad or are_frozen_for_now):
            problem = "gives features that no trained parameter changes, so the contrastive loss has no effect"
            raise ConfigError("algorithm.layer", term.layer or "null", problem, "name a layer that is trained")
        with torch.no_grad(), torch.random.fork_rng([]):
            towards, away = near.features(module, args), far.features(module, args)
        extra = term.mu * model_contrastive_loss(features, towards, away, term.temperature)
        return {**output, "loss": output["loss"] + extra} if isinstance(output, Mapping) else output + extra

    module.training_step = training_step  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.training_step
        stop()


class _TrainingStepOf(nn.Module):
    """Calls `training_step` where torch expects `forward`."""

    def __init__(self, copy: LightningModule) -> None:
        super().__init__()
        self.copy = copy

    def forward(self, *args: Any) -> None:
        self.copy.training_step(*args)


class FrozenModel:
    """A copy of a module with other weights, in eval mode.

    The copy returns features of batches.

    Args:
        module: the module to copy.
        model: weights of the copy.
        layer: path of the layer whose output is the features; None for the input of the last layer.

    Attributes:
        weights: weights for the next batches instead of the copy's own; None for its own.
    """

    weights: Mapping[str, Tensor] | None = None

    def __init__(self, module: LightningModule, model: Model, layer: str | None) -> None:
        self._copy = _copy_module(module).eval()
        self._copy.load_state_dict(model.state_dict(), strict=False)  # a model has no state of metrics
        self._copy.log = self._copy.log_dict = _ignore  # type: ignore[method-assign]
        self._read_features, _ = capture_features(self._copy, layer)
        self._is_placed = False

    def features(self, module: LightningModule, args: tuple[Any, ...]) -> Tensor:
        """Return the features of a batch.

        Args:
            module: the module in training; the copy uses its Trainer and its device.
            args: arguments of the module's `training_step`.
        """
        share_trainer(module, self._copy)
        if not self._is_placed:
            self.place_like(module)
        if self.weights is None:
            self._copy.training_step(*args)
        else:
            functional_call(_TrainingStepOf(self._copy), {f"copy.{k}": v for k, v in self.weights.items()}, args)
            for metric in (part for part in self._copy.modules() if isinstance(part, Metric)):
                metric.reset()  # its state belongs to one client
        return self._read_features()

    def place_like(self, module: LightningModule) -> None:
        """Give the copy the module's device, and the precision's dtypes."""
        self._copy.to(module.device)
        for tensors in (nn.Module.named_parameters, nn.Module.named_buffers):
            dtypes = {name: tensor.dtype for name, tensor in tensors(module)}
            for name, tensor in tensors(self._copy):
                tensor.data = tensor.data.to(dtypes[name])
        self._is_placed = True


def _copy_module(module: LightningModule) -> LightningModule:
    """A copy of a module.

    torch does not copy tensors with a graph, such as the weight that weight norm computed: the copy has their values.

    Raises:
        ConfigError: if the module cannot be copied.
    """
    attributes = (value for part in module.modules() for value in vars(part).values())
    memo = {
        id(value): value.detach().clone() for value in attributes if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        with detached_trainer(module):
            return copy.deepcopy(module, memo)
    except Exception as error:  # user code
        problem = f"cannot be copied, and a contrastive loss compares it with copies: {describe_exception(error)}"
        hint = "keep what cannot be copied out of the module's attributes, or define __deepcopy__"
        raise ConfigError("model", type(module).__name__, problem, hint) from error


def model_contrastive_loss(z: Tensor, near: Tensor, far: Tensor, temperature: float) -> Tensor:
    """Return the model-contrastive loss, the mean over a batch.

    The loss of a sample is -log(exp(sim(z, near) / T) / (exp(sim(z, near) / T) + exp(sim(z, far) / T))).
    `sim` is the cosine similarity. The first axis of all three tensors is the batch; the other axes are flattened.

    Source: Li et al., "Model-Contrastive Federated Learning", CVPR 2021, https://arxiv.org/abs/2103.16257.
    """
    similarities = [F.cosine_similarity(z.flatten(1), other.flatten(1), dim=1) / temperature for other in (near, far)]
    return -F.log_softmax(torch.stack(similarities), dim=0)[0].mean()


def capture_features(module: nn.Module, layer: str | None) -> tuple[Callable[[], Tensor], Callable[[], None]]:
    """Capture the output of a layer in each run of the module.

    If `layer` is None, the input of the module's last layer is captured.

    Returns:
        a function that returns the features of the last run, a function that ends the capture.

    Raises:
        ConfigError: if the module has no such layer.
    """
    captured: list[Any] = []
    if layer is None:
        path, last = last_layer(module)
        if not path:
            problem = (
                f"is the input of the last layer, and the last parameters of {type(module).__name__} are in no layer"
            )
            raise ConfigError("algorithm.layer", "null", problem, "name a layer whose output is the features")
        hook = last.register_forward_pre_hook(
            lambda _, inputs, named: captured.append(next(chain(inputs, named.values()), None)), with_kwargs=True
        )
    else:
        layers = dict(module.named_modules())
        if layer not in layers or not layer:
            raise ConfigError("algorithm.layer", layer, "is not a layer of the module", did_you_mean(layer, layers))
        hook = layers[layer].register_forward_hook(lambda _, __, output: captured.append(output))

    def read() -> Tensor:
        if not captured or not isinstance(captured[-1], Tensor):
            given, verb = ("null", "is given") if layer is None else (layer, "returns")
            problem = f"{verb} a {type(captured[-1]).__name__}" if captured else "is not run by training_step"
            raise ConfigError("algorithm.layer", given, problem, "name a layer whose output is one tensor")
        features = captured[-1]
        captured.clear()
        return features

    return read, hook.remove


def _ignore(*_: Any, **__: Any) -> None:
    """Log nothing."""
