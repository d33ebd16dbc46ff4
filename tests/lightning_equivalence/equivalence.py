"""A federation beside plain Lightning: the same batches and seeds, one `Trainer.fit` a client, averaged by hand.

The reference uses nothing of fedlit but the batches of a client, the seeds of a fit, and the cohort of a round.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from fedlit.algorithms import FedAvg
from fedlit.algorithms.algorithm import Algorithm
from fedlit.client.trainer import TrainerConfig
from fedlit.core.streams import Purpose, seeded
from fedlit.data import Population
from fedlit.data.custom import to_data
from fedlit.data.loading import Loading
from fedlit.runs.record import RoundRecord
from fedlit.server.monitor import Monitor
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation

INPUTS, CLASSES = 6, 3
SIZES = (10, 7)  # samples of each client; in batches of two, so 5 and 4 batches an epoch, the last one of 2 and 1

Weights = dict[str, Tensor]
Make = Callable[[], LightningModule]
Rule = Callable[["Client"], None]


class Net(LightningModule):
    """A small classifier with plain SGD; cases change one thing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(INPUTS, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def samples(count: int) -> TensorDataset:
    """Samples (inputs, class) of a linear problem."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, INPUTS, generator=generator)
    return TensorDataset(inputs, (inputs @ torch.randn(INPUTS, CLASSES, generator=generator)).argmax(1))


@dataclass(frozen=True)
class Setting:
    """One federation and its reference.

    Args:
        make: makes the module.
        options: arguments of the Trainers.
        callbacks: makes the callbacks of one fit.
        data: training samples.
        sizes: number of samples of each client, in the order of `data`.
        rounds: number of rounds.
        epochs, steps: local work, as in Schedule.
        batch: batch size.
        algorithm: the federation's algorithm.
        weights: `examples` or `uniform`: the weight of a client in the reference's mean.
        schedule: further arguments of Schedule.
        plain: makes the module of the reference, if it is another.
        rule: changes the module or the Trainer of the reference before each fit.
        after: is called with each client of the reference after its fit.
        tolerance: largest difference of a number of the two models.
    """

    make: Make = Net
    options: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], Sequence[Callback]] = list
    data: Any = None
    sizes: Sequence[int] = SIZES
    rounds: int = 2
    epochs: int = 1
    steps: int | None = None
    batch: int = 2
    algorithm: Algorithm = field(default_factory=FedAvg)
    weights: str = "examples"
    schedule: Mapping[str, Any] = field(default_factory=dict)
    plain: Make | None = None
    rule: Rule | None = None
    after: Rule | None = None
    tolerance: float = 0.0

    def federation(self, seed: int = 1) -> Federation:
        """The federation of this setting; every client takes part in every round."""
        data = to_data((self.data or samples(sum(self.sizes)), samples(4)), 0)
        owner = np.repeat(np.arange(len(self.sizes)), self.sizes)
        work = {"rounds": self.rounds, "local_epochs": self.epochs, "local_steps": self.steps}
        return Federation.of(
            self.make,
            replace(data, test=None),
            lambda _samples, _generator: Population.of(owner, len(self.sizes)),
            self.algorithm,
            Schedule(client_fraction=1.0, **work, **self.schedule),
            seed=seed,
            loading=Loading(batch_size=self.batch, val_fraction=0.0),
            trainer_config=TrainerConfig({"accelerator": "cpu", **self.options}, self.callbacks),
            monitor=Monitor(name=None),
        )


@dataclass
class Client:
    """One client of the reference in one round.

    Args:
        number: the client.
        round: the round, counted from 0.
        start: the global weights before the round.
        module: the client's module.
        trainer: the client's Trainer.
    """

    number: int
    round: int
    start: Weights
    module: LightningModule
    trainer: Trainer


@dataclass(frozen=True)
class Comparison:
    """The federation's rounds and the reference's weights.

    Args:
        federation: the federation.
        records: its rounds.
        weights: the reference's global weights after the last round.
    """

    federation: Federation
    records: list[RoundRecord]
    weights: Weights

    @property
    def difference(self) -> float:
        """The largest difference of a number between the federation's model and the reference's."""
        model = self.records[-1].model.state_dict()
        assert model.keys() == self.weights.keys()
        pairs = [(model[name].double(), value.double()) for name, value in self.weights.items() if value.numel()]
        return max(float((left - right).abs().max()) for left, right in pairs)

    @property
    def movement(self) -> float:
        """The largest change of a number in the federation's model since the beginning."""
        model, initial = self.records[-1].model.state_dict(), self.federation.initial.state_dict()
        return max(
            float((model[name].double() - initial[name].double()).abs().max()) for name in model if model[name].numel()
        )


def compare(setting: Setting) -> Comparison:
    """Run the federation and the reference.

    Raises:
        RuntimeError: if a client failed or a round was lost.
    """
    federation = setting.federation()
    records = []
    for record in federation.run():
        if record.failures or record.lost:
            raise RuntimeError(record.failures or record.lost)
        records.append(record)
    weights = {name: value.clone() for name, value in federation.initial.state_dict().items()}
    for record in records:
        weights = reference_round(setting, federation, record, weights)
    return Comparison(federation, records, weights)


def reference_round(setting: Setting, federation: Federation, record: RoundRecord, weights: Weights) -> Weights:
    """The mean of the cohort's models, each by plain Lightning."""
    total, divisor = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in weights.items()}, 0.0
    for number in record.cohort:
        client = plain_fit(setting, federation, record.number - 1, number, weights)
        if setting.after is not None:
            setting.after(client)
        new, weight = read(client.module, weights), setting.sizes[number] if setting.weights == "examples" else 1
        for name, old in weights.items():
            total[name] += weight * (new[name].double() - old.double()).float().double()  # an update is float32
        divisor += weight
    return {name: moved(old, total[name] / divisor) for name, old in weights.items()}


