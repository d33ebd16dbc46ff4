"""Federated algorithms: one paper, one file."""

from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.feddyn import FedDyn
from fedlit.algorithms.fednova import FedNova
from fedlit.algorithms.qfedavg import QFedAvg
from fedlit.algorithms.scaffold import Scaffold
from fedlit.algorithms.servers import Adagrad, Adam, Adaptive, Momentum, Yogi

__all__ = ["Adagrad", "Adam", "Adaptive", "FedAvg", "FedDyn", "FedNova", "Momentum", "QFedAvg", "Scaffold", "Yogi"]
