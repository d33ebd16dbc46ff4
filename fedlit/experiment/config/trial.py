"""One step tried before round 1, and let go: what only shows when foreign code runs, and whose fault it is."""

from __future__ import annotations

import traceback
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils._pytree import tree_leaves

from fedlit.algorithms.algorithm import personal_model
from fedlit.client.callbacks import LocalTrainingCallback
from fedlit.client.trainer import LocalTrainer, evaluate_split
from fedlit.client.worker import invalid_values
from fedlit.core.errors import ConfigError, ConfigErrors, did_you_mean
from fedlit.core.messages import Aggregate, Model, Update
from fedlit.core.streams import Purpose, seeded
from fedlit.core.tensors import Layout
from fedlit.data import Data
from fedlit.data.client_data import NoisyBatches
from fedlit.server.federation import Federation
from fedlit.server.sampling.cohort import draw_cohort
from fedlit.server.sampling.sampler import ClientPool

TWICE = "keep it in numbers, tensors or containers, which are put back before each fit, or make it anew in on_fit_start"
LAYERS = "make them in __init__, or in a configure_model that makes them once; not in setup"


class StopAfterBatch(Callback):
    """Makes the first batch of a fit the last, of its epoch too; all that a module can ask its Trainer is as in a whole fit."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Says so before the step, so that accumulated gradients are stepped with, and schedulers of epochs step."""
        trainer.should_stop = True
        trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = True


def try_first_step(federation: Federation, data: Data) -> list[ConfigError]:
    """Draws a cohort, trains the client with most samples for a step, twice, and the noisiest, takes the server's step, and
    evaluates two samples of each split: does the model take the data and the federation's terms, is what it comes to a number
    and the same again, and does it log what the monitor asks for?"""
    try:
        found = _noise(federation)
        for tried in (_sampling, partial(_training, data=data), _evaluation):
            found += [] if any(not mistake.warning for mistake in found) else tried(federation)
        return found
    except (ConfigError, ConfigErrors) as wrong:
        return wrong.errors
    except Exception as error:  # foreign code: the user's module on the user's data, and whatever is between
        found = _strays(federation) or [_blamed(error, federation, data)]
        found[0].__cause__ = error  # for traceback=true
        return found


def _sampling(federation: Federation) -> list[ConfigError]:
    """Draws round 1's cohort with losses of 0; of those who were asked the one with fewest samples answers."""
    asked: list[int] = []

    def losses(clients: np.ndarray) -> np.ndarray:
        asked.extend(clients.tolist())
        return np.zeros(len(clients))

    sampler, sizes = federation.sampler, federation.population.sizes
    try:
        draw_cohort(sampler, ClientPool(sizes, 0, federation.seed, losses))
    except ConfigError:
        raise
    except Exception as error:  # a user's own
        why = f"fails to draw a cohort: {type(error).__name__}: {error}".splitlines()[0]
        mistake = ConfigError("sampler", type(sampler).__name__, why, "see Sampler in fedlit.algorithms.algorithm")
        raise mistake from error
    if asked:
        client = min(asked, key=lambda client: sizes[client])
        model = federation.algorithm.model(federation.algorithm.init(federation.initial).shared)
        federation.worker.local(0, client, {}).loss(model)
    return []


def _counted_twice(federation: Federation, examples: int, weight: float) -> list[ConfigError]:
    """A warning if who has more examples is both likelier to be drawn and counts for more."""
    if not getattr(federation.sampler, "by_examples", False) or examples < 2 or weight != examples:
        return []
    why = "draws clients by their examples, and the algorithm averages by them as well: they count twice"
    remedy = "algorithm.weights=uniform, where the algorithm has it"
    return [ConfigError("sampler", type(federation.sampler).__name__, why, remedy, warning=True)]


def _trained(federation: Federation, client: int) -> tuple[LocalTrainer, Update]:
    local = federation.worker.local(0, client, {})
    recipe = replace(
        local.trainer_config, callbacks=lambda: [*federation.worker.trainer_config.callbacks(), StopAfterBatch()]
    )
    trial = replace(local, trainer_config=recipe)
    return trial, federation.algorithm.client(trial, federation.algorithm.init(federation.initial).shared, {})


def _training(federation: Federation, data: Data) -> list[ConfigError]:
    client, noise = int(federation.population.sizes.argmax()), federation.population.noise
    trial, update = _trained(federation, client)
    if found := _strays(federation):
        return found
    personal_model(
        federation.algorithm, trial, federation.algorithm.init(federation.initial).shared, update.client_state
    )
    layout, name = Layout.of(update.groups), type(federation.worker.replica.module).__name__
    vector = layout.vector(update.groups)
    if odd := invalid_values(vector, update.weight):
        why = f"comes to an update that is no number in its first step: {odd}"
        return [ConfigError("model", name, why, "take a smaller learning rate, or look for NaN in the data")]
    if federation.worker.trainer_config.keep_optimizer and trial.results and not trial.optimizer_state:
        why = "has nothing to keep: the client's optimizer has no state"
        return [ConfigError("schedule.client_state", "keep", why, "take reset, or an optimizer with momentum")]
    again = layout.vector(_trained(federation, client)[1].groups)
    found = [] if torch.equal(vector, again) else _differing(federation, data, client)
    if found and not found[0].warning:
        return found
    found += _counted_twice(federation, trial.examples, update.weight)
    if noise is not None and int(noise.argmax()) != client:
        _trained(federation, int(noise.argmax()))
    if update.weight:
        state = federation.algorithm.init(federation.initial)
        state = federation.algorithm.server(
            state, Aggregate(layout.groups(vector.double()), update.weight, 1, len(federation.population))
        )
        if not isinstance(model := federation.algorithm.model(state.shared), Model):
            why = f"has a {type(model).__name__} as the model that is evaluated"
            return [ConfigError("algorithm", type(federation.algorithm).__name__, why, "it must be a fedlit.Model")]
    return found


