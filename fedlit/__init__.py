"""fedlit: federated-learning experiments on PyTorch Lightning and Hydra."""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlit.algorithms import FedAvg as FedAvg
    from fedlit.client.trainer import Recipe as Recipe
    from fedlit.core.messages import Mean as Mean
    from fedlit.core.messages import State as State
    from fedlit.core.messages import Update as Update
    from fedlit.core.model import Fit as Fit
    from fedlit.core.model import Model as Model
    from fedlit.core.model import Term as Term
    from fedlit.data import Data as Data
    from fedlit.data import Dirichlet as Dirichlet
    from fedlit.data import Iid as Iid
    from fedlit.data import Natural as Natural
    from fedlit.data import TensorSamples as TensorSamples
    from fedlit.data.custom import as_data as as_data
    from fedlit.data.samples import Loading as Loading
    from fedlit.runs.record import Round as Round
    from fedlit.server.checkpoint.checkpointer import Keeping as Keeping
    from fedlit.server.checkpoint.disk import Checkpoints as Checkpoints
    from fedlit.server.evaluation import Evaluations as Evaluations
    from fedlit.server.federation import Federation as Federation
    from fedlit.server.monitor import Monitor as Monitor
    from fedlit.server.schedule import Schedule as Schedule

__version__ = "0.1.0"

STARTED = time.time()
"""When this process began to import fedlit, which is before anything that takes time."""

_PLACES = {
    "algorithms": ("FedAvg",),
    "core.messages": ("Mean", "State", "Update"),
    "core.model": ("Fit", "Model", "Term"),
    "data": ("Data", "Dirichlet", "Iid", "Natural", "TensorSamples"),
    "data.custom": ("as_data",),
    "data.samples": ("Loading",),
    "client.trainer": ("Recipe",),
    "runs.record": ("Round",),
    "server.checkpoint.checkpointer": ("Keeping",),
    "server.checkpoint.disk": ("Checkpoints",),
    "server.evaluation": ("Evaluations",),
    "server.federation": ("Federation",),
    "server.monitor": ("Monitor",),
    "server.schedule": ("Schedule",),
}
"""Where the public names are. They are imported when they are asked for: Lightning takes seconds, and a mistyped command is
told at once."""


def __getattr__(name: str) -> Any:
    for place, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"fedlit.{place}"), name)
    raise AttributeError(f"module 'fedlit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(name for names in _PLACES.values() for name in names)
