"""A trial of one step before round 1.

The trial finds errors that only show when user code runs, and names the part at fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from fedlit.aggregation.validation import invalid_values
from fedlit.client.evaluation import evaluate_split
from fedlit.client.trainer import LocalTrainer
from fedlit.core.errors import ConfigError, ConfigErrors, describe_exception, did_you_mean
from fedlit.core.messages import Aggregate, ServerState, Update
from fedlit.core.model import Model
from fedlit.core.streams import Purpose, seeded
from fedlit.core.tensors import Groups, Layout
from fedlit.data import Data
from fedlit.experiment.trial.averages import check_averages
from fedlit.experiment.trial.causes import explain_error, module_name
from fedlit.experiment.trial.files import try_files
from fedlit.experiment.trial.learning import check_learning
from fedlit.experiment.trial.repetition import StopAfterBatches, check_repeated_fits
from fedlit.runs.metric_names import preferred_mode
from fedlit.server.sampling.cohort import draw_cohort
from fedlit.server.sampling.sampler import ClientPool
from fedlit.server.setup import Federation

LAYERS_HINT = "make them in __init__, or in a configure_model that makes them once; not in setup"


def try_first_step(federation: Federation, data: Data) -> list[ConfigError]:
    """Try two small rounds, and collect the errors and warnings.

    The trial draws a cohort, trains the largest client for one step and for a few batches several times, trains the noisiest
    client, takes the server's step, trains the largest client again as in a later round, evaluates two examples of each split,
    and makes the files. It finds a model that does not take the data or trains nothing, results that are not finite or not
    reproducible, what fails from a client's second round, and a monitored metric that the model does not log.
    """
    try:
        errors = _check_noise(federation)
        for attempt in (_try_sampling, partial(_try_training, data=data), _try_executor, _try_evaluation, try_files):
            errors += [] if any(not error.warning for error in errors) else attempt(federation)
        return errors
    except (ConfigError, ConfigErrors) as error:
        return error.errors
    except Exception as error:  # user code: the module on the data, and whatever is between
        errors = _check_new_layers(federation) or [explain_error(error, federation, data)]
        errors[0].__cause__ = error  # for traceback=true
        return errors


def _try_sampling(federation: Federation) -> list[ConfigError]:
    """Draw round 1's cohort with losses 0; measure the smallest candidate's loss."""
    candidates: list[int] = []

    def losses(clients: np.ndarray) -> np.ndarray:
        candidates.extend(clients.tolist())
        return np.zeros(len(clients))

    sampler, sizes = federation.sampler, federation.registry.sizes
    try:
        draw_cohort(sampler, ClientPool(sizes, 0, federation.seed, losses))
    except ConfigError:
        raise
    except Exception as error:  # user code
        problem = f"fails to draw a cohort: {describe_exception(error)}"
        raise ConfigError("sampler", type(sampler).__name__, problem, "see help(fedlit.Sampler)") from error
    if candidates:
        client = min(candidates, key=lambda client: sizes[client])
        model = federation.algorithm.model(federation.initial_state().shared)
        federation.worker.local_trainer(0, client, {}).loss(model)
    return []


def _try_executor(federation: Federation) -> list[ConfigError]:
    """Try what the executor needs of the clients."""
    return federation.executor.check_worker(federation.worker)


def _check_weight(federation: Federation, examples: int, weight: float) -> list[ConfigError]:
    """Refuse a weight that the channel cannot take.

    A warning is for examples that decide both a client's probability and its weight.
    """
    secure = federation.channel.secure
    if secure is not None and (error := secure.weight_error(weight)):
        return [error]
    if not federation.sampler.weighted_by_examples or examples < 2 or weight != examples:
        return []
    problem = "draws clients by their examples, and the algorithm also weighs by examples: examples count twice"
    hint = "set algorithm.weights=uniform, where the algorithm has it"
    return [ConfigError("sampler", type(federation.sampler).__name__, problem, hint, warning=True)]


def _train_one_batch(
    federation: Federation,
    client: int,
    state: ServerState | None = None,
    client_state: Groups | None = None,
    stop: StopAfterBatches | None = None,
) -> tuple[LocalTrainer, Update]:
    federation = federation.with_worker(replace(federation.worker, guards_weights=True))
    return federation.dry_run(client, state, client_state, callbacks=[stop or StopAfterBatches()])


def _try_training(federation: Federation, data: Data) -> list[ConfigError]:
    population, algorithm = federation.worker.data.population, federation.algorithm
    client, noise, name = int(population.sizes.argmax()), population.noise, module_name(federation)
    local, update = _train_one_batch(federation, client, stop=(stop := StopAfterBatches()))
    if errors := _check_new_layers(federation) or check_learning(federation, client, local):
        return errors
    state = federation.initial_state()
    algorithm.personal_model(local, state.shared, update.client_state)
    if errors := _check_layout(federation, update, state, "first"):
        return errors
    layout = Layout.of(update.groups)
    vector = layout.vector(update.groups)
    if problem := invalid_values(vector, update.weight):
        hint = "use a smaller learning rate, or remove NaN from the data"
        return [ConfigError("model", name, f"gives an invalid update in its first step: {problem}", hint)]
    has_steps = any(fit.steps for fit in local.results)
    if federation.trainer_config.keep_optimizer and has_steps and not local.optimizer_state:
        hint = "set it to reset, or use an optimizer with momentum"
        return [ConfigError("schedule.client_state", "keep", "has no effect: the optimizer has no state", hint)]
    errors = check_repeated_fits(federation, data, client)
    if errors and not errors[0].warning:
        return errors
    errors += check_averages(federation, client, stop.callbacks)
    errors += _check_weight(federation, local.examples, update.weight)
    if noise is not None and int(noise.argmax()) != client:
        _train_one_batch(federation, int(noise.argmax()))
    if update.weight:
        mean = Aggregate(layout.groups(vector.double()), update.weight, 1, len(federation.registry))
        state = algorithm.server(state, mean)
        if not isinstance(model := algorithm.model(state.shared), Model):
            problem = f"returns a {type(model).__name__} from `model`"
            return [ConfigError("algorithm", type(algorithm).__name__, problem, "return a fedlit.Model")]
    client_state = {**update.client_state, **local.kept_state}
    return errors + _try_later_round(federation, client, replace(state, round=1), client_state)


def _try_later_round(
    federation: Federation, client: int, state: ServerState, client_state: Groups
) -> list[ConfigError]:
    """Train a client again with its own state.

    Only then an optimizer's state is loaded, and the module copied for a contrast with the client's previous model.
    """
    _, update = _train_one_batch(federation, client, state, client_state)
    return _check_layout(federation, update, state, "second")


def _check_layout(federation: Federation, update: Update, state: ServerState, which: str) -> list[ConfigError]:
    """Refuse an update whose names, shapes or dtypes are not its round's."""
    if problem := federation.worker.update_template(state).mismatch(update.groups):
        algorithm = type(federation.algorithm).__name__
        problem = f"gives an invalid update in a client's {which} round: {problem}"
        return [ConfigError("algorithm", algorithm, problem, "return the same names, shapes and dtypes in each round")]
    return []


