"""The metrics of one run of a Trainer, as numbers."""

from __future__ import annotations

from lightning.pytorch import Trainer


def final_metrics(trainer: Trainer) -> dict[str, float]:
    """Return `callback_metrics` of a Trainer after its run, as numbers.

    They are what plain Lightning has then: a value logged with `on_epoch` is reduced over the last epoch, a value logged by
    step alone is the last batch's, and one logged with both has the names NAME, NAME_step and NAME_epoch.

    Raises:
        ValueError: if a metric is not one number.
    """
    values = trainer.callback_metrics
    if unusual := [name for name, value in values.items() if value.numel() != 1]:
        raise ValueError(
            f"the metric {unusual[0]} has shape {tuple(values[unusual[0]].shape)}, and a record holds one number a metric: "
            "log its elements under names of their own"
        )
    return {name: float(value) for name, value in values.items()}
