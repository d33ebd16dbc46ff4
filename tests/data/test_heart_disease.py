from importlib.resources import files

import numpy as np
import pytest
import torch

from fedlit.core.errors import ConfigError
from fedlit.data import Natural
from fedlit.data.sources.heart_disease import HOSPITALS, heart_disease

PATIENT = "50,1,1,120,200,0,0,150,0,1.0,?,?,?,0"


@pytest.fixture(scope="module")
def data():
    return heart_disease()


def write_files(folder, **rows):
    """Write UCI's files; a hospital without rows has four equal patients."""
    for hospital in HOSPITALS:
        (folder / f"processed.{hospital}.data").write_text("\n".join(rows.get(hospital, [PATIENT] * 4)) + "\n")
    return str(folder)


def patients_of(samples, hospital):
    """Return features and labels of a hospital's patients."""
    mine = torch.from_numpy(samples.owner == HOSPITALS.index(hospital))
    return samples.x[mine], samples.y[mine]


def test_the_hospitals_have_flambys_sizes(data):
    assert np.bincount(data.train.owner).tolist() == [199, 172, 30, 85]
    assert np.bincount(data.test.owner).tolist() == [104, 89, 16, 45]
    assert (data.shape, data.train.x.shape, data.classes) == ((13,), (486, 13), ("healthy", "disease"))
    assert (data.train.x.dtype, data.train.y.dtype) == (torch.float32, torch.int64)


def test_a_hospital_is_a_client_with_its_own_test_set(data):
    population = Natural()(data.train, np.random.default_rng(0))
    assert population.sizes.tolist() == [199, 172, 30, 85]
    assert data.client_tests.population.sizes.tolist() == [104, 89, 16, 45]
    assert data.client_tests.samples is data.test


def test_both_sets_have_the_same_share_of_disease_if_there_are_enough_patients(data):
    for hospital, share in (("cleveland", 139 / 303), ("hungarian", 98 / 261), ("va", 101 / 130)):
        for samples in (data.train, data.test):
            assert float(patients_of(samples, hospital)[1].double().mean()) == pytest.approx(share, abs=0.01)
    assert int((patients_of(data.test, "switzerland")[1] == 0).sum()) == 1  # the only healthy patient there


def test_features_are_standardised_by_the_hospitals_own_training_set(data):
    for hospital in HOSPITALS:
        x, _ = patients_of(data.train, hospital)
        assert torch.allclose(x.mean(0), torch.zeros(13), atol=1e-5)
        std = torch.ones(13)
        if hospital == "switzerland":
            std[3] = 0  # no cholesterol was measured there
        assert torch.allclose(x.std(0), std, atol=1e-5)
    assert float(data.test.x.abs().max()) < 20
    assert not torch.allclose(patients_of(data.test, "va")[0].mean(0), torch.zeros(13), atol=0.01)


def test_columns_are_dropped_before_patients_and_categories_lose_their_first_level(tmp_path):
    ages = [f"{age},0,{pain},120,200,0,{ecg},150,0,1.0,?,?,?,3" for age, pain, ecg in ((40, 2, 0), (60, 4, 1))]
    unknown = ["50,1,1,120,?,0,0,150,0,1.0,1,1,1,0"]
    data = heart_disease(write_files(tmp_path, va=[*ages * 2, *unknown]))
    # chest pain 1, 2, 4 keeps two columns, the electrocardiogram's 0, 1 keeps one
    assert data.shape == (8 + 2 + 1,)
    assert len(patients_of(data.train, "va")[1]) + len(patients_of(data.test, "va")[1]) == 4
    x, y = (torch.cat(parts) for parts in zip(patients_of(data.train, "va"), patients_of(data.test, "va"), strict=True))
    assert y.tolist() == [1, 1, 1, 1]
    young = x[:, 0] == x[:, 0].min()
    assert young.sum() == 2
    assert len(x[young].unique(dim=0)) == len(x[~young].unique(dim=0)) == 1
    assert (x[~young][0] - x[young][0]).sign().int().tolist() == [1, *[0] * 7, -1, 1, 1]


def test_a_feature_that_is_constant_in_the_training_set_becomes_0(tmp_path):
    data = heart_disease(write_files(tmp_path))
    assert torch.equal(data.train.x, torch.zeros(8, 8))
    assert torch.equal(data.test.x, torch.zeros(8, 8))


def test_fedavg_from_flambys_weights_ends_at_flambys_accuracies(data):
    """flamby/results/results_benchmark_fed_heart_disease/heart_seed42.csv, FedAvg100."""
    torch.manual_seed(42)
    linear = torch.nn.Linear(13, 1)
    start = torch.cat([linear.weight.detach().flatten(), linear.bias.detach()])
    hospitals = [patients_of(data.train, hospital) for hospital in HOSPITALS]
    model = start
    for _ in range(15):
        mean = torch.zeros(14)
        for x, y in hospitals:
            mean += len(y) / 486 * train_locally(model, torch.cat([x, torch.ones(len(x), 1)], 1), y.float())
        model = mean
    tests = [patients_of(data.test, hospital) for hospital in HOSPITALS]
    accuracies = [float(((x @ model[:13] + model[13] > 0) == y).double().mean()) for x, y in tests]
    assert accuracies == pytest.approx([0.7596, 0.6966, 0.6875, 0.6222], abs=0.02)


def train_locally(model, x, y):
    """Return the model after 100 steps of SGD, in batches of 4."""
    model, rows = model.clone(), []
    for _ in range(100):
        rows = rows or list(torch.randperm(len(y)).split(4))
        batch = rows.pop()
        model -= 0.001 / len(batch) * (torch.sigmoid(x[batch] @ model) - y[batch]) @ x[batch]
    return model


def test_the_files_name_their_authors_and_licence():
    text = (files("fedlit.data.sources") / "files" / "heart_disease" / "README.md").read_text()
    assert all(word in text for word in ("Janosi", "Steinbrunn", "Pfisterer", "Detrano", "Attribution 4.0", "10.24432"))


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([PATIENT] * 3, "has 3 patients"),
        ([PATIENT] * 4 + ["1,2,3"], "does not have 14 columns"),
        ([PATIENT.replace("120", "much")] * 4, "could not convert"),
    ],
)
def test_an_error_in_a_file_is_reported(tmp_path, rows, problem):
    with pytest.raises(ConfigError, match=problem) as error:
        heart_disease(write_files(tmp_path, va=rows))
    assert error.value.key == "root"
    assert "processed.va.data" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"processed\.cleveland\.data"):
        heart_disease(str(tmp_path))
