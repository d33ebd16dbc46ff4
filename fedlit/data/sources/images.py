"""Image data sets, held as uint8 tensors: scikit-learn's digits, torchvision's, and folders of classes and of clients."""

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
from fedlit.data.samples import ClientTestSet, Data, Normalise, TensorSamples, Transform

log = logging.getLogger(__name__)

NO_NETWORK = "data=digits needs no download, and data=image_folder reads your own files"
EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def digits(mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.5,), augment: Transform | None = None) -> Data:
    """scikit-learn's 1,797 handwritten digits, 1 x 8 x 8, ten classes; every fifth sample is the test set."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    fifth = torch.arange(len(labels)) % 5 == 4
    train, test = (TensorSamples(images[rows], labels[rows]) for rows in (~fifth, fifth))
    return _data("digits", train, test, [str(d) for d in range(10)], mean, std, augment)


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
    """A data set of torchvision.datasets that has `data`, `targets` and `classes`, such as CIFAR10 or FashionMNIST.

    Args:
        name: class in torchvision.datasets.
        root: folder in which torchvision finds the files, or puts them.
        mean, std: for each channel, in [0, 1]; one value serves all channels.
        download: fetch the files when they are not there.
        augment: random transform on a batch of uint8 images while training.
        options: further arguments of the class, such as EMNIST's `split`.
        transpose: swap rows and columns: EMNIST's letters lie on their side.

    Raises:
        Mistake: if the files are neither there nor to be had, or the class does not take the options.
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
    except (OSError, RuntimeError) as error:  # no network, no room, a bad archive
        where = path / getattr(source.func, "base_folder", f"{name}/raw")
        why = str(error).strip().splitlines()[-1]
        tried = f"{'downloaded' if download else 'looked for'} {name} in {path}, and failed: {why}"
        raise ConfigError("root", root, tried, f"put the set's files into {where} by hand; {NO_NETWORK}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError("options", options, f"are not what torchvision's {name} takes: {error}") from error
    train, test = (TensorSamples(_channels_first(part.data, transpose), torch.as_tensor(part.targets)) for part in sets)
    return _data(name, train, test, sets[0].classes, mean, std, augment)


def image_folder(
    root: str,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.5,),
    size: int | None = None,
    channels: int | None = None,
    cache: str | None = None,
    augment: Transform | None = None,
) -> Data:
    """Images in `root`/train/CLASS and `root`/test/CLASS, decoded once into memory-mapped arrays.

    If the folders in train hold folders with images, they are the clients: train/CLIENT/CLASS. Then test/CLASS is for all, and
    test/CLIENT/CLASS is each client's own.

    Args:
        root: the folder that holds train and test.
        mean, std: for each channel, in [0, 1]; one value serves all channels.
        size: height and width that images are resized to; None where all have the same size already.
        channels: 1 makes all images grey, 3 makes all RGB; None takes what the first image has.
        cache: folder for the decoded arrays; None is `root`/.fedlit, or one of the user's cache if that cannot be written.
        augment: random transform on a batch of uint8 images while training.

    Raises:
        Mistake: if a folder is missing, empty or unreadable, or images differ in size, or a grey set has a coloured one.
    """
    folder = Path(root).expanduser().absolute()
    train, test = (_listed(folder / split) for split in ("train", "test"))
    classes, clients, tested, testing = ({image[k] for image in images} for images in (train, test) for k in (1, 2))
    odd = ", ".join(sorted(tested - classes | testing - clients - {""}))
    if odd or not train:
        has = f"{folder / 'train'} has no folder for {odd or 'any class'} with an image in it"
        raise ConfigError("root", root, has, "classes are its subfolders, or those of its clients")
    store, parts = _cache_folder(folder, cache), []
    for split, images in (("train", train), ("test", test)):
        x = _decoded(folder / split, [path for path, _, _ in images], size, channels, store)
        y = torch.from_numpy(np.searchsorted(sorted(classes), [label for _, label, _ in images]))
        owner = np.searchsorted(sorted(clients), [client for *_, client in images]) if images[0][2] else None
        parts.append(TensorSamples(x, y, owner=owner, clients=0 if owner is None else len(clients)))
    return _data(folder.name, parts[0], parts[1], sorted(classes), mean, std, augment)


