"""Hooks of a user's LightningDataModule, and the settings of a user's DataLoaders."""

import re

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from fedlit.algorithms import FedAvg
from fedlit.core.errors import ConfigError
from fedlit.data import Iid
from fedlit.data.checks import check_loaders
from fedlit.data.custom import to_data
from fedlit.data.datamodule import LoaderSettings
from fedlit.data.loading import Loading
from fedlit.executors import Inline, Processes
from fedlit.server.monitor import Monitor
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation


def toy(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    return TensorDataset(x, (x.sum(1) > 0).long())


class Sets(LightningDataModule):
    """A data module that counts the calls of the hooks of a whole run."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def setup(self, stage):
        self.calls.append(stage)
        self.train, self.rest = toy(40), toy(20, 1)

    def teardown(self, stage):
        del self.train

    def train_dataloader(self):
        return DataLoader(self.train, 8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.rest, 8)

    test_dataloader = val_dataloader


def times_100(batch):
    return [batch[0] * 100, batch[1]]


class After(Sets):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        assert self.trainer.datamodule is self
        return times_100(batch)


class Before(Sets):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return times_100(batch)


class Transfer(Sets):
    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return times_100(batch)


class Size(LightningModule):
    """A module that logs the mean absolute input of each split."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(6, 2)

    def loss(self, batch):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        self.log("train/size", batch[0].abs().mean())
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("size", batch[0].abs().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.001)


def federate(source, executor=None, clients=2, **loading):
    return Federation.of(
        Size,
        to_data(source, 0),
        Iid(clients),
        FedAvg(),
        Schedule(rounds=1, local_epochs=1, client_fraction=1.0),
        loading=Loading(batch_size=8, **loading),
        monitor=Monitor(name=None),
        executor=executor or Inline(),
    )


def sizes(federation):
    (record,) = federation.run()
    return {name: value for name, value in record.metrics.items() if name.endswith("/size")}


@pytest.mark.parametrize("kind", [After, Before, Transfer])
def test_hooks_of_batches_are_called_in_training_and_evaluations(kind):
    plain, hooked = sizes(federate(Sets())), sizes(federate(kind(), client_test_fraction=0.2))
    assert plain.keys() == {"train/size", "val/size", "test/size"}
    assert all(0.7 < value < 0.9 for value in plain.values())
    assert hooked.keys() == {*plain, "own/size"}
    assert all(70 < value < 90 for value in hooked.values())


class Every(Sets):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] * 4, batch[1]]

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return [batch[0] * 5, batch[1]]

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] * 5, batch[1]]


@pytest.mark.slow
def test_hooks_are_called_in_worker_processes(caplog):
    values = sizes(federate(Every(), Processes(2)))
    assert values == sizes(federate(Every()))
    assert all(70 < value < 90 for value in values.values())
    assert "runs inline" not in caplog.text


def test_hooks_are_called_where_a_client_is_asked_for_its_loss():
    losses = []
    for kind in (Sets, After):
        federation = federate(kind())
        local = federation.worker.local_trainer(0, 0, {})
        losses.append(local.loss(federation.initial))
    assert losses[1] > 5 * losses[0]


def test_the_trainer_has_the_users_data_module_and_sets_it_up_once():
    source, seen = Before(), []

    class Asks(Size):
        def on_fit_start(self):
            seen.append((type(self.trainer.datamodule), self.trainer.datamodule.train is source.train))

    federation = Federation.of(
        Asks, to_data(source, 0), Iid(2), FedAvg(), Schedule(rounds=1, client_fraction=1.0), monitor=Monitor(name=None)
    )
    list(federation.run())
    assert seen == [(Before, True)] * 2
    assert source.calls == ["fit", "validate", "test"]
    assert source.trainer is federation.worker.data.datamodule.trainer is None


