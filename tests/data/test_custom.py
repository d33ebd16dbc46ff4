import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from fedlit.core.errors import ConfigError
from fedlit.data.custom import DatasetSamples, to_data


class Numbers(Dataset):
    """Items (i, i mod 3) of client i // 10."""

    def __init__(self, count=30, targets=True, clients=True):
        self.count = count
        if targets:
            self.targets = [i % 3 for i in range(count)]
        if clients:
            self.clients = [f"client {i // 10}" for i in range(count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError
        return torch.tensor([float(index)]), index % 3


def sample_numbers(batches):
    return [int(i) for x, _ in batches for i in x[:, 0]]


def test_a_pair_of_datasets_becomes_data():
    data = to_data((Numbers(30), Numbers(6)), 0)
    assert (len(data.train), len(data.test), data.val) == (30, 6, None)
    assert (data.shape, data.classes) == ((1,), ("0", "1", "2"))
    assert data.train.labels().tolist() == Numbers(30).targets
    assert [data.train.natural().shard(client).tolist()[0] for client in range(3)] == [0, 10, 20]


def test_a_triple_has_its_own_validation_set():
    assert len(to_data((Numbers(30), Numbers(5), Numbers(6)), 0).val) == 5


def test_a_data_module_is_set_up_and_its_datasets_are_used():
    class Module(LightningDataModule):
        def setup(self, stage):
            self.sets = {**getattr(self, "sets", {}), stage: Numbers(12 if stage == "fit" else 4)}

        def train_dataloader(self):
            return DataLoader(self.sets["fit"], batch_size=3)

        def test_dataloader(self):
            return DataLoader(self.sets["test"], batch_size=3)

    data = to_data(Module(), 0)
    assert (len(data.train), len(data.test), data.val) == (12, 4, None)


class Loaders(LightningDataModule):
    """A data module in which each stage's setup replaces the last loader."""

    def __init__(self, train=None, val=None, test=None):
        super().__init__()
        self.loaders = {"fit": train, "validate": val, "test": test}

    def setup(self, stage):
        self.make_loader = self.loaders[stage] or (
            lambda: DataLoader(Numbers({"fit": 12, "validate": 5, "test": 4}[stage]))
        )

    def train_dataloader(self):
        return self.make_loader()

    val_dataloader = test_dataloader = train_dataloader


def test_each_loader_is_read_right_after_the_setup_of_its_stage():
    data = to_data(Loaders(), 0)
    assert (len(data.train), len(data.val), len(data.test)) == (12, 5, 4)


def test_a_data_module_from_datasets_gives_its_datasets():
    data = to_data(LightningDataModule.from_datasets(Numbers(12), test_dataset=Numbers(4)), 0)
    assert (len(data.train), len(data.test), data.val) == (12, 4, None)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own
def test_a_list_of_one_loader_is_that_loader_and_an_empty_list_is_none():
    combined = CombinedLoader([DataLoader(Numbers(5))], "sequential")
    data = to_data(Loaders(val=lambda: combined, test=lambda: [DataLoader(Numbers(4))]), 0)
    assert (len(data.val), len(data.test)) == (5, 4)
    assert to_data(Loaders(val=list), 0).val is None


def collate(samples):
    return torch.cat([torch.stack([2 * x, x]) for x, _ in samples]).reshape(len(samples), 2), len(samples)


def test_a_loaders_collate_fn_decides_the_batches_and_the_shape():
    data = to_data(Loaders(lambda: DataLoader(Numbers(12), collate_fn=collate)), 0)
    ((x, count),) = data.train.subset(np.array([4, 7])).batches(None, 2)
    assert (x.tolist(), count, data.shape) == ([[8, 4], [14, 7]], 2, (2,))
    ((x, _),) = data.test.batches(np.array([3]), 2)
    assert x.tolist() == [[3]]


class Words(Numbers):
    def __init__(self, targets=None, clients=None):
        super().__init__(4)
        self.targets, self.clients = targets, clients


class Failing(LightningDataModule):
    def setup(self, stage):
        raise RuntimeError(f"no {stage}")


def loading(**options):
    return lambda: DataLoader(Numbers(4), **options)


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (Loaders(test=lambda: [DataLoader(Numbers(4))] * 2), "has 2 loaders in test_dataloader.*ConcatDataset"),
        (Loaders(loading(sampler=WeightedRandomSampler([1, 1], 2))), "a WeightedRandomSampler in train_dataloader"),
        (Loaders(loading(sampler=RandomSampler(Numbers(4), num_samples=2))), "a RandomSampler in train_dataloader"),
        (Loaders(loading(batch_sampler=[[0, 1]])), "a list in train_dataloader"),
        (Loaders(loading(batch_size=None)), "makes its own batches"),
        (Loaders(lambda: DataLoader(Stream())), "an IterableDataset in train_dataloader"),
        (Loaders(val=lambda: Numbers(4)), "returns a Numbers in val_dataloader"),
        (Failing(), r"fails in setup\(fit\): RuntimeError: no fit"),
    ],
)
def test_a_loader_setting_that_would_be_ignored_is_refused(module, problem):
    with pytest.raises(ConfigError, match=problem):
        to_data(module, 0)


