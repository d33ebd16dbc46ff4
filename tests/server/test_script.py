"""A federation in a script: a module or a factory, plain datasets, observers, a short text."""

import io
import logging

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from rich.console import Console
from torch.utils.data import DataLoader, TensorDataset

from fedlit import Checkpoints, FedAvg, Federation, Iid, Loading, Monitor, Observer, Observers, Schedule
from fedlit.core.errors import ConfigError
from fedlit.experiment.observers import PartitionFigure, TensorBoard, Terminal


def toy(count=60, seed=0):
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, (x.sum(1) > 0).long())


class Net(LightningModule):
    def __init__(self, width=3):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(6, width), torch.nn.Linear(width, 2))

    def loss(self, batch):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Sets(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(toy(), batch_size=32, shuffle=True)

    def test_dataloader(self):
        return DataLoader(toy(20, 1), batch_size=32)


def federate(model=Net, data=None, rounds=2, **parts):
    data = (toy(), toy(20, 1)) if data is None else data
    monitor = Monitor("val_loss", "min")
    return Federation.of(model, data, Iid(3), FedAvg(), Schedule(rounds=rounds), monitor=monitor, seed=1, **parts)


def losses(federation):
    return [record.metrics["test_loss"] for record in federation.run()]


def test_a_module_is_trained_from_its_weights_and_stays_as_it_is():
    module = Net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert losses(federate(module)) == losses(federate(module))
    for state in (module.state_dict(), federate(module).initial.state_dict()):
        assert all(torch.equal(state[name], before[name]) for name in before)


def test_a_class_gets_initial_weights_from_the_seed():
    assert losses(federate(Net)) == losses(federate(lambda: Net()))


def test_a_pair_and_a_data_module_give_the_same_data():
    assert losses(federate(data=Sets())) == losses(federate())


def test_the_text_of_a_federation_and_of_a_model_is_short():
    federation = federate()
    expected = "Federation(Net of 29 parameters, 3 clients with 54 examples, FedAvg, 2 rounds, seed 1)"
    assert repr(federation) == expected
    assert repr(federate(rounds=1)).endswith("FedAvg, 1 round, seed 1)")
    assert repr(federation.initial) == "Model(29 parameters, 0 buffers)"
    (record, _) = federation.run()
    assert "tensor" not in repr(record)
    assert len(repr(federation.worker)) < 3000


def test_settings_that_are_probably_unintended_are_logged(caplog):
    federate(data=(DataLoader(toy(), batch_size=7, shuffle=True), toy()), loading=Loading(batch_size=8))
    assert "has a training loader with batch_size=7" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


class Notes(Observer):
    def __init__(self):
        self.calls = []

    def start(self, run):
        names = (run.names["model"], run.names["algorithm"], run.data.name)
        self.calls.append(("start", names, [record.number for record in run.finished_rounds]))

    def round(self, record):
        self.calls.append(("round", record.number))

    def end(self, summary):
        self.calls.append(("end", summary["rounds"], summary["best"]["round"], summary["observers_failed"]))

    def close(self):
        self.calls.append(("close",))


class Fails(Observer):
    def round(self, record):
        raise OSError("full")


NAMES = ("Net", "FedAvg", "your data")


def test_observers_see_the_run_and_one_that_fails_is_left_out(tmp_path):
    notes = Notes()
    federation = federate(observers=Observers([notes, Fails(), PartitionFigure()], folder=tmp_path / "run"))
    assert losses(federation) == losses(federate())
    failed = {"Fails": "OSError: full"}
    assert notes.calls == [("start", NAMES, []), ("round", 1), ("round", 2), ("end", 2, 2, failed), ("close",)]
    assert (tmp_path / "run" / "partition.png").is_file()


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_observers_of_the_project_work_with_and_without_a_validation_set(tmp_path, validation):
    notes, out = Notes(), io.StringIO()
    observers = Observers([Terminal(Console(file=out, width=80)), TensorBoard(), notes], folder=tmp_path)
    list(federate(rounds=1, observers=observers, loading=Loading(val_fraction=validation)).run())
    assert notes.calls[-2] == ("end", 1, 1, {})
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert lines[0].startswith(f"round 1/1 1 of 1 clients{' val_loss 0.' if validation else ' 0.'}")
    assert any("test_loss" in line for line in lines)


def test_observers_of_a_resumed_run_see_its_finished_rounds(tmp_path):
    for rounds, calls in ((1, [("round", 1)]), (2, [("round", 2)]), (2, [])):
        notes = Notes()
        observers = Observers([notes], folder=tmp_path)
        list(federate(rounds=rounds, observers=observers, checkpointer=Checkpoints(tmp_path)).run())
        start, *rest, end, close = notes.calls
        assert rest == calls
        assert start == ("start", NAMES, list(range(1, rounds + 1 - len(calls))))
        assert (end[:2], close) == (("end", rounds), ("close",))


def test_observers_are_closed_if_the_loop_is_left(tmp_path):
    notes = Notes()
    rounds = federate(observers=Observers([notes], folder=tmp_path)).run()
    next(rounds)
    rounds.close()
    assert notes.calls[1:] == [("round", 1), ("close",)]


def test_an_object_that_is_no_data_is_an_error_of_the_data():
    with pytest.raises(ConfigError, match="data=TensorDataset: is not data: it must be a pair"):
        federate(data=toy())


@pytest.mark.parametrize("observers", [[Notes()], Notes()])
def test_bare_observers_are_an_error_that_says_how_to_give_them(observers):
    with pytest.raises(ConfigError, match=r"write observers=fedlit.Observers\(\[...\], folder=...\)"):
        federate(observers=observers)


def test_an_object_that_is_no_observer_is_an_error():
    with pytest.raises(ConfigError, match="observers=function: is not a fedlit"):
        Observers([lambda: 0])
    with pytest.raises(ConfigError, match="observers=Notes: is an observer, not a list"):
        Observers(Notes())


@pytest.mark.parametrize(("algorithm", "name"), [("fedavg", "str"), (FedAvg, "FedAvg")])
def test_an_object_that_is_no_algorithm_is_an_error(algorithm, name):
    with pytest.raises(ConfigError, match=f"algorithm={name}: is not an Algorithm; give an instance"):
        Federation.of(Net, (toy(), toy(20, 1)), Iid(3), algorithm, Schedule(rounds=1))
