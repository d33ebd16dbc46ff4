"""Image data sets: scikit-learn's digits, torchvision's sets and folders."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlit.core.errors import ConfigError
from fedlit.core.files import write_atomic
from fedlit.data.samples import ClientTestSet, Data, Normalise, TensorSamples, Transform

log = logging.getLogger(__name__)

OFFLINE_DATA = "data=digits needs no download, and data=image_folder reads your own files"
EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def digits(mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.5,), augment: Transform | None = None) -> Data:
    """Return scikit-learn's 1,797 handwritten digits, 1 x 8 x 8.

    There are ten classes. Every fifth sample belongs to the test set.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    is_test = torch.arange(len(labels)) % 5 == 4
    train, test = (TensorSamples(images[rows], labels[rows]) for rows in (~is_test, is_test))
    return _make_data("digits", train, test, [str(d) for d in range(10)], mean, std, augment)


def torchvision_images(
    name: str,
    root: str,
    mean: Sequence[float],
    std: Sequence[float],
    download: bool = True,
    augment: Transform | None = None,
    options: Mapping[str, Any] | None = None,
    transpose: bool = False,
) -> Data:
    """Return a data set of torchvision.datasets, such as CIFAR10 or FashionMNIST.

    Args:
        name: class in torchvision.datasets that has `data`, `targets` and `classes`.
        root: folder of torchvision's files.
        mean: mean of each channel, in [0, 1], or one value for all channels.
        std: standard deviation of each channel, in [0, 1], or one value for all channels.
        download: True downloads missing files.
        augment: random transform of a batch of uint8 images in training.
        options: further arguments of the class, such as EMNIST's `split`.
        transpose: True swaps rows and columns: EMNIST's letters lie on their side.

    Raises:
        ConfigError: if the files are missing and cannot be downloaded, or the class does not take the options.
    """
    from torchvision import datasets

    path = Path(root).expanduser().absolute()
    source = partial(getattr(datasets, name), str(path), **(options or {}))
    try:
        try:
            sets = [source(train=train, download=False) for train in (True, False)]
        except RuntimeError:
            if not download:
                raise
            sets = [source(train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:  # no network, no disk space, a bad archive
        target = path / getattr(source.func, "base_folder", f"{name}/raw")
        problem = "cannot be downloaded" if download else "cannot be found"
        why = f"{name} {problem} in {path}: {str(error).strip().splitlines()[-1]}"
        raise ConfigError("root", root, why, f"put the files into {target} yourself; {OFFLINE_DATA}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError("options", options, f"are not arguments of torchvision's {name}: {error}") from error
    train, test = (TensorSamples(_channels_first(part.data, transpose), torch.as_tensor(part.targets)) for part in sets)
    return _make_data(name, train, test, sets[0].classes, mean, std, augment)


def image_folder(
    root: str,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.5,),
    size: int | None = None,
    channels: int | None = None,
    cache: str | None = None,
    augment: Transform | None = None,
) -> Data:
    """Return the images in `root`/train/CLASS and `root`/test/CLASS.

    They are decoded once into memory-mapped arrays. If train has the folders CLIENT/CLASS, they name the clients. Then
    test/CLASS is the test set of all clients, or test/CLIENT/CLASS is that of each client.

    Args:
        root: folder that holds train and test.
        mean: mean of each channel, in [0, 1], or one value for all channels.
        std: standard deviation of each channel, in [0, 1], or one value for all channels.
        size: new height and width of the images; None if all images have the same size.
        channels: 1 converts all images to grey, 3 to RGB; None uses the channels of the first image.
        cache: folder for the decoded arrays; None for `root`/.fedlit, or the user's cache if `root` is read-only.
        augment: random transform of a batch of uint8 images in training.

    Raises:
        ConfigError: if a folder is missing, empty or unreadable, images differ in size, or a grey set has a colour image.
    """
    folder = Path(root).expanduser().absolute()
    train, test = (_list_images(folder / split) for split in ("train", "test"))
    (classes, clients), of_test = ([{image[k] for image in part} for k in (1, 2)] for part in (train, test))
    unknown = ", ".join(sorted(of_test[0] - classes | of_test[1] - clients - {""}))
    if unknown or not train:
        why = f"{folder / 'train'} has no folder for {unknown or 'any class'} with an image in it"
        raise ConfigError("root", root, why, "its subfolders must be CLASS, or CLIENT/CLASS")
    store, parts = _cache_folder(folder, cache), []
    for split, images in (("train", train), ("test", test)):
        x = _decode_cached(folder / split, [path for path, _, _ in images], size, channels, store)
        y = torch.from_numpy(np.searchsorted(sorted(classes), [label for _, label, _ in images]))
        owner = np.searchsorted(sorted(clients), [client for *_, client in images]) if images[0][2] else None
        parts.append(TensorSamples(x, y, owner=owner, clients=0 if owner is None else len(clients)))
    return _make_data(folder.name, parts[0], parts[1], sorted(classes), mean, std, augment)


def _make_data(
    name: str,
    train: TensorSamples,
    test: TensorSamples,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    augment: Transform | None,
) -> Data:
    shape = tuple(train.x[torch.arange(1)].shape[1:])
    prepare = Normalise(*(tuple(values) * (shape[0] if len(values) == 1 else 1) for values in (mean, std)))
    for key, values in (("mean", prepare.mean), ("std", prepare.std)):
        if len(values) != shape[0]:
            raise ConfigError(key, list(values), f"must have one value for each of the {shape[0]} channels")
    if min(std) <= 0:
        raise ConfigError("std", list(std), "must be greater than 0")
    train, test = replace(train, prepare=prepare, augment=augment), replace(test, prepare=prepare)
    clients = test.natural()
    tests = None if clients is None else ClientTestSet(test, clients)
    return Data(name, train, test, shape, tuple(classes), client_tests=tests)


def _channels_first(pixels: Any, transpose: bool) -> Tensor:
    images = torch.as_tensor(pixels)
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
    return (images.mT if transpose else images).contiguous()


def _cache_folder(folder: Path, cache: str | None) -> Path:
    if cache is not None:
        return Path(cache).expanduser().absolute()
    if os.access(folder, os.W_OK) and not (folder / ".fedlit").is_symlink():
        return folder / ".fedlit"
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return home / "fedlit" / hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def _list_images(folder: Path) -> list[tuple[str, str, str]]:
    """Return (path, class, client) of each image; client is '' without clients."""
    if not os.path.isdir(folder):  # false for a name that is too long, too
        hint = "root must hold train/CLASS/IMAGE and test/CLASS/IMAGE, or train/CLIENT/CLASS/IMAGE"
        raise ConfigError("root", folder.parent, f"{folder} is not a folder", hint)
    flat, deep = [], []
    for name, (images, folders) in ((os.path.basename(path), _scan(path)) for path in _scan(folder)[1]):
        flat += [(image, name, "") for image in images]
        deep += [(image, os.path.basename(path), name) for path in folders for image in _scan(path)[0]]
    if flat and deep:
        why = f"holds {flat[0][0]} and, one folder deeper, {deep[0][0]}"
        raise ConfigError("root", folder, why, "put all images into CLASS/, or all into CLIENT/CLASS/")
    return sorted(flat or deep)


def _scan(folder: Path | str) -> tuple[list[str], list[str]]:
    """Return the paths of a folder's images and visible folders."""
    images, folders = [], []
    for entry in os.scandir(folder):
        if entry.is_dir():
            folders += [] if entry.name.startswith(".") else [entry.path]
        elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            images.append(entry.path)
    return images, folders


def _decode_cached(folder: Path, names: list[str], size: int | None, channels: int | None, cache: Path) -> Tensor:
    """Return images (n, c, h, w) from the cache; decode changed files."""
    if not names:
        raise ConfigError("root", folder, "holds no image", f"files must end in {', '.join(sorted(EXTENSIONS))}")
    stamp = hashlib.sha256(repr((size, channels, [(name, *_stat(name)) for name in names])).encode()).hexdigest()
    store, stamp_file = cache / f"{folder.name}.npy", cache / f"{folder.name}.json"
    if not (store.exists() and stamp_file.exists() and json.loads(stamp_file.read_text()) == stamp):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            log.info("decoding %d images of %s once, into %s", len(names), folder, store)
            _decode(names, size, channels, store)
            write_atomic(stamp_file, json.dumps(stamp).encode())
        except PermissionError as error:
            raise ConfigError("cache", cache, f"cannot be written: {error}", "name another folder") from error
    return torch.from_numpy(np.load(store, mmap_mode="c"))


def _stat(name: str) -> tuple[int, int]:
    status = os.stat(name)
    return status.st_size, status.st_mtime_ns


def _decode(names: list[str], size: int | None, channels: int | None, store: Path) -> None:
    """Write the images to `store` as uint8, shape (n, c, h, w)."""
    first = _read_pixels(names[0], size, channels)
    partial = store.with_suffix(f".{os.urandom(8).hex()}.tmp")  # a name that no link can have
    try:
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(names), *first.shape))
        for row, name in enumerate(names):
            image = _read_pixels(name, size, channels)
            if image.shape[0] != first.shape[0]:
                image = _read_pixels(name, size, 3) if first.shape[0] == 3 else image
            if image.shape != first.shape:
                why = f"has the shape {image.shape}, but {names[0]} has {first.shape}"
                raise ConfigError("root", name, why, "data.size=32 resizes all images, data.channels=3 makes all RGB")
            array[row] = image
        array.flush()
        os.replace(partial, store)  # a crash leaves no incomplete array
    finally:
        partial.unlink(missing_ok=True)


def _read_pixels(name: str, size: int | None, channels: int | None) -> np.ndarray:
    """Return an image as uint8, shape (c, h, w)."""
    from PIL import Image

    try:
        with Image.open(name) as image:
            is_grey = image.mode in ("1", "L") if channels is None else channels == 1
            image = image.convert("L" if is_grey else "RGB")
            image = image if size is None else image.resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except OSError as error:  # PIL's UnidentifiedImageError is one
        raise ConfigError("root", name, f"cannot be read as an image: {error}", "remove or repair the file") from error
    return pixels[None] if is_grey else pixels.transpose(2, 0, 1)