def test_an_attribute_that_a_hook_assigns_does_not_reach_the_next_client():
    class Counts(Sets):
        count = 0

        def on_after_batch_transfer(self, batch, dataloader_idx):
            self.count += 1
            return [batch[0] * self.count, batch[1]]

    federation = federate(Counts())
    first, second = (federation.dry_run(0)[1].groups["parameters"] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own
def test_a_fit_with_a_data_module_equals_a_plain_one_on_the_same_batches():
    federation, module = federate(After(), clients=1), Size()
    module.load_state_dict(federation.initial.state_dict())

    class Ordered(After):
        def train_dataloader(self):
            return federation.worker.data.train_batches(0, 0)

        def val_dataloader(self):
            return []

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    plain = Trainer(accelerator="cpu", max_epochs=1, limit_val_batches=0, enable_model_summary=False, **options)
    plain.fit(module, datamodule=Ordered())
    _, update = federation.dry_run(0)
    for name, parameter in module.named_parameters():
        change = parameter.detach() - federation.initial.parameters[name]
        assert torch.equal(update.groups["parameters"][name], change)


def loader(**options):
    return DataLoader(toy(20), **{"batch_size": 4, "shuffle": True, **options})


WEIGHTED = WeightedRandomSampler(np.ones(20), 20)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ((loader(shuffle=None, sampler=WEIGHTED), loader()), "a WeightedRandomSampler in the training loader"),
        ((loader(), loader(shuffle=None, sampler=WEIGHTED)), "a WeightedRandomSampler in the test loader"),
        (
            (loader(), loader(shuffle=None, sampler=WEIGHTED), loader()),
            "a WeightedRandomSampler in the validation loader",
        ),
        (
            (loader(shuffle=None, sampler=RandomSampler(toy(20), num_samples=5)), loader()),
            "a RandomSampler in the train",
        ),
        ((DataLoader(toy(20), batch_sampler=[[0, 1], [2, 3]]), loader()), "a list in the training loader"),
        (
            (DataLoader(toy(20), batch_sampler=BatchSampler(WEIGHTED, 4, False)), loader()),
            "a WeightedRandomSampler in the training loader",
        ),
        ((loader(shuffle=None, sampler=RandomSampler(range(5))), loader()), "a RandomSampler in the training loader"),
        ((loader(), loader(shuffle=None, sampler=SequentialSampler(range(5)))), "a SequentialSampler in the test load"),
        ((DataLoader(toy(20), batch_size=None), loader()), "makes its own batches in the training loader"),
    ],
)
def test_a_pair_of_loaders_with_a_setting_that_would_be_ignored_is_refused(source, problem):
    with pytest.raises(ConfigError, match=problem):
        to_data(source, 0)


def collate(samples):
    return torch.stack([x for x, _ in samples]) + 1, torch.tensor([int(y) for _, y in samples])


def test_a_pair_of_loaders_gives_its_datasets_and_functions():
    started = []
    train = loader(collate_fn=collate, num_workers=0, worker_init_fn=started.append)
    data = to_data((train, loader()), 0)
    ((x, _),) = data.train.batches(np.arange(3), 3)
    assert torch.equal(x, train.dataset.tensors[0][:3] + 1)
    assert data.train.batches(np.arange(3), 3).worker_init_fn == started.append


def test_a_batch_sampler_of_torch_gives_the_settings_of_its_loader():
    dataset = toy(20)
    train = DataLoader(dataset, batch_sampler=BatchSampler(RandomSampler(dataset), 4, True))
    assert to_data((train, dataset), 0).train.loader == LoaderSettings(4, True, 0, True)


@pytest.mark.parametrize(
    ("source", "problems"),
    [
        ((loader(batch_size=32), loader()), []),
        ((toy(20), toy(20)), []),
        (
            (loader(drop_last=True, num_workers=2), loader()),
            [
                "batch_size=4, drop_last=true, num_workers=2, but .* data.batch_size=32, data.drop_last=false.*num_workers=2\\)"
            ],
        ),
        ((loader(batch_size=32, shuffle=False), loader()), ["training loader without shuffle"]),
        (
            (loader(batch_size=32), loader(drop_last=True)),
            ["a test loader with drop_last, but an evaluation takes all"],
        ),
    ],
)
def test_settings_of_loaders_that_a_run_replaces_are_warnings(source, problems):
    data = to_data(source, 0).hold_out(0.5, np.random.default_rng(0))
    warnings = check_loaders(data, Loading())
    assert all(warning.warning for warning in warnings)
    assert len(warnings) == len(problems)
    for warning, problem in zip(warnings, problems, strict=True):
        assert re.search(problem, str(warning))
