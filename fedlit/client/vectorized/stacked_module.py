"""A module as all stacks of one Trainer use it."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torchmetrics import Metric

from fedlit.client.vectorized.lanes.clock import TrainerView
from fedlit.client.vectorized.memory import StackMemory
from fedlit.client.vectorized.recording.recorded import RecordedSteps
from fedlit.client.vectorized.step.logged import LogRecorder
from fedlit.client.vectorized.step.training_step import StackedStep


class StackedModule:
    """A module, its tensors by name, and its step for several clients.

    Args:
        module: the module on the Trainer's device.
        view: stands for the module's Trainer.
        recorded: the recorded operations of the module's steps.
        memory: memory of stacked weights.
    """

    def __init__(
        self, module: LightningModule, view: TrainerView, recorded: RecordedSteps, memory: StackMemory
    ) -> None:
        self.module, self.view, self.device, self.memory = module, view, module.device, memory
        self.parameters = dict(module.named_parameters())
        self.buffers = dict(module.named_buffers())
        self.trained = [name for name, parameter in self.parameters.items() if parameter.requires_grad]
        self.metrics = {path: part for path, part in module.named_modules() if isinstance(part, Metric)}
        self.recorder = LogRecorder(module, self.metrics)
        self.step = StackedStep(module, self.recorder, recorded, view)
