import os
import shutil
import struct

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from fedlit.cli.command_line import config_dir
from fedlit.core.errors import ConfigError
from fedlit.data import Natural, digits, image_folder, torchvision_images


def write(folder, split, name, count, colour=(200, 0, 0), size=8, mode="RGB"):
    path = folder / split / name
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new(mode, (size, size), colour).save(path / f"{number}.png")


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        write(tmp_path, split, "red", count, (200, 0, 0))
        write(tmp_path, split, "blue", count, (0, 0, 100))
    return tmp_path


def test_digits_hold_a_fixed_fifth_for_the_test_set():
    data = digits()
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert data.shape == (1, 8, 8)
    assert data.train.x.dtype == torch.uint8
    assert (int(data.train.x.min()), int(data.train.x.max())) == (0, 255)
    assert torch.equal(digits().test.y, data.test.y)
    assert torch.bincount(data.test.y).min() > 20


def test_only_the_training_set_is_augmented():
    data = digits(augment=torch.neg)
    assert (data.train.augment, data.test.augment) == (torch.neg, None)


def test_a_folder_is_decoded_to_its_pixels_and_labels(folder):
    data = image_folder(str(folder))
    assert data.classes == ("blue", "red")
    assert data.shape == (3, 8, 8)
    assert data.train.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train.x[3, :, 0, 0].tolist() == [200, 0, 0]
    assert len(data.test) == 4


def test_the_second_start_decodes_only_changed_files(folder, monkeypatch):
    image_folder(str(folder))
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("decoded again"))
    assert len(image_folder(str(folder)).train) == 6
    monkeypatch.undo()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "train" / "red" / "0.png")
    os.utime(folder / "train" / "red" / "0.png", ns=(1, 1))
    assert image_folder(str(folder)).train.x[3, :, 0, 0].tolist() == [1, 2, 3]


def test_images_can_be_resized_and_made_grey(folder):
    write(folder, "train", "red", 5, size=16)
    data = image_folder(str(folder), size=4, channels=1)
    assert data.shape == (1, 4, 4)


def test_another_cache_leaves_the_folder_unchanged(folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    image_folder(str(folder), cache=str(cache))
    assert not (folder / ".fedlit").exists()
    assert {path.name for path in cache.iterdir()} == {"train.npy", "train.json", "test.npy", "test.json"}


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda f: os.rename(f / "test", f / "tset"), "test is not a folder"),
        (lambda f: write(f, "train", "red", 4, size=16), "has the shape"),
        (lambda f: (f / "train" / "red" / "0.png").write_bytes(b"no image"), "cannot be read as an image"),
        (lambda f: write(f, "test", "green", 1), "no folder for green"),
        (lambda f: [p.unlink() for p in (f / "test").rglob("*.png")], "holds no image"),
        (lambda f: [p.unlink() for p in (f / "train").rglob("*.png")], "no folder for blue, red with"),
        (lambda f: write(f, "train/ann", "red", 1), r"0\.png and, one folder deeper, .*ann/red/0\.png"),
        (
            lambda f: [write(f, "test/ann", "red", 1), *map(shutil.rmtree, (f / "test").glob("[rb]*"))],
            "no folder for ann",
        ),
    ],
)
def test_an_error_in_a_folder_is_reported(folder, spoil, problem):
    spoil(folder)
    with pytest.raises(ConfigError, match=problem):
        image_folder(str(folder))
    assert not list(folder.rglob("*.tmp"))


def test_a_colour_image_among_grey_images_is_refused(tmp_path):
    for split in ("train", "test"):
        write(tmp_path, split, "a", 1, 10, mode="L")
        write(tmp_path, split, "b", 1)
    with pytest.raises(ConfigError, match=r"data\.channels=3"):
        image_folder(str(tmp_path))
    assert image_folder(str(tmp_path), channels=3).shape == (3, 8, 8)


@pytest.fixture
def clients(tmp_path):
    """A folder of two clients: Bob and Ann."""
    write(tmp_path, "train/bob", "red", 1, (200, 0, 0))
    write(tmp_path, "train/ann", "red", 3, (100, 0, 0))
    write(tmp_path, "train/ann", "blue", 2, (0, 0, 100))
    return tmp_path


def test_folders_of_folders_with_images_are_clients(clients):
    write(clients, "test", "blue", 2, (0, 0, 50))
    data = image_folder(str(clients))
    assert data.classes == ("blue", "red")
    assert data.train.y.tolist() == [0, 0, 1, 1, 1, 1]
    assert data.train.owner.tolist() == [0, 0, 0, 0, 0, 1]
    assert data.train.x[:, 0, 0, 0].tolist() == [0, 0, 100, 100, 100, 200]
    assert Natural()(data.train, np.random.default_rng(0)).sizes.tolist() == [5, 1]
    assert (data.client_tests, data.test.natural()) == (None, None)


