"""Private gradients by Opacus, in the fit of a Trainer."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from fedlit.client.dp_sgd.opacus_hooks import DPOptimizer, hook_layers, remove_attributes
from fedlit.client.dp_sgd.refusals import check_fit
from fedlit.core.errors import ConfigError

CLIPPED, SIGNAL_TO_NOISE = "privacy/clipped_fraction", "privacy/signal_to_noise"
EXAMPLE_ALONE = "a layer must keep the examples of a batch apart, in their order"


class PrivateGradients(Callback):
    """Replaces gradients by noisy means of clipped gradients.

    The replacement is made before any other callback sees a gradient: what changes gradients afterwards, such as an
    algorithm's terms, sees the private one. Every batch counts as a step, the empty ones too.

    Args:
        module: the module, in the training mode of its fit, with frozen parameters frozen.
        sizes: numbers of examples of the batches to come; see `PoissonBatches`.
        clip: largest norm of an example's gradient.
        noise_multiplier: standard deviation of the noise / clip.
        expected_size: expected number of examples in a batch.
        make_generator: makes the source of the noise on a device.

    Attributes:
        steps: steps so far, each of which is a release.
        examples: examples in these steps.
    """

    def __init__(
        self,
        module: LightningModule,
        sizes: deque[int],
        *,
        clip: float,
        noise_multiplier: float,
        expected_size: float,
        make_generator: Callable[[torch.device], torch.Generator],
    ) -> None:
        self._module, self._sizes = module, sizes
        self._clip, self._noise_multiplier, self._expected_size = clip, noise_multiplier, expected_size
        self._make_generator = make_generator
        self._private: DPOptimizer
        self._size, self._has_loss = 0, False
        self.steps = self.examples = 0
        self._clipped = self._signal = torch.zeros(())  # sums over steps, on the module's device

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Follow the module's layers inside the block, and leave no hook."""
        module = self._module
        buffers = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
        original, own = module.training_step, vars(module).get("training_step")

        @wraps(original)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            if self._size:
                return original(*args, **kwargs)
            return torch.zeros((), device=module.device, requires_grad=True)  # the step has noise alone

        hooks = None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients are computed")
            try:
                hooks = hook_layers(module)
                module.training_step = training_step  # type: ignore[method-assign]
                yield
            finally:
                if own is None:
                    vars(module).pop("training_step", None)
                else:
                    module.training_step = own
                if hooks is not None:
                    hooks.cleanup()
                remove_attributes(module)
        changed = [name for name, new in module.named_buffers() if not _equal(new, buffers.get(name))]
        if changed:
            problem = f"changes buffers in training, which would be released without noise: {', '.join(changed[:3])}"
            hint = "leave out layers that keep statistics of the examples"
            raise ConfigError("model", type(module).__name__, problem, hint)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the fit's optimizer to Opacus.

        Raises:
            ConfigError: if the fit cannot be private; see `check_fit`.
        """
        optimizer = check_fit(trainer, pl_module)
        generator = self._make_generator(pl_module.device)
        self._private = DPOptimizer(
            optimizer,
            noise_multiplier=self._noise_multiplier,
            max_grad_norm=self._clip,
            expected_batch_size=self._expected_size,  # type: ignore[arg-type]
            generator=generator,
        )
        self._private.attach_step_hook(self._count_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the size of the batch that begins."""
        self._size = self._sizes.popleft()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note that the batch has a loss."""
        self._has_loss = True

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Replace the gradients by private ones."""
        if not self._has_loss:
            problem = "returns no loss for a batch, and whether a step counts may not depend on the examples"
            raise ConfigError("model", type(pl_module).__name__, problem, "return a loss for every batch")
        gradients = self.example_gradients()
        for parameter, samples in gradients.items():
            parameter.grad_sample = samples  # type: ignore[attr-defined]
        if self._size:
            squares = torch.stack([samples.flatten(1).square().sum(1) for samples in gradients.values()]).sum(0)
            self._clipped = (~(squares <= self._clip**2)).sum() + self._clipped
            _zero_examples(gradients.values(), ~squares.isfinite())
        self._private.pre_step()
        sums = [parameter.summed_grad.square().sum() for parameter in gradients]  # type: ignore[attr-defined]
        self._signal = torch.stack(sums).sum().sqrt() + self._signal
        self.forget()

    def figures(self) -> dict[str, float]:
        """The part of clipped gradients, and the mean signal to noise.

        The signal of a step is the norm of the sum of clipped gradients. The noise is the root of its expected squared norm.
        """
        numbers = sum(parameter.numel() for parameter in self._private.params)
        noise = self._noise_multiplier * self._clip * math.sqrt(numbers)
        clipped = {CLIPPED: float(self._clipped) / self.examples} if self.examples else {}
        return clipped | ({SIGNAL_TO_NOISE: float(self._signal) / self.steps / noise} if self.steps and noise else {})

    def example_gradients(self) -> dict[nn.Parameter, Tensor]:
        """The gradients of the batch's examples by parameter, shape (examples, ...).

        Raises:
            ConfigError: if the layers did not give one gradient for each example.
        """
        names = {id(parameter): name for name, parameter in self._module.named_parameters()}
        return {p: self._samples_of(p, names.get(id(p), "a parameter")) for p in self._private.params}

    def forget(self) -> None:
        """Remove the gradients of examples."""
        for parameter in self._private.params:
            parameter.grad_sample = parameter.summed_grad = None  # type: ignore[attr-defined]
        self._has_loss = False

    def _samples_of(self, parameter: nn.Parameter, name: str) -> Tensor:
        samples, kind = getattr(parameter, "grad_sample", None), type(self._module).__name__
        if samples is None and parameter.grad is None:  # the loss does not reach it, or the batch is empty
            return torch.zeros((1, *parameter.shape), device=parameter.device, dtype=parameter.dtype).expand(
                self._size, *parameter.shape
            )
        if samples is None:
            problem = f"computes with {name} outside of its layer, where privacy=example cannot clip the gradient"
            raise ConfigError("model", kind, problem, "call the layer, and leave out penalties on its parameters")
        if isinstance(samples, list):
            problem = f"runs backward several times before a step, so {name} has several gradients of each example"
            raise ConfigError("model", kind, problem, "return one loss")
        if len(samples) != self._size:
            problem = f"gives {name} {len(samples)} gradients for the {self._size} examples of a batch"
            raise ConfigError("model", kind, problem, EXAMPLE_ALONE)
        return samples.to(parameter.dtype)  # bfloat16 would round the norm

    def _count_step(self, optimizer: DPOptimizer) -> None:
        self.steps += 1
        self.examples += self._size


def _zero_examples(gradients: Iterable[Tensor], invalid: Tensor) -> None:
    """Set the gradients of invalid examples to 0, in place.

    An example whose gradient is not finite has no gradient of a limited norm. Without this the whole sum would not be finite,
    and so the client would fail because of one example.

    Args:
        gradients: of each parameter, shape (examples, ...); of a parameter that the loss does not reach one row of zeros stands
            for all examples.
        invalid: bool of shape (examples,).
    """
    for samples in gradients:
        if len(samples) == 1 or samples.stride(0):
            samples.masked_fill_(invalid.view(-1, *[1] * (samples.dim() - 1)), 0.0)


def _equal(new: Tensor, old: Tensor | None) -> bool:
    return old is not None and new.shape == old.shape and torch.equal(new.detach().to(old), old)
