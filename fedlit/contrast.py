"""A loss on activations, added to that of the module: a layer's output is pulled to what one model makes of the batch, and
away from what another does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from fedlit.layers import last_layer
from fedlit.messages import Contrast, Model
from fedlit.mistakes import Mistake, nearest


@contextmanager
def contrasted(module: LightningModule, start: Model, contrast: Contrast) -> Iterator[None]:
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
        raise Mistake("model", type(module).__name__, why, "take an algorithm without")
    if contrast.away is None:
        listened(module, contrast.layer)[1]()
        yield
        return
    near, far = (_Frozen(module, model.over(start), contrast.layer) for model in (contrast.towards, contrast.away))
    seen, detach = listened(module, contrast.layer)  # only now: what listens would be copied with the module
    plain = module.training_step

    @wraps(plain)
    def training_step(*given: Any) -> Any:
        output: Any = plain(*given)
        with torch.no_grad(), torch.random.fork_rng([]):
            towards, away = near.features(module, given), far.features(module, given)
        term = contrast.mu * contrastive(seen(), towards, away, contrast.temperature)
        return {**output, "loss": output["loss"] + term} if isinstance(output, Mapping) else output + term

    module.training_step = training_step  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.training_step
        detach()


class _Frozen:
    """A copy of a module with other weights, in eval mode, whose features are asked for."""

    def __init__(self, module: LightningModule, model: Model, layer: str | None) -> None:
        trainer, module._trainer = module._trainer, None  # not to be copied with it
        try:
            self._twin = copy.deepcopy(module).eval()
        finally:
            module._trainer = trainer
        self._twin.load_state_dict(model.state_dict(), strict=False)  # metrics are none of the model's
        self._twin.log = self._twin.log_dict = _silent  # type: ignore[method-assign]
        self._seen, _ = listened(self._twin, layer)

    def features(self, module: LightningModule, given: tuple[Any, ...]) -> Tensor:
        """What it makes of what a module's training step is given."""
        self._twin._trainer = module._trainer
        self._twin.to(module.device).training_step(*given)
        return self._seen()


def contrastive(z: Tensor, near: Tensor, far: Tensor, temperature: float) -> Tensor:
    """-log(exp(sim(z, near) / T) / (exp(sim(z, near) / T) + exp(sim(z, far) / T))), the mean over a batch of features, the
    first axis of all three, with the cosine similarity of the rest."""
    similar = [F.cosine_similarity(z.flatten(1), other.flatten(1), dim=1) / temperature for other in (near, far)]
    return -F.log_softmax(torch.stack(similar), dim=0)[0].mean()


def listened(module: nn.Module, layer: str | None) -> tuple[Callable[[], Tensor], Callable[[], None]]:
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
            raise Mistake("algorithm.layer", layer, "is not a layer of the module", nearest(layer, named))
        hook = named[layer].register_forward_hook(lambda _, __, output: heard.append(output))

    def last() -> Tensor:
        if not heard or not isinstance(heard[-1], Tensor):
            what = type(heard[-1]).__name__ if heard else "nothing: training_step does not run it"
            raise Mistake("algorithm.layer", layer, f"gives {what}", "name a layer whose output is one tensor")
        found = heard[-1]
        heard.clear()
        return found

    return last, hook.remove


def _silent(*_: Any, **__: Any) -> None:
    """Logs nothing."""
