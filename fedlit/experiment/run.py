"""What an observer is told before round 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fedlit.core.errors import ConfigError
from fedlit.data.samples import Data
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.disk import Retention
from fedlit.server.federation import Federation
from fedlit.simulation.server_crash import ServerCrash


@dataclass(frozen=True)
class Run:
    """One run of a federation.

    Args:
        folder: where everything of it goes.
        config: the resolved configuration, plain values.
        federation: what runs.
        data: what it is trained and evaluated on.
        warnings: what may not be meant.
        keeping: which commits are kept.
        crash: when the server is to be killed.
        done: the rounds of a run that is gone on with, the last of them with its model.
        names: choices in the configuration's groups, such as {"algorithm": "fedavg"}.
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

    @cached_property
    def partition(self) -> dict[str, Any]:
        """Statistics of the partition: see `Population.statistics`."""
        holdings = self.federation.worker.data
        return holdings.population.statistics(holdings.train.labels, len(self.data.classes))
