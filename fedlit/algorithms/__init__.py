"""Federated algorithms: one paper, one file; FedAvg has its variants beside it."""

from fedlit.algorithms.fedavg import Centralised, FedAvg
from fedlit.algorithms.feddyn import FedDyn
from fedlit.algorithms.fednova import FedNova
from fedlit.algorithms.moon import Moon
from fedlit.algorithms.personalization.ditto import Ditto
from fedlit.algorithms.personalization.fedrep import FedRep
from fedlit.algorithms.personalization.finetune import Finetune
from fedlit.algorithms.personalization.partial import PersonalLayers
from fedlit.algorithms.qfedavg import QFedAvg
from fedlit.algorithms.scaffold import Scaffold
from fedlit.algorithms.server_optimizers import Adagrad, Adam, AdaptiveOptimizer, Momentum, Yogi

__all__ = [
    "Adagrad",
    "Adam",
    "AdaptiveOptimizer",
    "Centralised",
    "Ditto",
    "FedAvg",
    "FedDyn",
    "FedNova",
    "FedRep",
    "Finetune",
    "Momentum",
    "Moon",
    "PersonalLayers",
    "QFedAvg",
    "Scaffold",
    "Yogi",
]
