"""Observers of a run: run folder, TensorBoard, terminal, figure of the partition."""

from fedlit.experiment.observers.observer import Observer, ObserverGroup
from fedlit.experiment.observers.partition_figure import PartitionFigure
from fedlit.experiment.observers.run_folder import RunFolder
from fedlit.experiment.observers.tensorboard.events import TensorBoard
from fedlit.experiment.observers.terminal import Terminal
from fedlit.experiment.run import Run

__all__ = ["Observer", "ObserverGroup", "PartitionFigure", "Run", "RunFolder", "TensorBoard", "Terminal"]