def _try_evaluation(federation: Federation) -> list[ConfigError]:
    worker, metrics = federation.worker, {}
    splits = dict(worker.data.splits)
    if worker.data.client_tests is not None and worker.data.client_tests.population.samples:
        splits.setdefault("test", worker.data.client_tests.samples)
    for split, samples in splits.items():
        batches = samples.batches(np.zeros(2, dtype=np.int64), 2)
        arguments = (federation.initial, batches, split, worker.data)
        metrics[split] = evaluate_split(worker.replica, worker.trainer_config, *arguments)
    name, logged = federation.monitor.name, metrics.get("val", {})
    if name is None or name in logged:
        return []
    problem = f"is not a metric that the model logs in validation: {', '.join(logged) or 'it logs none'}"
    return [ConfigError("monitor.name", name, problem, did_you_mean(name, logged) or _monitor_hint(logged))]


def _monitor_hint(logged: Mapping[str, float]) -> str:
    """The settings that choose a logged metric, such as `monitor.name=val_loss`."""
    modes = {name: preferred_mode(name) for name in logged}
    for name in sorted(logged, key=lambda name: modes[name] is None):
        return f"set monitor.name={name}" + (f" monitor.mode={modes[name]}" if modes[name] else " and monitor.mode")
    return "log one in validation_step, such as self.log('val_loss', loss)"


def _check_noise(federation: Federation) -> list[ConfigError]:
    """Check that batches begin with floats, to which noise can be added."""
    data = federation.worker.data
    if data.population.noise is None:
        return []
    with seeded(data.seed, Purpose.EVALUATION):
        batch = next(iter(data.train.batches(np.zeros(1, dtype=np.int64), 1)))
    first = batch[0] if isinstance(batch, tuple | list) else None
    if isinstance(first, torch.Tensor) and first.is_floating_point():
        return []
    kind = f"inputs are {first.dtype}" if isinstance(first, torch.Tensor) else f"batches are a {type(batch).__name__}"
    problem = f"needs batches (inputs, ...) with float inputs; the {kind}"
    return [ConfigError("partition", "noise", problem, "use another partition")]


def _check_new_layers(federation: Federation) -> list[ConfigError]:
    """Refuse a module that makes layers in each fit."""
    if not (names := federation.worker.replica.new_parameters()):
        return []
    problem = f"makes layers in each fit, and these are not federated: {', '.join(names[:3])}"
    return [ConfigError("model", module_name(federation), problem, LAYERS_HINT)]
