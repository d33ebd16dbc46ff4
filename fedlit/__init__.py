"""fedlit: federated-learning experiments on PyTorch Lightning and Hydra."""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlit.algorithms import FedAvg as FedAvg
    from fedlit.checkpoint import Checkpoints as Checkpoints
    from fedlit.checkpoint import Keeping as Keeping
    from fedlit.data import Data as Data
    from fedlit.data import Dirichlet as Dirichlet
    from fedlit.data import Iid as Iid
    from fedlit.data import Natural as Natural
    from fedlit.data import TensorSamples as TensorSamples
    from fedlit.data.own import as_data as as_data
    from fedlit.data.samples import Loading as Loading
    from fedlit.evaluation import Evaluations as Evaluations
    from fedlit.federation import Federation as Federation
    from fedlit.local import Recipe as Recipe
    from fedlit.messages import Fit as Fit
    from fedlit.messages import Mean as Mean
    from fedlit.messages import Model as Model
    from fedlit.messages import State as State
    from fedlit.messages import Term as Term
    from fedlit.messages import Update as Update
    from fedlit.monitor import Monitor as Monitor
    from fedlit.record import Round as Round
    from fedlit.schedule import Schedule as Schedule

__version__ = "0.1.0"

STARTED = time.time()
"""When this process began to import fedlit, which is before anything that takes time."""

_PLACES = {
    "algorithms": ("FedAvg",),
    "checkpoint": ("Checkpoints", "Keeping"),
    "data": ("Data", "Dirichlet", "Iid", "Natural", "TensorSamples"),
    "data.own": ("as_data",),
    "data.samples": ("Loading",),
    "evaluation": ("Evaluations",),
    "federation": ("Federation",),
    "local": ("Recipe",),
    "messages": ("Fit", "Mean", "Model", "State", "Term", "Update"),
    "monitor": ("Monitor",),
    "record": ("Round",),
    "schedule": ("Schedule",),
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
