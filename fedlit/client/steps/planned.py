"""Number of optimizer steps of a fit, before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedlit.data.loading import Loading

if TYPE_CHECKING:
    from fedlit.client.trainer import TrainerConfig


def planned_steps(config: TrainerConfig, loading: Loading, samples: np.ndarray) -> np.ndarray:
    """Return each client's optimizer steps in a round, shape (n,).

    Args:
        config: settings of the Trainers.
        loading: batch size, and the rule for an incomplete last batch.
        samples: samples of each client, shape (n,).
    """
    options = config.options
    size = loading.local_batch_size or np.maximum(samples, 1)
    batches = samples // size if loading.drop_last else -(-samples // size)
    limit = options.get("limit_train_batches")
    if isinstance(limit, int):
        batches = np.minimum(batches, limit)
    elif limit is not None:
        batches = (batches * limit).astype(np.int64)
    steps_per_epoch = -(-batches // int(options.get("accumulate_grad_batches") or 1))
    return np.where(batches == 0, 0, config.steps or config.epochs * steps_per_epoch)
