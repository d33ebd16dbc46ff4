"""Loss and gradient of `training_step` over a client's shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from fedlit.client.lightning_internals import no_validation, replace_steps, trainer_scope
from fedlit.client.losses.weights import capture_batch_sizes, loss_weight
from fedlit.client.module.replica import ModuleReplica
from fedlit.core.errors import ConfigError
from fedlit.core.model import Model
from fedlit.core.streams import Purpose, seeded
from fedlit.core.torch_internals import copy_in_place
from fedlit.data.client_data import ClientData
from fedlit.data.datamodule import fit_arguments


def measure_shard(
    replica: ModuleReplica,
    make_trainer: Callable[..., Trainer],
    data: ClientData,
    model: Model,
    *,
    examples: int,
    round: int,
    client: int,
    gradients: bool = False,
) -> ShardLoss:
    """Measure the loss of a model over a client's shard, in order.

    Args:
        replica: the worker's module.
        make_trainer: makes the Trainer of a fit.
        data: source of the client's samples.
        model: the model.
        examples: samples in the shard.
        round, client: keys of the random numbers.
        gradients: True to sum up gradients as well.

    Raises:
        ConfigError: if the module uses manual optimization, since its `training_step` need not return a loss.
    """
    module = replica.module
    losses = ShardLoss(module, data.loading.eval_batch_size, examples, gradients)
    if not module.automatic_optimization:
        problem = "uses manual optimization: its training_step need not return the client's loss"
        hint = "use an algorithm and a sampler that do not need clients' losses"
        raise ConfigError("model", type(module).__name__, problem, hint)
    if examples == 0:
        return losses
    replica.load(model)
    with seeded(data.seed, Purpose.EVALUATION, round, client), trainer_scope(), replica.limit_warnings():
        trainer = make_trainer(limit_train_batches=None, accumulate_grad_batches=1)
        losses.measure(trainer, fit_arguments(data.datamodule, data.shard_batches(client), no_validation(module)))
    return losses


class ShardLoss:
    """Loss of a module over a client's shard, and its gradients.

    A fit measures each batch instead of taking a step. So the module finds its Trainer, its optimizers and its hooks as in
    training.

    Args:
        module: the module with the weights to evaluate.
        batch_size: samples in each batch but the last.
        samples: samples in the shard.
        gradients: True to sum up gradients as well.
    """

    def __init__(self, module: LightningModule, batch_size: int, samples: int, gradients: bool = False) -> None:
        self._module, self._batch_size, self._samples, self._has_gradients = module, batch_size, samples, gradients
        self._losses: list[tuple[Tensor, int]] = []
        self._sums: dict[str, Tensor] = {}
        self._weights: list[Tensor] = []

    def measure(self, trainer: Trainer, data: Mapping[str, Any]) -> None:
        """Measure the loss of each batch.

        Args:
            trainer: a new Trainer that accumulates no gradients.
            data: arguments of `Trainer.fit` that give it the shard in order.

        Raises:
            ConfigError: if `training_step` returns no loss for any batch.
        """
        replace_steps(trainer, self._add)
        modes = [(part, part.training) for part in self._module.modules()]
        try:
            trainer.fit(self._module, **data)
        finally:
            for part, mode in modes:
                part.training = mode
        if not self._losses:
            problem = "returns None from training_step for each batch of a client, and the client's loss is needed"
            hint = "use an algorithm and a sampler that do not need clients' losses"
            raise ConfigError("model", type(self._module).__name__, problem, hint)

    def _add(self, batch: Any, number: int, compute_loss: Callable[[], Tensor | None]) -> None:
        """Record loss and size of a batch, and sum up its gradients."""
        self._keep_weights()
        self._module.eval()  # a hook may have changed it
        with torch.set_grad_enabled(self._has_gradients), capture_batch_sizes(self._module) as logged:
            loss = compute_loss()
        if loss is None:
            return
        samples = min(self._batch_size, self._samples - number * self._batch_size)
        size = loss_weight(batch, loss.detach(), logged, samples)
        self._losses.append((loss.detach(), size))
        if self._has_gradients:
            trainable = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
            gradients = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
            for name, gradient in zip(trainable, gradients, strict=True):
                if gradient is not None:
                    self._sums[name] = self._sums.get(name, 0.0) + gradient.to_dense() * size

    @torch.no_grad()
    def _keep_weights(self) -> None:
        """Undo what hooks did to the weights since the first batch."""
        weights = [parameter.detach() for parameter in self._module.parameters()]
        if self._weights:
            copy_in_place(weights, self._weights)
        else:
            self._weights = [weight.clone() for weight in weights]

    @property
    def loss(self) -> float:
        """Mean loss over the samples; 0 without samples."""
        return sum(float(loss) * size for loss, size in self._losses) / max(1, self._examples)

    @property
    def gradients(self) -> dict[str, Tensor]:
        """Gradients of the mean loss, on the CPU, without unreached parameters."""
        return {name: (total / self._examples).cpu() for name, total in self._sums.items()}

    @property
    def _examples(self) -> int:
        return sum(size for _, size in self._losses)
