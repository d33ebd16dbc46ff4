"""Federated algorithms: one paper, one file."""

from fedlit.algorithms.centralised import Centralised
from fedlit.algorithms.ditto import Ditto
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.feddyn import FedDyn
from fedlit.algorithms.fednova import FedNova
from fedlit.algorithms.fedrep import FedRep
from fedlit.algorithms.finetune import Finetune
from fedlit.algorithms.moon import Moon
from fedlit.algorithms.personal import Personal
from fedlit.algorithms.qfedavg import QFedAvg
from fedlit.algorithms.scaffold import Scaffold
from fedlit.algorithms.servers import Adagrad, Adam, Adaptive, Momentum, Yogi

__all__ = [
    "Adagrad",
    "Adam",
    "Adaptive",
    "Centralised",
    "Ditto",
    "FedAvg",
    "FedDyn",
    "FedNova",
    "FedRep",
    "Finetune",
    "Momentum",
    "Moon",
    "Personal",
    "QFedAvg",
    "Scaffold",
    "Yogi",
]