def _data(
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
        raise ConfigError("std", list(std), "must be above 0")
    train, test = replace(train, prepare=prepare, augment=augment), replace(test, prepare=prepare)
    own = test.natural()
    return Data(
        name, train, test, shape, tuple(classes), client_tests=None if own is None else ClientTestSet(test, own)
    )


def _channels_first(pixels: Any, transpose: bool) -> Tensor:
    images = torch.as_tensor(pixels)
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
    return (images.mT if transpose else images).contiguous()


def _cache_folder(folder: Path, cache: str | None) -> Path:
    if cache is not None:
        return Path(cache).expanduser().absolute()
    if os.access(folder, os.W_OK):
        return folder / ".fedlit"
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return home / "fedlit" / hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def _listed(folder: Path) -> list[tuple[str, str, str]]:
    """(path, class, client) of the images in CLASS/IMAGE, where the client is empty, or in CLIENT/CLASS/IMAGE; by path."""
    if not folder.is_dir():
        needed = "root must hold train/CLASS/IMAGE and test/CLASS/IMAGE, or train/CLIENT/CLASS/IMAGE"
        raise ConfigError("root", folder.parent, f"{folder} is not a folder", needed)
    flat, deep = [], []
    for name, (images, folders) in ((os.path.basename(path), _scan(path)) for path in _scan(folder)[1]):
        flat += [(image, name, "") for image in images]
        deep += [(image, os.path.basename(path), name) for path in folders for image in _scan(path)[0]]
    if flat and deep:
        both = f"holds {flat[0][0]} and, a folder deeper, {deep[0][0]}"
        raise ConfigError("root", folder, both, "images must all lie in CLASS/, or all in CLIENT/CLASS/")
    return sorted(flat or deep)


def _scan(folder: Path | str) -> tuple[list[str], list[str]]:
    """Paths of the images in a folder, and of the folders, without hidden ones."""
    images, folders = [], []
    for entry in os.scandir(folder):
        if entry.is_dir():
            folders += [] if entry.name.startswith(".") else [entry.path]
        elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            images.append(entry.path)
    return images, folders


def _decoded(folder: Path, names: list[str], size: int | None, channels: int | None, cache: Path) -> Tensor:
    """Images (n, c, h, w); decoded again when a file's name, length or time has changed."""
    if not names:
        raise ConfigError("root", folder, "holds no image", f"files must end in {', '.join(sorted(EXTENSIONS))}")
    stamp = hashlib.sha256(repr((size, channels, [(name, *_stat(name)) for name in names])).encode()).hexdigest()
    store, note = cache / f"{folder.name}.npy", cache / f"{folder.name}.json"
    if not (store.exists() and note.exists() and json.loads(note.read_text()) == stamp):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            log.info("decoding %d images of %s, once, into %s", len(names), folder, store)
            _decode(names, size, channels, store)
            note.write_text(json.dumps(stamp))
        except PermissionError as error:
            why = f"cannot be written: {error}"
            raise ConfigError("cache", cache, why, "name another folder for the decoded images") from error
    return torch.from_numpy(np.load(store, mmap_mode="c"))


def _stat(name: str) -> tuple[int, int]:
    status = os.stat(name)
    return status.st_size, status.st_mtime_ns


def _decode(names: list[str], size: int | None, channels: int | None, store: Path) -> None:
    """Writes the images as one uint8 array (n, c, h, w) to a file that takes the place of `store` when it is whole."""
    first = _pixels(names[0], size, channels)
    partial = store.with_suffix(f".{os.getpid()}.tmp")
    try:
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(names), *first.shape))
        for row, name in enumerate(names):
            image = _pixels(name, size, channels)
            if image.shape[0] != first.shape[0]:
                image = _pixels(name, size, 3) if first.shape[0] == 3 else image
            if image.shape != first.shape:
                raise ConfigError(
                    "root",
                    name,
                    f"has the shape {image.shape}, but {names[0]} has {first.shape}",
                    "data.size=32 resizes all images, data.channels=3 makes all RGB",
                )
            array[row] = image
        array.flush()
        os.replace(partial, store)
    finally:
        partial.unlink(missing_ok=True)


def _pixels(name: str, size: int | None, channels: int | None) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(name) as image:
            grey = image.mode in ("1", "L") if channels is None else channels == 1
            image = image.convert("L" if grey else "RGB")
            if size is not None:
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except OSError as error:  # PIL's UnidentifiedImageError is one
        raise ConfigError(
            "root", name, f"cannot be read as an image: {error}", "remove the file or repair it"
        ) from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)
