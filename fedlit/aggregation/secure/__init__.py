"""Secure aggregation: the server learns the sum of the updates alone.

The names are imported at their first use, since the libraries of some are optional.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlit.aggregation.secure.homomorphic.stage import HomomorphicSum
    from fedlit.aggregation.secure.ideal import IdealSum
    from fedlit.aggregation.secure.secagg import SecAgg

__all__ = ["HomomorphicSum", "IdealSum", "SecAgg"]

_FILES = {"HomomorphicSum": "homomorphic.stage", "IdealSum": "ideal", "SecAgg": "secagg"}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