def test_test_images_of_a_client_are_its_own_test_set(clients):
    write(clients, "test/bob", "red", 2)
    write(clients, "test/bob", "blue", 1)
    data = image_folder(str(clients))
    assert len(data.test) == 3
    assert data.client_tests.samples is data.test
    assert data.client_tests.population.sizes.tolist() == [0, 3]
    assert data.test.y[data.client_tests.population.shard(1)].tolist() == [0, 1, 1]
    assert data.test.prepare is data.train.prepare


def test_the_second_start_of_a_folder_of_clients_decodes_nothing(clients, monkeypatch):
    write(clients, "test", "red", 1)
    first = image_folder(str(clients))
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("decoded again"))
    second = image_folder(str(clients))
    assert torch.equal(first.train.x, second.train.x)
    assert np.array_equal(first.train.owner, second.train.owner)


def test_hidden_folders_are_ignored(folder):
    write(folder, "train", ".thumbnails", 1)
    write(folder, "train/red", ".thumbnails", 1)
    data = image_folder(str(folder))
    assert data.classes == ("blue", "red")
    assert data.train.owner is None
    assert len(data.train) == 6


def idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )


def test_torchvisions_files_are_read_without_a_download(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    for split in ("train", "t10k"):
        idx(raw / f"{split}-images-idx3-ubyte", images)
        idx(raw / f"{split}-labels-idx1-ubyte", np.arange(6, dtype=np.uint8))
    data = torchvision_images("FashionMNIST", str(tmp_path), [0.5], [0.5], download=False)
    assert data.shape == (1, 28, 28)
    assert torch.equal(data.train.x[:, 0], torch.from_numpy(images))
    assert data.train.y.tolist() == list(range(6))
    assert data.classes[0] == "T-shirt/top"


def emnist(root, images):
    for split in ("train", "test"):
        idx(root / "EMNIST" / "raw" / f"emnist-balanced-{split}-images-idx3-ubyte", images)
        idx(root / "EMNIST" / "raw" / f"emnist-balanced-{split}-labels-idx1-ubyte", np.arange(6, dtype=np.uint8) + 9)


def test_emnists_letters_are_upright(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    emnist(tmp_path, images)
    config = OmegaConf.to_container(OmegaConf.load(config_dir() / "data" / "emnist.yaml"))
    assert (config["options"], config["transpose"]) == ({"split": "balanced"}, True)
    data = torchvision_images("EMNIST", str(tmp_path), [0.5], [0.5], options={"split": "balanced"}, transpose=True)
    assert data.shape == (1, 28, 28)
    assert torch.equal(data.train.x[:, 0], torch.from_numpy(images).transpose(1, 2))
    assert data.train.x.is_contiguous()
    assert data.train.y.tolist() == list(range(9, 15))
    assert (len(data.classes), data.classes[9:12]) == (47, ("9", "A", "B"))
    sideways = torchvision_images("EMNIST", str(tmp_path), [0.5], [0.5], options={"split": "balanced"})
    assert torch.equal(sideways.train.x[:, 0], torch.from_numpy(images))


@pytest.mark.parametrize("options", [{"split": "balance"}, {"part": "balanced"}, None])
def test_options_that_the_class_refuses_are_named(tmp_path, options):
    with pytest.raises(ConfigError, match=r"split|part") as error:
        torchvision_images("EMNIST", str(tmp_path), [0.5], [0.5], download=False, options=options)
    assert error.value.key == "options"


@pytest.mark.parametrize(
    ("name", "folder", "options"),
    [
        ("CIFAR10", "cifar-10-batches-py", None),
        ("MNIST", "MNIST/raw", None),
        ("EMNIST", "EMNIST/raw", {"split": "balanced"}),
    ],
)
def test_without_files_and_network_the_error_names_the_folder_for_the_files(
    tmp_path, name, folder, options, monkeypatch
):
    import torchvision.datasets as sets

    def refuse(*_, **__):
        raise OSError("no network")

    for module in (sets.cifar, sets.mnist):
        for function in ("download_and_extract_archive",):
            monkeypatch.setattr(module, function, refuse)
    with pytest.raises(ConfigError) as error:
        torchvision_images(name, str(tmp_path), [0.5] * 3, [0.5] * 3, options=options)
    text = str(error.value)
    assert str(tmp_path / folder) in text
    assert "downloaded" in text
    assert "data=digits" in text


def test_mean_needs_one_value_for_each_channel(folder):
    with pytest.raises(ConfigError, match="3 channels"):
        image_folder(str(folder), mean=[0.5, 0.5])
    assert image_folder(str(folder), mean=[0.25]).train.prepare.mean == (0.25,) * 3
