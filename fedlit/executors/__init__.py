"""Executors that run the jobs of clients.

Results do not depend on the executor.
"""

from fedlit.executors.auto import Auto
from fedlit.executors.executor import Executor
from fedlit.executors.inline import Inline
from fedlit.executors.processes import Processes

__all__ = ["Auto", "Executor", "Inline", "Processes"]
