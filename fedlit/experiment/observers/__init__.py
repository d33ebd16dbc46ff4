"""Who watches a run: its folder, TensorBoard, the terminal."""

from fedlit.experiment.observers.observer import ObserverGroup
from fedlit.experiment.observers.partition_figure import PartitionFigure
from fedlit.experiment.observers.run_folder import RunFolder
from fedlit.experiment.observers.tensorboard import TensorBoard
from fedlit.experiment.observers.terminal import Terminal
from fedlit.experiment.run import Run

__all__ = ["ObserverGroup", "PartitionFigure", "Run", "RunFolder", "TensorBoard", "Terminal"]
