"""The partitioner for data that names its clients."""

# ruff: noqa: D102  the base class documents the call
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlit.core.errors import ConfigError
from fedlit.data.population import Population
from fedlit.data.protocols import Partitioner, Samples


@dataclass(frozen=True)
class Natural(Partitioner):
    """Clients that the data itself names: hospitals, speakers, writers."""

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        population = samples.natural()
        if population is None:
            hint = "use partition=iid or partition=dirichlet"
            raise ConfigError("", "natural", "needs data that names the owner of each sample", hint)
        return population
