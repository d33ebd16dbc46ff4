"""Where clients are trained. Results do not depend on it."""

from fedlit.executors.auto import Auto
from fedlit.executors.inline import Inline
from fedlit.executors.processes import Processes

__all__ = ["Auto", "Inline", "Processes"]
