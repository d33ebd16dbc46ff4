"""Selection of each round's cohort."""

from fedlit.server.sampling.availability import Available
from fedlit.server.sampling.power_of_choice import PowerOfChoice
from fedlit.server.sampling.samplers import Poisson, RoundRobin, Uniform, Weighted
from fedlit.server.sampling.separation import MinSeparation

__all__ = ["Available", "MinSeparation", "Poisson", "PowerOfChoice", "RoundRobin", "Uniform", "Weighted"]
