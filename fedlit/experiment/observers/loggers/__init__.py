"""Loggers of Lightning, fed from the records of the rounds."""

from fedlit.experiment.observers.loggers.choices import CSV, LoggerChoice, MLflow, WandB

__all__ = ["CSV", "LoggerChoice", "MLflow", "WandB"]
