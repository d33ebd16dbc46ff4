"""Data sources, samples and partitioners."""

from fedlit.data.partitioners import Classes, Dirichlet, DirichletClient, Iid, Natural, Noise, Quantity, Shards
from fedlit.data.population import Population
from fedlit.data.protocols import Partitioner
from fedlit.data.samples import Data, Normalise, TensorSamples
from fedlit.data.sources.heart_disease import heart_disease
from fedlit.data.sources.images import digits, image_folder, torchvision_images
from fedlit.data.sources.shakespeare import shakespeare
from fedlit.data.sources.synthetic import synthetic

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
    "torchvision_images",
]
