"""A trial of private training before round 1.

DP-SGD needs a gradient of each example that depends on that example alone. Opacus computes it from what layers see, and cannot
notice a loss that compares examples, or one that is their sum.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from fedlit.client.dp_sgd.private_gradients import PrivateGradients
from fedlit.client.lightning_internals import no_validation, replace_steps, trainer_scope
from fedlit.client.module.replica import ModuleReplica
from fedlit.core.errors import ConfigError, describe_exception
from fedlit.core.streams import Purpose, seeded
from fedlit.data.client_data import ClientData
from fedlit.data.datamodule import fit_arguments

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
EXAMPLES = 8
TOLERANCE, GPU_TOLERANCE = 1e-3, 1e-2
"""Largest difference of two gradients that counts as rounding, relative to their norms. In bfloat16 it is 0.03."""


class FixedBatches:
    """The same examples in two batches, half of them in a third.

    Args:
        data: source of the client's examples.
        rows: sample numbers, shape (n,), n >= 2.

    Attributes:
        sizes: number of examples of each batch.
    """

    def __init__(self, data: ClientData, rows: np.ndarray) -> None:
        self._data, self._parts = data, (rows, rows, rows[: len(rows) // 2])
        self.sizes = deque(len(part) for part in self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Any]:
        for rows in self._parts:
            yield from self._data.train.batches(rows, None)


def check_private_fit(
    replica: ModuleReplica, make_trainer: Callable[..., Trainer], data: ClientData, client: int
) -> None:
    """Begin a private fit, and compare gradients of examples between batches.

    Nothing is trained. The check needs two examples, and decides nothing for a module that draws random numbers other than
    those of torch's dropout layers.

    Args:
        replica: the module with its initial weights.
        make_trainer: makes the Trainer of a fit from its callbacks.
        data: source of the client's examples.
        client: id of the client.

    Raises:
        ConfigError: if the fit cannot be private, or a gradient depends on other examples.
    """
    rows = np.asarray(data.population.shard(client))[:EXAMPLES]
    if len(rows) < 2:
        return
    module, batches, found = replica.module, FixedBatches(data, rows), []
    replica.load(replica.read())
    callback = PrivateGradients(
        module, batches.sizes, clip=1.0, noise_multiplier=0.0, expected_size=1.0, make_generator=torch.Generator
    )

    def run(batch: Any, number: int, compute_loss: Callable[[], Tensor | None]) -> None:
        for part in module.modules():
            part.training = part.training and not isinstance(part, DROPOUTS)
        if (loss := compute_loss()) is not None:
            loss.backward()
            found.append(_first_and_mean(module, callback))
        callback.forget()
        module.zero_grad()

    with seeded(data.seed, Purpose.EVALUATION, 0, client), trainer_scope(), replica.limit_warnings():
        trainer = make_trainer(callback, limit_train_batches=None, accumulate_grad_batches=1)
        replace_steps(trainer, run)
        try:
            with callback.attached():
                trainer.fit(module, **fit_arguments(data.datamodule, batches, no_validation(module)))
        except ConfigError:
            raise
        except Exception as error:  # of Lightning, Opacus or the user
            problem = f"cannot begin a private fit: {describe_exception(error)}"
            hint = "privacy=example needs one optimizer, automatic optimization, and layers that Opacus supports"
            raise ConfigError("model", type(module).__name__, problem, hint) from error
    replica.load(replica.read())
    if len(found) == len(batches):
        _compare(type(module).__name__, found)


def _first_and_mean(module: LightningModule, callback: PrivateGradients) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return three gradients of a batch, and the tolerance of their precision.

    They are that of its first example, the mean over its examples, and that of its loss. Each has the shape (d,).
    """
    gradients = callback.example_gradients()
    dtypes = {samples.dtype for p in gradients if isinstance(samples := getattr(p, "grad_sample", None), Tensor)}
    least = TOLERANCE if module.device.type == "cpu" else GPU_TOLERANCE  # of TensorFloat-32
    tolerance = max([least, *(4 * torch.finfo(dtype).eps for dtype in dtypes)])
    first = torch.cat([samples[0].flatten() for samples in gradients.values()])
    mean = torch.cat([samples.mean(0).flatten() for samples in gradients.values()])
    losses = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in gradients]
    return first, mean, torch.cat([gradient.flatten() for gradient in losses]), tolerance


def _compare(name: str, found: list[tuple[Tensor, Tensor, Tensor, float]]) -> None:
    """Raise ConfigError if a gradient depends on more than its example."""
    (first, mean, loss, tolerance), (again, *_), (half, *_) = found
    if _differ(mean, loss, tolerance):
        problem = "has a loss with a part that no layer computes for single examples, such as a penalty on weights"
        hint = "leave the part out; model.optimizer.weight_decay is a penalty on weights"
        raise ConfigError("model", name, problem, hint)
    if not _differ(first, again, tolerance) and _differ(first, half, tolerance):
        problem = (
            "gives an example another gradient in another batch: its loss or a layer mixes the examples of a batch, "
            "so clipping the gradient of an example does not bound its effect"
        )
        hint = "make the loss a mean over the examples, not their sum, and compare no examples with each other"
        raise ConfigError("model", name, problem, hint)


def _differ(left: Tensor, right: Tensor, tolerance: float) -> bool:
    return float((left - right).norm()) > tolerance * float(left.norm() + right.norm())
