"""Where samples come from, and who owns them."""

from fedlit.data.available import Available
from fedlit.data.heart_disease import heart_disease
from fedlit.data.images import digits, image_folder, torchvision_images
from fedlit.data.partitioners import Classes, Dirichlet, DirichletClient, Iid, Natural, Noise, Quantity, Shards
from fedlit.data.population import Population
from fedlit.data.power_of_choice import PowerOfChoice
from fedlit.data.samplers import Poisson, RoundRobin, Uniform, Weighted
from fedlit.data.samples import Data, Normalise, TensorSamples
from fedlit.data.shakespeare import shakespeare
from fedlit.data.synthetic import synthetic

__all__ = [
    "Available",
    "Classes",
    "Data",
    "Dirichlet",
    "DirichletClient",
    "Iid",
    "Natural",
    "Noise",
    "Normalise",
    "Poisson",
    "Population",
    "PowerOfChoice",
    "Quantity",
    "RoundRobin",
    "Shards",
    "TensorSamples",
    "Uniform",
    "Weighted",
    "digits",
    "heart_disease",
    "image_folder",
    "shakespeare",
    "synthetic",
    "torchvision_images",
]
