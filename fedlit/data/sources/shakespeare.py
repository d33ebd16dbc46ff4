"""The next character of a play, with each speaker as a client."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedlit.core.errors import ConfigError, raise_errors, require, require_at_least
from fedlit.data.samples import ClientTestSet, Data, TensorSamples


@dataclass(frozen=True)
class Windows:
    """Overlapping inputs that share one text: sample i is `text[starts[i]:starts[i] + length]`.

    Args:
        text: ids of characters, shape (characters,).
        starts: position of each sample's first character, shape (n,).
        length: characters in a sample.
    """

    text: Tensor
    starts: Tensor
    length: int
    is_in_memory: ClassVar[bool] = True

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return the samples in `index`, shape (len(index), length), int64."""
        return self.text.unfold(0, self.length, 1).index_select(0, self.starts[index]).long()

    def index_select(self, dim: int, index: Tensor) -> Windows:
        """Return the samples in `index` as windows of the same text."""
        return replace(self, starts=self.starts.index_select(dim, index))

    def to(self, device: torch.device) -> Windows:
        """Return the windows on a device."""
        return replace(self, text=self.text.to(device), starts=self.starts.to(device))


def shakespeare(
    path: str | None = None, length: int = 80, stride: int = 1, min_chars: int = 1000, test_fraction: float = 0.2
) -> Data:
    """Return samples of a play: some characters, and the character that follows.

    The clients are the speakers, in the order of their first speech. A speaker's speeches are joined by newlines. Their first
    part is for training, and the rest is the speaker's own test set. No sample crosses the border between the parts or between
    two speakers. Classes are the characters of the whole file.

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017, section 3,
    https://arxiv.org/abs/1602.05629. The authors split each role's lines in this way, 80 % for training.

    Args:
        path: text file in which the line NAME: begins each speech and an empty line ends it; None for the excerpt that comes
            with the package. All of tiny Shakespeare has 299 speakers, 141 of them with 1,000 characters or more.
        length: characters in a sample. LEAF's is 80.
        stride: characters from the start of one sample to the start of the next.
        min_chars: smallest number of characters of a client; speakers with fewer are left out.
        test_fraction: part of each speaker's text for its test set, in [0, 1).

    Raises:
        ConfigError: if the file cannot be read, no speaker has enough characters, or a number is out of range.
    """
    _check_args(length, stride, min_chars, test_fraction)
    text = _read_text(path)
    texts = _long_enough(speeches(text), path, min_chars)
    vocabulary = np.unique(_codes(text))
    ids = torch.from_numpy(np.searchsorted(vocabulary, _codes("".join(texts))).astype(np.int32))
    sizes = np.array([len(speech) for speech in texts])
    ends = np.cumsum(sizes)
    borders = ends - sizes + (sizes * (1 - test_fraction)).astype(np.int64)
    train = _samples(ids, ends - sizes, borders, length, stride)
    test = _samples(ids, borders, ends, length, stride)
    if test_fraction and not len(test):
        why = f"leaves no speaker the {length + 1} characters of a test sample"
        raise ConfigError("test_fraction", test_fraction, why, "use a larger fraction, or shorter samples")
    clients = test.natural() if test_fraction else None
    return Data(
        "Shakespeare",
        train,
        test if test_fraction else None,
        (length,),
        tuple(chr(code) for code in vocabulary),
        client_tests=None if clients is None else ClientTestSet(test, clients),
    )


def speeches(text: str) -> dict[str, str]:
    """Return each speaker's text, with a newline between two speeches.

    Speakers are in the order of their first speech. Speakers without text are left out. A paragraph that does not begin with a
    name continues the speech before it.
    """
    parts: dict[str, list[str]] = {}
    speaker = ""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        first, _, rest = paragraph.partition("\n")
        if first.endswith(":"):
            speaker = first.removesuffix(":")
        else:
            rest = paragraph
        if speaker and rest:
            parts.setdefault(speaker, []).append(rest)
    return {speaker: "\n".join(paragraphs) for speaker, paragraphs in parts.items()}


def _check_args(length: int, stride: int, min_chars: int, test_fraction: float) -> None:
    raise_errors(
        require_at_least("length", length),
        require_at_least("stride", stride),
        require(0 <= test_fraction < 1, "test_fraction", test_fraction, "must be at least 0 and below 1"),
    )
    remaining = int(min_chars * (1 - test_fraction))
    why = f"leaves {remaining} characters of a speaker for training, but a sample of length={length} needs {length + 1}"
    raise_errors(require(remaining > length, "min_chars", min_chars, why, "use a larger number, or shorter samples"))


def _read_text(path: str | None) -> str:
    excerpt = files("fedlit.data.sources") / "files" / "shakespeare" / "excerpt.txt"
    source = excerpt if path is None else Path(path).expanduser().absolute()
    try:
        return source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "path=null uses the excerpt that comes with fedlit"
        raise ConfigError("path", path, f"cannot be read: {error}", hint) from error


def _long_enough(texts: dict[str, str], path: str | None, min_chars: int) -> list[str]:
    """Return the texts with at least `min_chars` characters."""
    if not texts:
        hint = "a speech begins with a line NAME: and ends with an empty line"
        raise ConfigError("path", path, "has no speech", hint)
    long_enough = [text for text in texts.values() if len(text) >= min_chars]
    if not long_enough:
        longest = max(len(text) for text in texts.values())
        raise ConfigError("min_chars", min_chars, f"must be at most {longest}, the characters of the longest speaker")
    return long_enough


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _samples(ids: Tensor, firsts: np.ndarray, lasts: np.ndarray, length: int, stride: int) -> TensorSamples:
    """Return the samples of all clients; client k has ids[firsts[k]:lasts[k]]."""
    begins = [np.arange(first, last - length, stride) for first, last in zip(firsts, lasts, strict=True)]
    starts = torch.from_numpy(np.concatenate(begins))
    owner = np.repeat(np.arange(len(begins)), [len(client) for client in begins])
    return TensorSamples(Windows(ids, starts, length), ids[starts + length].long(), owner=owner, clients=len(begins))
