"""Evaluation of a model on a split by the user's module."""

from __future__ import annotations

from fedlit.client.lightning_internals import overrides, trainer_scope
from fedlit.client.metrics import final_metrics
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.core.model import Model
from fedlit.core.streams import Purpose, seeded
from fedlit.data.client_data import ClientData
from fedlit.data.datamodule import evaluation_arguments
from fedlit.data.protocols import Batches
from fedlit.runs.metric_names import names_on_split


def evaluate_split(
    replica: ModuleReplica, config: TrainerConfig, model: Model, batches: Batches, split: str, data: ClientData
) -> dict[str, float]:
    """Return the metrics that the module logs on a split.

    The names are those of `names_on_split`: `loss` becomes `test/loss`.
    The test set is evaluated by the module's `test_step` if it has one, other splits by its `validation_step`.
    """
    replica.load(model)
    has_test_step = split == "test" and overrides(replica.module, "test_step")
    with seeded(data.seed, Purpose.EVALUATION), trainer_scope(), replica.limit_warnings():
        trainer = config.make_trainer(limit_val_batches=None)
        evaluate = trainer.test if has_test_step else trainer.validate
        evaluate(replica.module, **evaluation_arguments(data.datamodule, batches))
    metrics = final_metrics(trainer)
    names = names_on_split(metrics, split)
    return {names[name]: value for name, value in metrics.items()}
