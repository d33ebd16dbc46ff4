"""Heart disease in the patients of four hospitals, the clients."""

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
DROPPED = (10, 11, 12)  # slope, ca, thal: mostly missing outside Cleveland
CATEGORIES = (2, 6)  # chest pain, electrocardiogram at rest
MIN_PATIENTS = 4  # a standard deviation needs two patients for training

Part = tuple[Tensor, Tensor]


def heart_disease(root: str | None = None) -> Data:
    """Return UCI's heart disease set: 740 patients of four hospitals, 13 features.

    Each hospital has its own test set. The data is prepared as FLamby's Fed-Heart-Disease: first without slope, ca and thal,
    then without patients who have a missing value. Chest pain and electrocardiogram are one-hot without their first level.
    66 % of each hospital are for training, stratified if it has more than two patients of either class. Features are
    standardised by the training set of their own hospital.

    Source: Janosi, Steinbrunn, Pfisterer, Detrano, Heart Disease, UCI Machine Learning Repository, 1988,
    https://doi.org/10.24432/C52P4X; Ogier du Terrail et al., FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning
    in Realistic Healthcare Settings, NeurIPS 2022 Datasets and Benchmarks, https://arxiv.org/abs/2210.04620

    Args:
        root: folder with the four files processed.HOSPITAL.data; None for the files that come with the package.

    Raises:
        ConfigError: if a file is missing, is not in UCI's layout, or has too few patients.
    """
    folder = (
        files("fedlit.data.sources") / "files" / "heart_disease" if root is None else Path(root).expanduser().absolute()
    )
    tables = [_read_table(folder / f"processed.{hospital}.data") for hospital in HOSPITALS]
    everyone = np.concatenate(tables)
    levels = {column: np.unique(everyone[:, column])[1:] for column in CATEGORIES}
    parts = [_split(_features(table, levels), table[:, -1] > 0) for table in tables]
    train, test = _join([part[0] for part in parts]), _join([part[1] for part in parts])
    assert test.owner is not None
    tests = ClientTestSet(test, Population.of(test.owner, test.clients))
    return Data("heart disease", train, test, (parts[0][0][0].shape[1],), ("healthy", "disease"), client_tests=tests)


def _read_table(file: Traversable) -> np.ndarray:
    """Return the patients without missing values, shape (n, 11).

    The columns are ten of UCI's, then the diagnosis.
    """
    columns = [column for column in range(COLUMNS) if column not in DROPPED]
    try:
        rows = [line.split(",") for line in file.read_text(encoding="utf-8").split()]
        if any(len(row) != COLUMNS for row in rows):
            raise ValueError(f"a line does not have {COLUMNS} columns")
        complete = [row for row in rows if all(row[column] != "?" for column in columns)]
        patients = [[float(row[column]) for column in columns] for row in complete]
        if len(patients) < MIN_PATIENTS:
            raise ValueError(f"it has {len(patients)} patients without missing values, and needs {MIN_PATIENTS}")
    except (OSError, ValueError) as error:
        hint = "root=null uses the files that come with fedlit"
        raise ConfigError("root", file, f"is not a file of UCI's heart disease set: {error}", hint) from error
    return np.array(patients)


def _features(table: np.ndarray, levels: dict[int, np.ndarray]) -> Tensor:
    """Return the features, shape (n, 13), float32.

    The numbers come first, then a column for each level of the categories except the first level.
    """
    numbers = np.delete(table[:, :-1], list(levels), axis=1)
    onehot = [table[:, column, None] == values for column, values in levels.items()]
    return torch.from_numpy(np.concatenate([numbers, *onehot], axis=1).astype(np.float32))


def _split(x: Tensor, is_sick: np.ndarray) -> tuple[Part, Part]:
    """Split a hospital's patients, and standardise both sets by the training set.

    A feature that is constant in the training set becomes 0 there.

    Returns:
        The training and the test set, each as features (n, 13) and labels (n,).
    """
    from sklearn.model_selection import train_test_split

    strata = is_sick if min(is_sick.sum(), (~is_sick).sum()) > 2 else None
    rows = train_test_split(np.arange(len(is_sick)), test_size=0.34, random_state=43, stratify=strata)
    train, test = (torch.from_numpy(np.sort(part)) for part in rows)
    std, mean = torch.std_mean(x[train], dim=0)
    x = (x - mean) / torch.where(std > 0, std, 1.0)
    y = torch.from_numpy(is_sick.astype(np.int64))
    return (x[train], y[train]), (x[test], y[test])


def _join(parts: Sequence[Part]) -> TensorSamples:
    """Return the samples of all hospitals, with their owners."""
    owner = np.repeat(np.arange(len(parts)), [len(y) for _, y in parts])
    x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return TensorSamples(x, y, owner=owner, clients=len(parts))
