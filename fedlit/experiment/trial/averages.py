"""A check of callbacks that average weights."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback

from fedlit.client.steps.averaging import slow_averages
from fedlit.core.errors import ConfigError
from fedlit.server.setup import Federation


def check_averages(federation: Federation, client: int, callbacks: Sequence[Callback]) -> list[ConfigError]:
    """Return errors of averages that lag far behind a client's weights.

    Args:
        federation: the federation.
        client: id of the client.
        callbacks: callbacks of a fit, with those of the module.
    """
    config, sizes = federation.trainer_config, federation.registry.sizes
    steps, batches = int(federation.planned_steps(sizes)[client]), len(federation.worker.data.train_batches(0, client))
    epochs = config.epochs if config.steps is None else -(-steps // max(1, batches))
    return slow_averages(callbacks, steps, epochs) if steps else []