def test_classes_are_those_of_all_sets_and_booleans_are_two_classes():
    assert to_data((Words([0, 1, 0, 1]), Words([0, 2, 0, 2])), 0).classes == ("0", "1", "2")
    assert to_data((Words([True, False, True, True]), Words()), 0).classes == ("0", "1")
    assert to_data((Words([-1, 1, 1, 1]), Words()), 0).classes == ()


def numbered(*labels):
    return TensorDataset(torch.zeros(len(labels), 6), torch.tensor(labels))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (torch.arange(100) * 1_000_000, 0),  # prices in cents
        (torch.arange(100) * 1_700_000_000_000, 0),  # time stamps
        (torch.tensor([3, 17, 1001]), 0),
        (torch.tensor([3, 17, 999]), 1000),  # some of many classes
        (torch.arange(0, 5000, 3), 0),
        (torch.arange(1, 5000, 2), 5000),  # half of the classes occur
    ],
)
def test_whole_numbers_are_classes_unless_they_are_spread_widely(labels, classes):
    sets = (numbered(*labels.tolist()), numbered(*labels[:5].tolist()))
    assert len(to_data(sets, 0).classes) == classes


def test_labels_of_subsets_and_tensor_datasets_are_read():
    assert DatasetSamples.of(Subset(Numbers(30), [4, 5]), 0).labels().tolist() == [1, 2]
    assert DatasetSamples.of(TensorDataset(torch.zeros(3, 2), torch.tensor([2, 0, 1])), 0).labels().tolist() == [
        2,
        0,
        1,
    ]
    assert DatasetSamples.of(Numbers(4, targets=False), 0).labels() is None


def test_labels_and_clients_of_joined_datasets_are_those_of_the_parts():
    joined = DatasetSamples.of(ConcatDataset([Numbers(12), Subset(Numbers(30), [11, 25])]), 0)
    assert joined.labels().tolist() == [i % 3 for i in (*range(12), 11, 25)]
    assert joined.owner.tolist() == [0] * 10 + [1] * 3 + [2]
    flat, column = (TensorDataset(torch.zeros(3, 2), torch.zeros(*shape)) for shape in ((3,), (3, 1)))
    for parts in ([Numbers(4), Numbers(4, targets=False)], [flat, column]):
        assert DatasetSamples.of(ConcatDataset(parts), 0).labels() is None


def test_sets_for_regression_and_sets_without_labels_have_no_classes():
    floats = TensorDataset(torch.zeros(3, 2), torch.tensor([0.5, 1.5, 2.5]))
    assert to_data((floats, floats), 0).classes == ()
    assert to_data((Numbers(5, targets=False), Numbers(5)), 0).classes == ()


def test_batches_hold_the_shard_in_the_order_of_the_generator():
    samples = DatasetSamples.of(Numbers(30), 0)
    shard = np.array([3, 9, 27, 14])
    assert sample_numbers(samples.batches(shard, 3)) == [3, 9, 27, 14]
    orders = [sample_numbers(samples.batches(shard, 3, torch.Generator().manual_seed(s))) for s in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == sorted(shard.tolist())
    assert len(samples.batches(shard, 3, drop_last=True)) == 1
    assert len(samples.batches(np.array([], dtype=int), 3)) == 0
    assert sample_numbers(samples.subset(shard).batches(None, None)) == [3, 9, 27, 14]


@pytest.mark.slow
def test_worker_processes_load_the_same_batches():
    shard = np.arange(20)
    one, two = (
        sample_numbers(DatasetSamples.of(Numbers(30), n).batches(shard, 4, torch.Generator().manual_seed(3)))
        for n in (0, 2)
    )
    assert one == two


class Stream(IterableDataset):
    def __iter__(self):
        yield from range(3)


class Unreadable(Numbers):
    def __getitem__(self, index):
        raise OSError("no such file")


class Wrong(Numbers):
    def __init__(self):
        super().__init__(30)
        self.targets = [0, 1]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "is not data: it must be a pair"),
        ((Numbers(),), "is not data: it must be a pair"),
        ((Stream(), Numbers()), "is not map-style"),
        ((Wrong(), Numbers()), "30 samples but 2 labels"),
        ((Numbers(0), Numbers()), "has a training set without a sample"),
        ((None, Numbers()), "has no training set"),
        ((Numbers(), Numbers(0)), "has a test set without a sample; only a training set is necessary"),
        ((Numbers(), Numbers(0), Numbers()), "has a validation set without a sample"),
        ((Numbers(), None, Numbers(0)), "has a test set without a sample"),
        (LightningDataModule(), "has no train_dataloader"),
        ((Words(["cat", "dog", "cat", "dog"]), Numbers()), "labels that are not numbers, such as .*cat"),
        ((Words([{"box": 1}] * 4), Numbers()), "labels that are not numbers"),
        ((Numbers(), Words([[0], [0, 1], [0], [0]])), "targets that cannot become an array"),
        ((Words(clients=["a", None, "b", "a"]), Numbers()), "client keys that cannot be sorted"),
        ((Words(clients=[["a", "b"]] * 4), Numbers()), "client keys of shape"),
        ((Unreadable(), Numbers()), "cannot read its first sample: OSError: no such file"),
    ],
)
def test_an_object_that_is_not_data_is_refused(given, problem):
    with pytest.raises(ConfigError, match=problem):
        to_data(given, 0)
