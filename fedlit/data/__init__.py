"""Data sources, samples and partitioners."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedlit.data.partitioners import Classes, Dirichlet, DirichletClient, Iid, Natural, Noise, Quantity, Shards
from fedlit.data.population import Population
from fedlit.data.protocols import Partitioner

if TYPE_CHECKING:
    from fedlit.data.samples import Data, Normalise, TensorSamples
    from fedlit.data.sources.heart_disease import heart_disease
    from fedlit.data.sources.images import digits, image_folder, torchvision_images
    from fedlit.data.sources.shakespeare import shakespeare
    from fedlit.data.sources.synthetic import synthetic, synthetic_hybrid

__all__ = [
    "Classes",
    "Data",
    "Dirichlet",
    "DirichletClient",
    "Iid",
    "Natural",
    "Noise",
    "Normalise",
    "Partitioner",
    "Population",
    "Quantity",
    "Shards",
    "TensorSamples",
    "digits",
    "heart_disease",
    "image_folder",
    "shakespeare",
    "synthetic",
    "synthetic_hybrid",
    "torchvision_images",
]

_MODULES = {
    "Data": "samples",
    "Normalise": "samples",
    "TensorSamples": "samples",
    "digits": "sources.images",
    "heart_disease": "sources.heart_disease",
    "image_folder": "sources.images",
    "shakespeare": "sources.shakespeare",
    "synthetic": "sources.synthetic",
    "synthetic_hybrid": "sources.synthetic",
    "torchvision_images": "sources.images",
}
"""Module of each name that is imported at its first use, since torch takes seconds to import."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"fedlit.data.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'fedlit.data' has no attribute {name!r}")
