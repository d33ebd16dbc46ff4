"""What a module's `training_step` says of a client's samples without training on them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from fedlit.algorithms.layers import last_layer
from fedlit.client.metrics import batch_size
from fedlit.core.errors import ConfigError, did_you_mean
from fedlit.core.messages import ContrastiveTerm, Model


class ShardLoss(LightningModule):
    """Stands around a module in a validation, and asks its `training_step` instead, for gradients too if they are wanted."""

    def __init__(self, module: LightningModule, gradients: bool = False) -> None:
        super().__init__()
        self.module, self._wanted = module, gradients
        self._losses: list[tuple[torch.Tensor, int]] = []
        self._sums: dict[str, torch.Tensor] = {}
        self._takes = len(signature(module.training_step).parameters)  # Lightning lets the batch's number be left out
        self.transfer_batch_to_device = module.transfer_batch_to_device
        self.on_before_batch_transfer = module.on_before_batch_transfer
        self.on_after_batch_transfer = module.on_after_batch_transfer

    def setup(self, stage: str) -> None:
        """The module is set up as for a fit."""
        self.module.setup("fit")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Notes the loss and the size of a batch, and adds up gradients."""
        with torch.set_grad_enabled(self._wanted or torch.is_grad_enabled()):
            output: Any = self.module.training_step(*(batch, batch_idx)[: self._takes])
        loss = output["loss"] if isinstance(output, Mapping) else output
        self._losses.append((loss.detach(), batch_size(batch)))
        if self._wanted:
            reached = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
            found = torch.autograd.grad(loss, list(reached.values()), allow_unused=True)
            for name, gradient in zip(reached, found, strict=True):
                if gradient is not None:
                    self._sums[name] = self._sums.get(name, 0.0) + gradient * batch_size(batch)

    @property
    def loss(self) -> float:
        """Mean over the samples; 0 of none."""
        return sum(float(loss) * size for loss, size in self._losses) / max(1, self._examples)

    @property
    def gradients(self) -> dict[str, torch.Tensor]:
        """Of the mean over the samples, for the parameters that it reaches, on the CPU."""
        return {name: (total / self._examples).cpu() for name, total in self._sums.items()}

    @property
    def _examples(self) -> int:
        return sum(size for _, size in self._losses)


@contextmanager
def contrastive_loss(module: LightningModule, start: Model, contrast: ContrastiveTerm) -> Iterator[None]:
    """Within, the module's training steps return their loss with the contrast added.

    Args:
        module: has the weights with which training begins.
        start: has the names that the contrast's models lack.
        contrast: what is added.

    Raises:
        Mistake: if the module has no such layer, or no one loss to add to.
    """
    if not module.automatic_optimization:
        why = "optimises by hand: there is no one loss to which a contrast could be added"
        raise ConfigError("model", type(module).__name__, why, "take an algorithm without")
    if contrast.away is None:
        capture_features(module, contrast.layer)[1]()
        yield
        return
    near, far = (
        FrozenModel(module, model.fill_from(start), contrast.layer) for model in (contrast.towards, contrast.away)
    )
    seen, detach = capture_features(module, contrast.layer)  # only now: what listens would be copied with the module
    plain = module.training_step

    @wraps(plain)
    def training_step(*given: Any) -> Any:
        output: Any = plain(*given)
        with torch.no_grad(), torch.random.fork_rng([]):
            towards, away = near.features(module, given), far.features(module, given)
        term = contrast.mu * contrast_value(seen(), towards, away, contrast.temperature)
        return {**output, "loss": output["loss"] + term} if isinstance(output, Mapping) else output + term

    module.training_step = training_step  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.training_step
        detach()


class FrozenModel:
    """A copy of a module with other weights, in eval mode, whose features are asked for."""

    def __init__(self, module: LightningModule, model: Model, layer: str | None) -> None:
        trainer, module._trainer = module._trainer, None  # not to be copied with it
        try:
            self._twin = copy.deepcopy(module).eval()
        finally:
            module._trainer = trainer
        self._twin.load_state_dict(model.state_dict(), strict=False)  # metrics are none of the model's
        self._twin.log = self._twin.log_dict = _silent  # type: ignore[method-assign]
        self._seen, _ = capture_features(self._twin, layer)

    def features(self, module: LightningModule, given: tuple[Any, ...]) -> Tensor:
        """What it makes of what a module's training step is given."""
        self._twin._trainer = module._trainer
        self._twin.to(module.device).training_step(*given)
        return self._seen()


def contrast_value(z: Tensor, near: Tensor, far: Tensor, temperature: float) -> Tensor:
    """-log(exp(sim(z, near) / T) / (exp(sim(z, near) / T) + exp(sim(z, far) / T))), the mean over a batch of features, the
    first axis of all three, with the cosine similarity of the rest."""
    similar = [F.cosine_similarity(z.flatten(1), other.flatten(1), dim=1) / temperature for other in (near, far)]
    return -F.log_softmax(torch.stack(similar), dim=0)[0].mean()


def capture_features(module: nn.Module, layer: str | None) -> tuple[Callable[[], Tensor], Callable[[], None]]:
    """What a layer put out when it was last run, or, without a layer, what the last one took in; and how to stop listening.

    Raises:
        Mistake: if the module has no such layer.
    """
    heard: list[Any] = []
    if layer is None:
        hook = last_layer(module)[1].register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    else:
        named = dict(module.named_modules())
        if layer not in named or not layer:
            raise ConfigError("algorithm.layer", layer, "is not a layer of the module", did_you_mean(layer, named))
        hook = named[layer].register_forward_hook(lambda _, __, output: heard.append(output))

    def last() -> Tensor:
        if not heard or not isinstance(heard[-1], Tensor):
            what = type(heard[-1]).__name__ if heard else "nothing: training_step does not run it"
            raise ConfigError("algorithm.layer", layer, f"gives {what}", "name a layer whose output is one tensor")
        found = heard[-1]
        heard.clear()
        return found

    return last, hook.remove


def _silent(*_: Any, **__: Any) -> None:
    """Logs nothing."""
