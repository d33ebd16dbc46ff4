"""Fits that are cut short."""

import pytest
import torch
from conftest import Quadratic, holdings, pairs

from fedlit.algorithms import FedAvg
from fedlit.local import Bench, Recipe
from fedlit.worker import ClientWorker


def work(options, recipe, held, module=None):
    return ClientWorker(
        FedAvg(), Bench(module or Quadratic(1.0)), Recipe({"accelerator": "cpu", **options}, **recipe), held
    )


class Planning(Quadratic):
    """A Quadratic whose rate falls to 0 over all that its Trainer is going to do."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def test_a_cut_is_the_beginning_of_the_whole_fit_for_a_module_that_plans_ahead_too():
    held = holdings(pairs((1.0, 2.0)), batch=1)
    worker = work({}, {"epochs": 4}, held, Planning(0.0, lr=1.0))
    fit = worker.local(0, 0, {}, budget=2).fit(worker.bench.read())
    assert fit.steps == 2
    assert fit.model.parameters["w"].item() == pytest.approx(0 + 1.0 * 2 + 0.75 * 0)
    slower = work({}, {"epochs": 4}, held, Planning(0.0, lr=0.5))
    fit = slower.local(0, 0, {}, budget=2).fit(slower.bench.read())
    assert fit.model.parameters["w"].item() == pytest.approx(1.0 + 0.375 * 1.0)  # rates 4/4 and 3/4 of 0.5
