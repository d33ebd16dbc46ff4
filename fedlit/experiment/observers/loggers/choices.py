"""The choices of `loggers=...`, whose files are in the run's folder.

Anybody may have written a configuration that is resumed. So no argument here names a file or an address; an address comes from
the user's environment.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

from fedlit.core.errors import ConfigError


class LoggerChoice(ABC):
    """A logger of Lightning that is made in the run's folder."""

    @abstractmethod
    def make(self, folder: Path) -> Logger:
        """Return the logger.

        Args:
            folder: folder of the run.
        """

    def finish(self, logger: Logger) -> None:  # noqa: B027, a default that does nothing
        """Release what `logger.finalize` does not."""


@dataclass(frozen=True)
class CSV(LoggerChoice):
    """Writes csv/metrics.csv and csv/hparams.yaml in the run's folder."""

    def make(self, folder: Path) -> Logger:
        """Return the logger, without the files of an earlier one."""
        for name in ("metrics.csv", "hparams.yaml"):  # a resumed run writes each round again
            (folder / "csv" / name).unlink(missing_ok=True)
        return CSVLogger(folder, name="csv", version="")


@dataclass(frozen=True)
class MLflow(LoggerChoice):
    """Writes mlflow.db in the run's folder, or to MLFLOW_TRACKING_URI.

    Args:
        experiment: name of the experiment.

    Raises:
        ConfigError: if mlflow is not installed.
    """

    experiment: str = "fedlit"

    def __post_init__(self) -> None:
        require_package("mlflow")

    def make(self, folder: Path) -> Logger:
        """Return the logger of a new run of the experiment."""
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').absolute()}"
        return MLFlowLogger(self.experiment, run_name=folder.name, tracking_uri=address)


@dataclass(frozen=True)
class WandB(LoggerChoice):
    """Writes wandb/ in the run's folder; with WANDB_MODE=online it sends too.

    Args:
        project: name of the project.

    Raises:
        ConfigError: if wandb is not installed.
    """

    project: str = "fedlit"

    def __post_init__(self) -> None:
        require_package("wandb")

    def make(self, folder: Path) -> Logger:
        """Return the logger of a new run of the project."""
        import wandb  # type: ignore[import-not-found]  # an extra

        is_offline = os.environ.get("WANDB_MODE") != "online"
        settings = wandb.Settings(silent=True)
        return WandbLogger(folder.name, save_dir=folder, offline=is_offline, project=self.project, settings=settings)

    def finish(self, logger: Logger) -> None:
        """End the run: the next run of a sweep would continue it."""
        assert isinstance(logger, WandbLogger)
        logger.experiment.finish()


@dataclass(frozen=True)
class OwnLogger(LoggerChoice):
    """A logger of the user.

    Args:
        make_logger: makes the logger; it takes `save_dir` if `has_save_dir`.
        name: name of the folder that is `save_dir`.
        has_save_dir: True to pass a folder of the run.
    """

    make_logger: Callable[..., Any]
    name: str
    has_save_dir: bool

    def make(self, folder: Path) -> Logger:
        """Return the logger."""
        logger = self.make_logger(**({"save_dir": folder / self.name} if self.has_save_dir else {}))
        if not isinstance(logger, Logger):
            raise TypeError(f"{type(logger).__name__} is not a lightning.pytorch.loggers.Logger")
        return logger


def require_package(name: str) -> None:
    """Check that an optional package is installed.

    Raises:
        ConfigError: if it is not.
    """
    if find_spec(name) is None:
        raise ConfigError("", "", f"needs the package {name}", "pip install 'fedlit[loggers]'")
