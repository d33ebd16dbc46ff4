"""One module that serves many fits: its weights are loaded, and what a fit left in it is put back."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.nn.parameter import is_lazy
from torchmetrics import Metric

from fedlit.client.metrics import MetricAccumulator
from fedlit.client.snapshot import ModuleSnapshot
from fedlit.core.errors import ConfigError
from fedlit.core.messages import Model


class ModuleReplica:
    """One module, used by one fit after the other: its weights are loaded, its optimizer is built anew.

    Raises:
        Mistake: if the module has what cannot be federated: see `unfit`.
    """

    def __init__(self, module: LightningModule) -> None:
        _remember_that_there_is_no_gpu()
        self.module = configure_module(module)
        for mistake in unsupported_module(module):
            raise mistake
        persistent = set(module.state_dict())
        own = [part for part in module.modules() if not isinstance(part, Metric)]
        self._metrics = [part for part in module.modules() if isinstance(part, Metric)]
        self._snapshot = ModuleSnapshot(own, [*module.parameters(), *module.buffers()])
        self._trained = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
        self._scratch = [
            (part, name, buffer.detach().clone())
            for part in own
            for name, buffer in part._buffers.items()
            if name in part._non_persistent_buffers_set and buffer is not None
        ]
        self._parameters = dict(module.named_parameters())
        self._buffers = {
            f"{path}.{name}".lstrip("."): (part, name)
            for path, part in module.named_modules()
            for name in part._buffers
            if part._buffers[name] is not None and f"{path}.{name}".lstrip(".") in persistent
        }

    def _restore(self) -> None:
        """Makes the module what it was, but for its weights: what a fit left in it must not reach the next."""
        self._snapshot.restore()
        for parameter, trained in self._trained:
            if parameter.requires_grad != trained:
                parameter.requires_grad_(trained)
        for part, name, value in self._scratch:
            part._buffers[name] = value.clone()
        for metric in self._metrics:
            if metric.update_count:
                metric.reset()

    def new_parameters(self) -> list[str]:
        """Parameters that the module has now and did not have, or has anew: those of layers that a fit made."""
        return [name for name, p in self.module.named_parameters() if self._parameters.get(name) is not p]

    def read(self) -> Model:
        """A copy of the module's weights, on the CPU."""
        return Model(
            {name: _copied(p) for name, p in self._parameters.items()},
            {name: _copied(b) for name, b in self._tensors()},
        )

    @torch.no_grad()
    def load(self, model: Model, only: Collection[str] | None = None) -> None:
        """Puts weights into the module, and makes the rest of it what it was; of its parameters `only` these are trained."""
        self._restore()
        frozen = () if only is None else self._parameters.keys() - set(only)
        for name in frozen:
            self._parameters[name].requires_grad_(False)
        for slots, given in ((self._parameters, model.parameters), (dict(self._tensors()), model.buffers)):
            for name, slot in slots.items():
                if slot.dtype != given[name].dtype:  # a Trainer's precision may change what a module's numbers are
                    slot.data = slot.data.to(given[name].dtype)
            if slots:
                torch._foreach_copy_([slot.detach() for slot in slots.values()], [given[name] for name in slots])

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The buffers; a module that was moved to another device has new ones."""
        for path, (part, name) in self._buffers.items():
            yield path, getattr(part, name)

    @contextmanager
    def redirect_log(self, log: MetricAccumulator) -> Iterator[None]:
        """What the module logs goes to `log`."""
        self.module.log = log.log  # type: ignore[method-assign]
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
                warnings.filterwarnings(
                    "ignore", message=".*does not have many workers.*"
                )  # data.num_workers says how many
                yield
        finally:
            del self.module.log


def _remember_that_there_is_no_gpu() -> None:
    """Without one, torch loads the driver's library anew for each of a Trainer's three questions; with one, it remembers."""
    if torch.cuda.device_count() == 0:
        torch.cuda._cached_device_count = 0


def configure_module(module: LightningModule) -> LightningModule:
    """The module with the layers of its `configure_model`, which Lightning calls again in each fit."""
    if is_overridden("configure_model", module):
        module.configure_model()
    return module


def unsupported_module(module: LightningModule) -> list[ConfigError]:
    """Why the module cannot be federated."""
    name, tensors = type(module).__name__, {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if lazy := [path for path, tensor in tensors.items() if is_lazy(tensor)]:
        why = f"has a shape only after a first batch: {', '.join(lazy[:3])}"
        remedy = "give its layers the sizes of their inputs, or run a batch through them in __init__"
        return [ConfigError("model", name, why, remedy)]
    if unreal := [path for path, tensor in tensors.items() if tensor.is_complex()]:
        why = f"has complex numbers, of which an update takes the real part alone: {', '.join(unreal[:3])}"
        return [ConfigError("model", name, why, "keep real and imaginary part as two real tensors")]
    if not any(parameter.requires_grad for parameter in module.parameters()):
        why = "has no parameter to train"
        return [ConfigError("model", name, why, "make its layers in __init__ or configure_model, not in setup")]
    return []


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