def _evaluation(federation: Federation) -> list[ConfigError]:
    worker, scores = federation.worker, {}
    splits = dict(worker.data.splits)
    if worker.data.client_tests is not None and worker.data.client_tests.population.samples:
        splits.setdefault("test", worker.data.client_tests.samples)
    for split, samples in splits.items():
        batches = samples.batches(np.zeros(2, dtype=np.int64), 2)
        scores[split] = evaluate_split(
            worker.replica, worker.trainer_config, federation.initial, batches, split, federation.seed
        )
    name, logged = federation.monitor.name, scores.get("val", {})
    if name is None or name in logged:
        return []
    why = f"is not what the model logs in validation: {', '.join(logged) or 'nothing'}"
    return [ConfigError("monitor.name", name, why, did_you_mean(name, logged))]


def _noise(federation: Federation) -> list[ConfigError]:
    """Noise is added to the first part of a batch: there must be one, of floats."""
    holdings = federation.worker.data
    if holdings.population.noise is None:
        return []
    with seeded(holdings.seed, Purpose.EVALUATION):
        batch = next(iter(holdings.train.batches(np.zeros(1, dtype=np.int64), 1)))
    first = batch[0] if isinstance(batch, tuple | list) else None
    if isinstance(first, torch.Tensor) and first.is_floating_point():
        return []
    what = f"inputs are {first.dtype}" if isinstance(first, torch.Tensor) else f"batches are a {type(batch).__name__}"
    return [
        ConfigError(
            "partition", "noise", f"needs batches (inputs, ...) of floats; the {what}", "take another partition"
        )
    ]


def _strays(federation: Federation) -> list[ConfigError]:
    bench = federation.worker.replica
    if not (made := bench.new_parameters()):
        return []
    why = f"makes layers in each fit, which are not federated: {', '.join(made[:3])}"
    return [ConfigError("model", type(bench.module).__name__, why, LAYERS)]


def _differing(federation: Federation, data: Data, client: int) -> list[ConfigError]:
    """Why a client that was trained twice came to two results."""
    recipe = federation.worker.trainer_config
    if recipe.make_trainer().strategy.root_device.type != "cpu" and not recipe.options.get("deterministic"):
        return []  # a GPU adds in any order
    batches = []
    for _ in range(2):
        with seeded(federation.seed, Purpose.MODEL, 0, client):
            batches.append(tree_leaves(next(iter(federation.worker.data.train_batches(0, client)))))
    tensors = [pair for pair in zip(*batches, strict=False) if isinstance(pair[0], torch.Tensor)]
    if not all(torch.equal(*pair) for pair in tensors):
        why = "gives other samples when it is read again: the same command gives other bits"
        remedy = "draw from torch, numpy.random or random, which are seeded for each client"
        return [ConfigError("data", data.name, why, remedy, warning=True)]
    why = "comes to other numbers when the same client is trained again: it keeps something from fit to fit"
    return [ConfigError("model", type(federation.worker.replica.module).__name__, why, TWICE)]


def _blamed(error: Exception, federation: Federation, data: Data) -> ConfigError:
    """The error as a mistake of the part in whose code it arose."""
    key, given = blame(error, federation)
    on = f"a batch of {data.name} (inputs {list(data.shape)}, {len(data.classes)} classes)"
    why = f"fails on {on}: {type(error).__name__}: {error}".splitlines()[0]
    where = "traceback=true shows where"
    module = type(federation.worker.replica.module).__name__
    if key == "data":
        return ConfigError(key, data.name, why, f"is what prepares its inputs right: mean, std, augment? {where}")
    if key == "optimizer":
        return ConfigError("model", module, f"its {given} {why}", f"take another, or other values; {where}")
    if key == "lightning":
        return ConfigError("model", module, why, f"this is what Lightning or torch needs of the module; {where}")
    if key == "model":
        return ConfigError(key, module, why, f"make its input shape and classes the data's; {where}")
    return ConfigError(key, given, why, where)


def blame(error: Exception, federation: Federation) -> tuple[str, str]:
    """Key and name of the part whose frame is the innermost one."""
    algorithm, parts = federation.algorithm, {id(part) for part in federation.worker.replica.module.modules()}
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        own, file = frame.f_locals.get("self"), f"{frame.f_globals.get('__name__', '')}."
        if (
            own is algorithm
            or isinstance(own, LocalTrainingCallback)
            or file.startswith(("fedlit.algorithms.", "fedlit.experiment.config.trial."))
        ):
            return "algorithm", type(algorithm).__name__
        if isinstance(own, Callback):
            return "trainer.callbacks", type(own).__name__
        if isinstance(own, torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler):
            return "optimizer", type(own).__name__
        if id(own) in parts:
            return "model", ""
        if file.startswith("fedlit.client.trainer."):
            return "lightning", ""
        if isinstance(own, NoisyBatches):
            return "partition", "noise"
        if isinstance(own, torch.utils.data.Dataset) or file.startswith(("fedlit.data.", "torch.utils.data.")):
            return "data", ""
    return "lightning", ""
