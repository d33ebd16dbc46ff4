"""The next character of a play, with each speaker as a client."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedlit.core.errors import ConfigError, raise_errors, require, require_at_least
from fedlit.data.samples import ClientTestSet, Data, TensorSamples


@dataclass(frozen=True)
class Windows:
    """Inputs that overlap: sample i is the ids of `length` characters of a text from `starts[i]` on. The text is held once.

    Args:
        text: ids of characters, shape (characters,).
        starts: where each sample begins, shape (n,).
        length: characters in a sample.
    """

    text: Tensor
    starts: Tensor
    length: int

    def __getitem__(self, index: Tensor) -> Tensor:
        """The samples in `index`, shape (len(index), length), int64."""
        return self.text.unfold(0, self.length, 1)[self.starts[index]].long()

    def index_select(self, dim: int, index: Tensor) -> Windows:
        """The samples in `index` as windows of the same text; named as what does this to a tensor, and `dim` is 0 as there."""
        return replace(self, starts=self.starts.index_select(dim, index))

    def to(self, device: torch.device) -> Windows:
        """The text and the starts on a device."""
        return replace(self, text=self.text.to(device), starts=self.starts.to(device))


def shakespeare(
    path: str | None = None, length: int = 80, stride: int = 1, min_chars: int = 1000, test_fraction: float = 0.2
) -> Data:
    """Characters of a play and the character that follows. The clients are the speakers, in the order of their first speech.

    A speaker's speeches are joined by a newline each. Their first part is for training and the rest is the speaker's own test
    set; no sample crosses the border, or goes from one speaker to the next. Classes are the characters of the whole file.

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017, section 3,
    https://arxiv.org/abs/1602.05629, who split each role's lines in this way, 80 % for training.

    Args:
        path: a text in which the line NAME: begins each speech and an empty line ends it; None takes an excerpt that comes
            with the package. All of tiny Shakespeare has 299 speakers, 141 of them with 1,000 characters or more.
        length: characters in a sample. LEAF's is 80.
        stride: characters from the start of one sample to the start of the next.
        min_chars: characters of a speaker who is a client; others are left out.
        test_fraction: part of each speaker's text, in [0, 1).

    Raises:
        Mistake: if the file cannot be read or nobody says enough in it, or a number is out of range.
    """
    _check(length, stride, min_chars, test_fraction)
    text = _read(path)
    spoken = _kept(speeches(text), path, min_chars)
    vocabulary = np.unique(_codes(text))
    ids = torch.from_numpy(np.searchsorted(vocabulary, _codes("".join(spoken))).astype(np.int32))
    sizes = np.array([len(speech) for speech in spoken])
    ends = np.cumsum(sizes)
    borders = ends - sizes + (sizes * (1 - test_fraction)).astype(np.int64)
    train = _samples(ids, ends - sizes, borders, length, stride)
    test = _samples(ids, borders, ends, length, stride)
    if test_fraction and not len(test):
        raise ConfigError("test_fraction", test_fraction, f"leaves nobody the {length + 1} characters of a test sample")
    own = test.natural() if test_fraction else None
    return Data(
        "Shakespeare",
        train,
        test if test_fraction else None,
        (length,),
        tuple(chr(code) for code in vocabulary),
        client_tests=None if own is None else ClientTestSet(test, own),
    )


def speeches(text: str) -> dict[str, str]:
    """What each speaker says, in the order of their first speech, a newline between two speeches; who says nothing is left out.

    A paragraph that does not begin with a name goes on with the speech before it.
    """
    said: dict[str, list[str]] = {}
    speaker = ""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        first, _, rest = paragraph.partition("\n")
        if first.endswith(":"):
            speaker = first.removesuffix(":")
        else:
            rest = paragraph
        if speaker and rest:
            said.setdefault(speaker, []).append(rest)
    return {speaker: "\n".join(parts) for speaker, parts in said.items()}


def _check(length: int, stride: int, min_chars: int, test_fraction: float) -> None:
    raise_errors(
        require_at_least("length", length),
        require_at_least("stride", stride),
        require(0 <= test_fraction < 1, "test_fraction", test_fraction, "must be at least 0 and below 1"),
    )
    left = int(min_chars * (1 - test_fraction))
    why = f"leaves {left} characters of a speaker for training, and a sample of length={length} takes {length + 1}"
    raise_errors(require(left > length, "min_chars", min_chars, why, "take more, or shorter samples"))


def _read(path: str | None) -> str:
    excerpt = files("fedlit.data.sources") / "files" / "shakespeare" / "excerpt.txt"
    source = excerpt if path is None else Path(path).expanduser().absolute()
    try:
        return source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "path", path, f"cannot be read: {error}", "path=null takes the excerpt that comes with fedlit"
        ) from error


def _kept(said: dict[str, str], path: str | None, min_chars: int) -> list[str]:
    if not said:
        raise ConfigError(
            "path", path, "has no speech", "a speech begins with a line NAME: and ends with an empty line"
        )
    kept = [speech for speech in said.values() if len(speech) >= min_chars]
    if not kept:
        most = max(len(speech) for speech in said.values())
        raise ConfigError("min_chars", min_chars, f"is more than anyone says: at most {most} characters")
    return kept


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _samples(ids: Tensor, firsts: np.ndarray, lasts: np.ndarray, length: int, stride: int) -> TensorSamples:
    """The samples of each client, whose text is ids[firsts[k]:lasts[k]]."""
    begins = [np.arange(first, last - length, stride) for first, last in zip(firsts, lasts, strict=True)]
    starts = torch.from_numpy(np.concatenate(begins))
    owner = np.repeat(np.arange(len(begins)), [len(each) for each in begins])
    return TensorSamples(Windows(ids, starts, length), ids[starts + length].long(), owner=owner, clients=len(begins))
