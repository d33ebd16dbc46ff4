"""The light accuracy is torchmetrics' accuracy, to the bit."""

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from fedlit.models.accuracy import LightAccuracy


def both(classes=7):
    return LightAccuracy(), MulticlassAccuracy(classes, average="micro", validate_args=False)


def test_it_is_the_micro_accuracy_of_torchmetrics_after_each_batch_and_after_a_reset():
    light, other = both()
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        for size in (20, 1, 333, 20):
            predictions, labels = (torch.randint(7, (size,), generator=generator) for _ in range(2))
            for metric in (light, other):
                metric.update(predictions, labels)
            assert light.compute().dtype == other.compute().dtype
            assert torch.equal(light.compute(), other.compute())
            assert (light.metric_state["correct"], light.metric_state["total"]) == (other.tp, other.tp + other.fn)
        for metric in (light, other):
            metric.reset()
        assert light.total == 0


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (2**24 + 1, 2**24 + 3), (2**40 + 7, 2**41 + 5)])
def test_large_counts_are_rounded_as_by_torchmetrics(correct, total):
    light, other = both()
    light.correct, light.total = torch.tensor(correct), torch.tensor(total)
    other.tp, other.fn = torch.tensor(correct), torch.tensor(total - correct)
    light._update_count = other._update_count = 1
    assert torch.equal(light.compute(), other.compute())
