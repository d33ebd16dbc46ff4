#!/usr/bin/env python
"""FLamby's pooled training of the four hospitals in plain PyTorch, with both ways to standardise the patients.

    python scripts/flamby_pooled.py

FLamby standardises the pooled patients by the statistics of all training patients, and a hospital's own test patients by those
of the hospital: flamby/datasets/fed_heart_disease/dataset.py. It trains logistic regression by 50 epochs of Adam 0.001.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

from fedlit.data.sources import heart_disease

SEEDS = range(42, 47)
Part = tuple[Tensor, Tensor]


def read_hospitals() -> list[tuple[Part, Part]]:
    """Training and test patients of each hospital, not standardised: features (n, 13) and labels (n,)."""
    folder = files("fedlit.data.sources") / "files" / "heart_disease"
    tables = [heart_disease._read_table(folder / f"processed.{name}.data") for name in heart_disease.HOSPITALS]
    everyone = np.concatenate(tables)
    levels = {column: np.unique(everyone[:, column])[1:] for column in heart_disease.CATEGORIES}
    hospitals = []
    for table in tables:
        x, sick = heart_disease._features(table, levels), table[:, -1] > 0
        strata = sick if min(sick.sum(), (~sick).sum()) > 2 else None
        parts = train_test_split(np.arange(len(sick)), test_size=0.34, random_state=43, stratify=strata)
        y = torch.from_numpy(sick.astype(np.float32))
        hospitals.append(tuple((x[rows], y[rows]) for rows in parts))
    return hospitals


def standardised(x: Tensor, by: Tensor) -> Tensor:
    """Features in standard deviations of `by` from its mean."""
    return (x - by.mean(0)) / (by.std(0) + 1e-9)


def train(x: Tensor, y: Tensor, seed: int) -> torch.nn.Linear:
    """Train logistic regression from FLamby's initial weights."""
    torch.manual_seed(seed)
    model = torch.nn.Linear(13, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    for _ in range(50):
        for rows in torch.randperm(len(y)).split(4):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(x[rows])[:, 0], y[rows]).backward()
            optimizer.step()
    return model


def main() -> None:
    """Print the mean accuracy at the hospitals, and that of all test patients, for each way to standardise."""
    hospitals = read_hospitals()
    (x, y), (all_x, all_y) = (
        tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True)) for parts in zip(*hospitals, strict=True)
    )
    own = torch.cat([standardised(train_x, train_x) for (train_x, _), _ in hospitals])
    for name, inputs in (("all hospitals together", standardised(x, x)), ("each hospital", own)):
        rows = []
        for seed in SEEDS:
            model = train(inputs, y, seed)
            tests = [(standardised(test_x, train_x), test_y) for (train_x, _), (test_x, test_y) in hospitals]
            tests.append((standardised(all_x, x), all_y))
            accuracies = [float(((model(x)[:, 0] > 0) == (y > 0)).float().mean()) for x, y in tests]
            rows.append((np.mean(accuracies[:-1]), accuracies[-1]))
        at_hospitals, of_all = np.mean(rows, axis=0)
        print(
            f"standardised by {name}: {at_hospitals:.4f} at the hospitals, {of_all:.4f} of all test patients",
            flush=True,
        )


if __name__ == "__main__":
    main()
