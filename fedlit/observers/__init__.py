"""Who watches a run: its folder, TensorBoard, the terminal."""

from fedlit.observers.folder import RunFolder
from fedlit.observers.partition import PartitionPicture
from fedlit.observers.run import Run
from fedlit.observers.tensorboard import TensorBoard
from fedlit.observers.terminal import Terminal
from fedlit.observers.watchers import Watchers

__all__ = ["PartitionPicture", "Run", "RunFolder", "TensorBoard", "Terminal", "Watchers"]
