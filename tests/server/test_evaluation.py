"""Names of the metrics of a round."""

from dataclasses import replace

import pytest
from conftest import Quadratic, pairs
from test_federation import quadratics

from fedlit.algorithms import FedAvg
from fedlit.core.messages import EvalResult
from fedlit.data.samples import ClientTestSet
from fedlit.server.evaluation import Evaluations, combine_results


class LogsTwice(Quadratic):
    """Logs two metrics that would have one name in the record."""

    def training_step(self, batch, batch_idx):
        self.log("loss", 7.0)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        for number, name in enumerate(("loss", "val/loss", "val_loss", "loss_std")):
            self.log(name, float(number))


class Reports(FedAvg):
    """Reports metrics under names that others have."""

    def metrics(self, state):
        return {"train/loss": 8.0, "comm/up_bytes": 9.0}


def run():
    """The record of a round with evaluations of a split and of clients' own test sets."""
    fed = quadratics([(1.0, 2.0), (3.0, -1.0)], Reports(), rounds=1, module=LogsTwice())
    data = fed.worker.data
    data = replace(data, splits={"val": pairs((1.0, 1.0))}, client_tests=ClientTestSet(data.train, data.population))
    fed = replace(fed.with_worker(replace(fed.worker, data=data)), evaluations=Evaluations("all"))
    (record,) = fed.run()
    assert not record.failures
    return record.metrics


def test_metrics_that_would_have_one_name_are_all_in_the_record():
    metrics = run()
    assert metrics["train/loss_2"] == 7.0
    assert metrics["train/loss"] == 8.0
    assert metrics["train/loss_3"] == pytest.approx(1.1775)
    assert metrics["comm/up_bytes_2"] == 9.0
    assert metrics["comm/up_bytes"] == 2 * 12
    assert [metrics[f"val{name}"] for name in ("/loss_2", "/loss", "_loss", "/loss_std")] == [0.0, 1.0, 2.0, 3.0]


def test_metrics_of_clients_with_one_bare_name_are_all_in_the_record():
    metrics = run()
    names = ("loss_2", "loss", "loss_3", "loss_std_2")
    assert [metrics[f"own/{name}"] for name in names] == [0.0, 1.0, 2.0, 3.0]
    assert [metrics[f"own/{name}_std"] for name in names] == [0.0] * 4
    results = [EvalResult("test", {"test/loss": 2.0 * client, "test_loss": 5.0}, client) for client in range(2)]
    metrics = combine_results(results)
    assert (metrics["own/loss"], metrics["own/loss_std"], metrics["own/loss_2"]) == (1.0, 1.0, 5.0)
