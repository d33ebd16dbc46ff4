"""Executors that run the jobs of clients.

Results do not depend on the executor, except for `Vectorized`, whose sums round differently.
"""

from fedlit.executors.auto import Auto
from fedlit.executors.executor import Executor
from fedlit.executors.inline import Inline
from fedlit.executors.processes import Processes
from fedlit.executors.ray import Ray
from fedlit.executors.vectorized.vectorized import Vectorized

__all__ = ["Auto", "Executor", "Inline", "Processes", "Ray", "Vectorized"]
