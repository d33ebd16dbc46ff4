"""fedlit: federated-learning experiments on PyTorch Lightning and Hydra."""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlit.algorithms import FedAvg as FedAvg
    from fedlit.client.trainer import TrainerConfig as TrainerConfig
    from fedlit.core.messages import Aggregate as Aggregate
    from fedlit.core.messages import ServerState as ServerState
    from fedlit.core.messages import Update as Update
    from fedlit.core.model import FitResult as FitResult
    from fedlit.core.model import GradientTerm as GradientTerm
    from fedlit.core.model import Model as Model
    from fedlit.data import Data as Data
    from fedlit.data import Dirichlet as Dirichlet
    from fedlit.data import Iid as Iid
    from fedlit.data import Natural as Natural
    from fedlit.data import TensorSamples as TensorSamples
    from fedlit.data.custom import to_data as to_data
    from fedlit.data.samples import Loading as Loading
    from fedlit.runs.record import RoundRecord as RoundRecord
    from fedlit.server.checkpoint.checkpointer import Retention as Retention
    from fedlit.server.checkpoint.disk import Checkpoints as Checkpoints
    from fedlit.server.checkpoint.disk import DiskCheckpointer as DiskCheckpointer
    from fedlit.server.evaluation import Evaluations as Evaluations
    from fedlit.server.federation import Federation as Federation
    from fedlit.server.monitor import Monitor as Monitor
    from fedlit.server.schedule import Schedule as Schedule

__version__ = "0.1.0"

STARTED = time.time()
"""When this process began to import fedlit, which is before anything that takes time."""

_MODULES = {
    "Aggregate": "core.messages",
    "Checkpoints": "server.checkpoint.disk",
    "Data": "data",
    "Dirichlet": "data",
    "DiskCheckpointer": "server.checkpoint.disk",
    "Evaluations": "server.evaluation",
    "FedAvg": "algorithms",
    "Federation": "server.federation",
    "FitResult": "core.model",
    "GradientTerm": "core.model",
    "Iid": "data",
    "Loading": "data.samples",
    "Model": "core.model",
    "Monitor": "server.monitor",
    "Natural": "data",
    "Retention": "server.checkpoint.checkpointer",
    "RoundRecord": "runs.record",
    "Schedule": "server.schedule",
    "ServerState": "core.messages",
    "TensorSamples": "data",
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
