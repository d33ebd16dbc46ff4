"""Heart disease in the patients of four hospitals, each of which is a client."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedlit.core.errors import ConfigError
from fedlit.data.population import Population
from fedlit.data.samples import ClientTestSet, Data, TensorSamples

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
"""Clients 0 to 3: Cleveland Clinic, Institute of Cardiology in Budapest, Zurich and Basel, V.A. in Long Beach."""

COLUMNS = 14
DROPPED = (10, 11, 12)  # slope, ca, thal: hardly known outside Cleveland
CATEGORIES = (2, 6)  # chest pain, electrocardiogram at rest
FEWEST = 4  # patients: fewer leave less than the two for training that have a standard deviation

Part = tuple[Tensor, Tensor]


def heart_disease(root: str | None = None) -> Data:
    """UCI's heart disease set: 740 patients of four hospitals, 13 features; each hospital has its own test set.

    Prepared as FLamby's Fed-Heart-Disease: without slope, ca and thal, then without patients of whom something is not known;
    chest pain and electrocardiogram one-hot without their first level; 66 % of each hospital for training, stratified where it
    has more than two patients of either class; features standardised by the training set of their own hospital.

    Source: Janosi, Steinbrunn, Pfisterer, Detrano, Heart Disease, UCI Machine Learning Repository, 1988,
    https://doi.org/10.24432/C52P4X; Ogier du Terrail et al., FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning
    in Realistic Healthcare Settings, NeurIPS 2022 Datasets and Benchmarks, https://arxiv.org/abs/2210.04620

    Args:
        root: folder with the four files processed.HOSPITAL.data; None takes those that come with the package.

    Raises:
        Mistake: if a file is missing, or is not in UCI's layout, or has too few patients.
    """
    folder = (
        files("fedlit.data.sources") / "files" / "heart_disease" if root is None else Path(root).expanduser().absolute()
    )
    tables = [_table(folder / f"processed.{hospital}.data") for hospital in HOSPITALS]
    everyone = np.concatenate(tables)
    levels = {column: np.unique(everyone[:, column])[1:] for column in CATEGORIES}
    parts = [_split(_features(table, levels), table[:, -1] > 0) for table in tables]
    train, test = _samples([part[0] for part in parts]), _samples([part[1] for part in parts])
    assert test.owner is not None
    own = ClientTestSet(test, Population.of(test.owner, test.clients))
    return Data("heart disease", train, test, (parts[0][0][0].shape[1],), ("healthy", "disease"), client_tests=own)


def _table(file: Traversable) -> np.ndarray:
    """Patients of whom everything is known, shape (n, 11): ten columns of UCI's and the diagnosis."""
    kept = [column for column in range(COLUMNS) if column not in DROPPED]
    try:
        rows = [line.split(",") for line in file.read_text(encoding="utf-8").split()]
        if any(len(row) != COLUMNS for row in rows):
            raise ValueError(f"a line does not have {COLUMNS} columns")
        known = [[float(row[column]) for column in kept] for row in rows if all(row[column] != "?" for column in kept)]
        if len(known) < FEWEST:
            raise ValueError(f"it has {len(known)} patients of whom all is known, and needs {FEWEST}")
    except (OSError, ValueError) as error:
        remedy = "root=null takes the files that come with fedlit"
        raise ConfigError("root", file, f"is not a file of UCI's heart disease set: {error}", remedy) from error
    return np.array(known)


def _features(table: np.ndarray, levels: dict[int, np.ndarray]) -> Tensor:
    """Shape (n, 13), float32: the numbers, then a column for each level of the categories but the first."""
    numbers = np.delete(table[:, :-1], list(levels), axis=1)
    onehot = [table[:, column, None] == values for column, values in levels.items()]
    return torch.from_numpy(np.concatenate([numbers, *onehot], axis=1).astype(np.float32))


def _split(x: Tensor, sick: np.ndarray) -> tuple[Part, Part]:
    """A hospital's training and test set, standardised by the former; a feature that is the same in all of it becomes 0."""
    from sklearn.model_selection import train_test_split

    even = min(sick.sum(), (~sick).sum()) > 2
    chosen = train_test_split(np.arange(len(sick)), test_size=0.34, random_state=43, stratify=sick if even else None)
    train, test = (torch.from_numpy(np.sort(rows)) for rows in chosen)
    std, mean = torch.std_mean(x[train], dim=0)
    x = (x - mean) / torch.where(std > 0, std, 1.0)
    y = torch.from_numpy(sick.astype(np.int64))
    return (x[train], y[train]), (x[test], y[test])


def _samples(parts: Sequence[Part]) -> TensorSamples:
    owner = np.repeat(np.arange(len(parts)), [len(y) for _, y in parts])
    x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return TensorSamples(x, y, owner=owner, clients=len(parts))
