"""fedlit: federated-learning experiments on PyTorch Lightning and Hydra."""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlit.aggregation import Aggregator as Aggregator
    from fedlit.aggregation import Channel as Channel
    from fedlit.aggregation import Clip as Clip
    from fedlit.aggregation import Codec as Codec
    from fedlit.aggregation import Order as Order
    from fedlit.aggregation import Stage as Stage
    from fedlit.aggregation import SumTicket as SumTicket
    from fedlit.aggregation import Ticket as Ticket
    from fedlit.algorithms import FedAvg as FedAvg
    from fedlit.algorithms.algorithm import Algorithm as Algorithm
    from fedlit.algorithms.algorithm import Local as Local
    from fedlit.client.dp_sgd import ExamplePrivacy as ExamplePrivacy
    from fedlit.client.trainer import TrainerConfig as TrainerConfig
    from fedlit.core.messages import Aggregate as Aggregate
    from fedlit.core.messages import ServerState as ServerState
    from fedlit.core.messages import Shared as Shared
    from fedlit.core.messages import StageState as StageState
    from fedlit.core.messages import Update as Update
    from fedlit.core.model import ContrastiveTerm as ContrastiveTerm
    from fedlit.core.model import FitResult as FitResult
    from fedlit.core.model import GradientTerm as GradientTerm
    from fedlit.core.model import Model as Model
    from fedlit.data import Data as Data
    from fedlit.data import Dirichlet as Dirichlet
    from fedlit.data import Iid as Iid
    from fedlit.data import Natural as Natural
    from fedlit.data import TensorSamples as TensorSamples
    from fedlit.data.custom import to_data as to_data
    from fedlit.data.loading import Loading as Loading
    from fedlit.data.protocols import Partitioner as Partitioner
    from fedlit.experiment.observers.observer import Observer as Observer
    from fedlit.experiment.observers.script import Observers as Observers
    from fedlit.runs.record import RoundRecord as RoundRecord
    from fedlit.server.checkpoint.checkpointer import Retention as Retention
    from fedlit.server.checkpoint.disk import Checkpoints as Checkpoints
    from fedlit.server.checkpoint.disk import DiskCheckpointer as DiskCheckpointer
    from fedlit.server.evaluation import Evaluations as Evaluations
    from fedlit.server.monitor import Monitor as Monitor
    from fedlit.server.sampling.sampler import ClientPool as ClientPool
    from fedlit.server.sampling.sampler import Sampler as Sampler
    from fedlit.server.schedule import Schedule as Schedule
    from fedlit.server.setup import Federation as Federation

__version__ = "0.1.0"

STARTED = time.time()
"""Time at which this process began to import fedlit, before the slow imports, in seconds since the epoch."""

_MODULES = {
    "Aggregate": "core.messages",
    "Aggregator": "aggregation",
    "Algorithm": "algorithms.algorithm",
    "Channel": "aggregation",
    "Checkpoints": "server.checkpoint.disk",
    "ClientPool": "server.sampling.sampler",
    "Clip": "aggregation",
    "Codec": "aggregation",
    "ContrastiveTerm": "core.model",
    "Data": "data",
    "Dirichlet": "data",
    "DiskCheckpointer": "server.checkpoint.disk",
    "Evaluations": "server.evaluation",
    "ExamplePrivacy": "client.dp_sgd",
    "FedAvg": "algorithms",
    "Federation": "server.setup",
    "FitResult": "core.model",
    "GradientTerm": "core.model",
    "Iid": "data",
    "Loading": "data.loading",
    "Local": "algorithms.algorithm",
    "Model": "core.model",
    "Monitor": "server.monitor",
    "Natural": "data",
    "Observer": "experiment.observers.observer",
    "Observers": "experiment.observers.script",
    "Order": "aggregation",
    "Partitioner": "data.protocols",
    "Retention": "server.checkpoint.checkpointer",
    "RoundRecord": "runs.record",
    "Sampler": "server.sampling.sampler",
    "Schedule": "server.schedule",
    "ServerState": "core.messages",
    "Shared": "core.messages",
    "Stage": "aggregation",
    "StageState": "core.messages",
    "SumTicket": "aggregation",
    "TensorSamples": "data",
    "Ticket": "aggregation",
    "TrainerConfig": "client.trainer",
    "Update": "core.messages",
    "to_data": "data.custom",
}
"""Module of each public name. A name is imported at its first use, since torch and Lightning take seconds to import."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"fedlit.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'fedlit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_MODULES)