def plain_fit(setting: Setting, federation: Federation, round: int, number: int, weights: Weights) -> Client:
    """Train one client from the global weights: a new module, a new Trainer, `Trainer.fit`."""
    with seeded(federation.worker.data.seed, Purpose.INIT):
        module = (setting.plain or setting.make)()
    if type(module).configure_model is not LightningModule.configure_model:
        module.configure_model()
    with torch.no_grad():
        for name, tensor in tensors(module).items():
            if name in weights:
                tensor.copy_(weights[name])
    work = {"max_epochs": setting.epochs} if setting.steps is None else {"max_epochs": -1, "max_steps": setting.steps}
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    has_validation = type(module).validation_step is not LightningModule.validation_step
    with seeded(federation.worker.data.seed, Purpose.MODEL, round, number), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            **{"accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0, "limit_val_batches": 0, **quiet},
            **{**setting.options, **work},
            plugins=[LightningEnvironment()],
            callbacks=list(setting.callbacks()),
        )
        client = Client(number, round, weights, module, trainer)
        if setting.rule is not None:
            setting.rule(client)
        batches = federation.worker.data.train_batches(round, number)
        trainer.fit(module, batches, val_dataloaders=[] if has_validation else None)
    return client


def tensors(module: nn.Module) -> Weights:
    """Parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers(remove_duplicate=False))}


def read(module: nn.Module, like: Weights) -> Weights:
    """A copy of the module's weights, with the names and dtypes of `like`."""
    found = tensors(module)
    return {name: found[name].detach().clone() for name in like}


def moved(old: Tensor, step: Tensor) -> Tensor:
    """The sum of a tensor and a float64 step, in the tensor's dtype; integers move by whole numbers."""
    return (old.double() + (step if old.is_floating_point() else step.round())).to(old.dtype)


def loss_term(client: Client, mu: float, center: Weights | None = None, offset: Weights | None = None) -> None:
    """Add mu / 2 * |w - center|^2 + <offset, w> to the loss of the client's module: what a gradient term stands for."""
    module, original = client.module, client.module.training_step
    pairs = dict(module.named_parameters())

    def training_step(*args: Any) -> Any:
        output = original(*args)
        if output is None:
            return None
        parts = {name: parameter for name, parameter in pairs.items() if parameter.requires_grad}
        extra = sum((mu / 2 * (p - center[name]).square().sum() for name, p in parts.items()) if center else ())
        extra = extra + sum((p * offset[name]).sum() for name, p in parts.items() if offset)
        return {**output, "loss": output["loss"] + extra} if isinstance(output, Mapping) else output + extra

    module.training_step = copy.copy(training_step)
