"""A trial of a stack before round 1."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule

from fedlit.client.fit.call import LocalWork
from fedlit.client.vectorized.gather import run_together
from fedlit.client.vectorized.recording.recorded import RecordedSteps
from fedlit.client.vectorized.refusals import explain, refuse_new_state, slow_layers, static_errors
from fedlit.client.vectorized.together import SLOW_OPERATION, StackTraining
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.streams import Purpose, seeded
from fedlit.data.client_data import ClientData

log = logging.getLogger("fedlit")

NUM_CLIENTS, NUM_BATCHES = 2, 2


def try_stacks(worker: Any, if_faster: bool = False) -> StackTraining:
    """Try a short training of two clients as one stacked model, twice.

    Args:
        worker: a `ClientWorker`.
        if_faster: True to refuse also what trains slower as a stack: convolutions on a CPU.

    Returns:
        the training of stacks that suits the module.

    Raises:
        ConfigErrors: if the module, its Trainer or the data cannot train several clients at once.
    """
    module, config, training = worker.replica.module, worker.trainer_config, StackTraining(RecordedSteps(0))
    worker.replica.load(worker.replica.read())  # without changes by an earlier fit
    errors = static_errors(module, config, worker.data.loading.num_workers)
    if if_faster and worker.device.type == "cpu":
        errors += slow_layers(module)
    if not errors:
        short = replace(config, options={**config.options, "limit_train_batches": NUM_BATCHES}, epochs=1, steps=None)
        trial, state = replace(worker, trainer_config=short), worker.algorithm.init(worker.replica.read())
        clients = _clients_to_try(worker.data)
        rules = [partial(_try_two_rounds, partial(trial.dry_run, int(client), state)) for client in clients]
        errors = _try_rules(module, rules, training)
    if errors:
        raise ConfigErrors(errors)
    if training.recorded.is_refused:  # steps as Python cost most by themselves
        return StackTraining(training.recorded, max_bytes=None)
    return StackTraining(RecordedSteps(is_pure=not training.recorded.changes_tensors))


def _clients_to_try(data: ClientData) -> list[int]:
    """Return the largest clients whose first batches can be read.

    The others fail in their round, each alone.
    """
    largest = np.argsort(-data.population.sizes, kind="stable").tolist()
    readable = (client for client in largest if _is_readable(data, client))
    return list(islice(readable, NUM_CLIENTS)) or largest[:NUM_CLIENTS]


def _is_readable(data: ClientData, client: int) -> bool:
    with seeded(data.seed, Purpose.MODEL, client=client):  # samples may draw random numbers
        try:
            for _ in islice(iter(data.train_batches(0, client, 0)), NUM_BATCHES):
                pass
        except Exception:  # of the user's data
            return False
    return True


def _try_two_rounds(dry_run: Callable[..., Any], work: LocalWork) -> None:
    """Run a client's rule twice, the second time with its state."""
    local, update = dry_run({}, None, (), work)
    dry_run({**update.client_state, **local.optimizer_state}, None, (), work)


def _try_rules(
    module: LightningModule, rules: Sequence[Callable[[LocalWork], Any]], training: StackTraining
) -> list[ConfigError]:
    try:
        with refuse_new_state(module), warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", message=SLOW_OPERATION)
            run_together(rules, training.fit, lambda result: None, is_strict=True)
    except (ConfigError, ConfigErrors) as error:
        return error.errors
    except Exception as error:  # of the module
        return [explain(error, module)]
    for name in {found[1] for warning in caught if (found := re.search(SLOW_OPERATION, str(warning.message)))}:
        log.info("torch runs %s for one client of a stack after the other, which is slower", name)
    return []
