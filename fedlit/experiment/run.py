"""One run of a federation, as observers and the runner see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fedlit.core.errors import ConfigError
from fedlit.data.samples import Data
from fedlit.runs.record import RoundRecord
from fedlit.runs.sweep_job import SweepJob
from fedlit.server.checkpoint.checkpointer import Checkpoint, Retention
from fedlit.server.setup import Federation
from fedlit.simulation.server_crash import ServerCrash


@dataclass
class Run:
    """One run of a federation.

    The class is not frozen, because `partition` is computed at its first use and stored in the object: it may read the label
    of every sample. Fields are never assigned; a changed run is made by `dataclasses.replace`.

    Args:
        folder: folder of the run's files.
        config: the resolved configuration, plain values.
        federation: the federation.
        data: data for training and evaluation.
        names: choices in the configuration's groups, such as {"algorithm": "fedavg"}.
        warnings: probably unintended values of the configuration.
        finished_rounds: rounds of a resumed run that are done, the last of them with its model.
        retention: rule that says which checkpoints are kept.
        crash: planned crash of the server; None for none.
        sweep_job: place of the run in a sweep; None for a single run.
    """

    folder: Path
    config: Mapping[str, Any]
    federation: Federation
    data: Data
    names: Mapping[str, str]
    warnings: tuple[ConfigError, ...] = ()
    finished_rounds: tuple[RoundRecord, ...] = ()
    retention: Retention = field(default_factory=Retention)
    crash: ServerCrash | None = None
    sweep_job: SweepJob | None = None

    @cached_property
    def partition(self) -> dict[str, Any]:
        """Statistics of the partition: see `Population.statistics`."""
        client_data = self.federation.worker.data
        return client_data.population.statistics(client_data.train.labels, len(self.data.classes))

    @property
    def monitored(self) -> str | None:
        """Name of the monitored metric.

        A configuration has it without a validation split too; a script has None then.
        """
        return (self.config.get("monitor") or {}).get("name") or self.federation.monitor.name


def read_finished_rounds(federation: Federation, checkpoint: Checkpoint | None) -> tuple[RoundRecord, ...]:
    """Return the records of the finished rounds; the last has its model."""
    if checkpoint is None or not checkpoint.records:
        return ()
    records = [RoundRecord.from_dict(record) for record in checkpoint.records]
    records[-1] = replace(records[-1], model=federation.algorithm.model(checkpoint.state.shared))
    return tuple(records)
