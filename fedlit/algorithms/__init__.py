"""Federated algorithms: one paper, one file."""

from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.servers import Adagrad, Adam, Adaptive, Momentum, Yogi

__all__ = ["Adagrad", "Adam", "Adaptive", "FedAvg", "Momentum", "Yogi"]
