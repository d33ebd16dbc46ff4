"""Partitioners: pure functions of (samples, generator) that give every sample one owner."""

from fedlit.data.partitioners.label_skew import Classes, Dirichlet, DirichletClient, Shards
from fedlit.data.partitioners.natural import Natural
from fedlit.data.partitioners.random_shards import Iid, Noise, Quantity

__all__ = ["Classes", "Dirichlet", "DirichletClient", "Iid", "Natural", "Noise", "Quantity", "Shards"]
