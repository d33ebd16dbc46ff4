"""The fit of one client by a Trainer of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from torch import nn

from fedlit.client.callbacks import LocalTrainingCallback
from fedlit.client.fit.call import FitCall, FitOutcome
from fedlit.client.lightning_internals import no_validation, trainer_scope
from fedlit.client.losses.contrastive import contrastive_loss
from fedlit.client.metrics import final_metrics
from fedlit.client.steps.displacement import DisplacementTracker
from fedlit.core.streams import Purpose, seeded
from fedlit.data.datamodule import fit_arguments
from fedlit.data.protocols import Batches

T = TypeVar("T")


class SingleWork:
    """Runs each fit and each measurement at once: see `LocalWork`."""

    def batches(self, key: int, make: Callable[[], Batches]) -> Batches:
        """Make the batches."""
        return make()

    def fit(self, call: FitCall) -> FitOutcome:
        """Train a client by a Trainer of its own."""
        replica, private = call.replica, call.private
        config = call.config.with_budget(call.epochs, call.budget)
        callback = LocalTrainingCallback(
            call.gradient_terms, call.lr_factor, call.client_state, call.guards_weights, private is not None
        )
        with (
            seeded(call.data.seed, Purpose.MODEL, call.round, call.client, call.key),
            trainer_scope(),
            replica.limit_warnings(),
            callback.observe(),
            ExitStack() as stack,
        ):
            replica.load(call.model, call.only)
            for contrast in call.contrasts:
                stack.enter_context(contrastive_loss(replica.module, call.model, contrast))
            first = () if private is None else (stack.enter_context(private.protect(replica.module)),)
            trainer = config.make_trainer(*first, callback, *config.callbacks(), **config.duration)
            arguments = fit_arguments(call.data.datamodule, call.batches, no_validation(replica.module))
            trainer.fit(replica.module, **arguments)
        read_displacement = partial(_read_displacement, callback.displacement, replica.module)
        metrics = final_metrics(trainer) if private is None else private.metrics
        return FitOutcome(replica.read(), callback.steps, metrics, read_displacement, callback.optimizer_state)

    def measure(self, function: Callable[[], T]) -> T:
        """Return the result of a function."""
        return function()


def _read_displacement(tracker: DisplacementTracker, module: nn.Module) -> dict[str, float]:
    return tracker.read(dict(module.named_parameters()))
