"""Streams of random numbers.

Every random number of an experiment comes from a stream with a name. A stream is keyed by (seed, purpose, round, client, key).
So a round can be repeated, a client can run elsewhere, and two algorithms with the same seed get the same partition, cohorts
and batches. The key is the spawn key of a NumPy `SeedSequence`, which mixes all of its words into 128 bits.
"""

from __future__ import annotations

import operator
import pickle
import random
import struct
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # torch takes seconds to import, and the values of a configuration are checked without it
    import torch


class Purpose(IntEnum):
    """Purpose of a stream.

    A number never changes its meaning, since results depend on the number.
    """

    INIT = 0
    SPLIT = 1
    PARTITION = 2
    COHORT = 3
    LOADER = 4
    MODEL = 5
    EVALUATION = 6
    NOISE = 7
    DATA = 8
    FAULTS = 9
    CLOCK = 10
    CHANNEL = 11
    SUM_NOISE = 12
    COMMON = 13
    BROADCAST = 14
    EXAMPLE_NOISE = 15
    PROJECTION = 16


def sequence(seed: int, purpose: Purpose, round: int = 0, client: int = 0, key: int = 0) -> np.random.SeedSequence:
    """The seed sequence of one stream; arguments are integers >= 0.

    It is `SeedSequence(seed, spawn_key=(purpose, round, client, key))`. NumPy gets the words of both as one array, in a third
    of the time.
    """
    try:
        words = array("I", (*_seed_words(seed), purpose, round, client, key))
    except OverflowError:  # rare: a longer seed or key, or a negative one
        return np.random.SeedSequence(seed, spawn_key=(int(purpose), round, client, key))
    return np.random.SeedSequence(np.frombuffer(words, np.uint32))


@lru_cache(maxsize=None, typed=True)
def _seed_words(seed: int) -> tuple[int, ...]:
    """Return the four 32-bit words of a seed.

    Raises:
        OverflowError: if the seed has more words, or is negative.
    """
    return struct.unpack("<4I", operator.index(seed).to_bytes(16, "little"))


def stream(seed: int, purpose: Purpose, round: int = 0, client: int = 0, key: int = 0) -> np.random.Generator:
    """A NumPy generator for one purpose, round and client."""
    return np.random.Generator(np.random.PCG64(sequence(seed, purpose, round, client, key)))


def bit_stream(seed: int, purpose: Purpose, round: int = 0, client: int = 0, key: int = 0) -> np.random.Generator:
    """A fast NumPy generator for one purpose, round and client.

    It is SFC64, which makes a word in 60 % of the time of the generator of `stream`, and has other random numbers.
    """
    return np.random.Generator(np.random.SFC64(sequence(seed, purpose, round, client, key)))


def torch_stream(
    seed: int, purpose: Purpose, round: int = 0, client: int = 0, key: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A torch generator for one purpose, round and client, on a device."""
    import torch

    return torch.Generator(device).manual_seed(_word(sequence(seed, purpose, round, client, key)))


@contextmanager
def seeded(seed: int, purpose: Purpose, round: int = 0, client: int = 0, key: int = 0) -> Iterator[None]:
    """Seed the global generators for user code, and restore them afterwards.

    The generators are those of torch, NumPy and random.
    """
    import torch

    words = sequence(seed, purpose, round, client, key)
    word = _word(words)
    before = torch.get_rng_state(), random.getstate()
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    with spare_normal_kept(), _other_bits():
        _seed_torch(word)
        np.random.seed(words.generate_state(4))
        random.seed(word)
        try:
            yield
        finally:
            torch.set_rng_state(before[0])
            random.setstate(before[1])
            if gpu is not None:
                torch.cuda.set_rng_state(gpu)


@contextmanager
def spare_normal_kept() -> Iterator[None]:
    """Keep the spare normal number of NumPy's global generator over the block.

    NumPy draws normal numbers in pairs, and the functions of the global generator keep the second one for the next call.
    `seeded` loses it, and to read it takes as long as the rest of `seeded`. So a job keeps it once for all of its clients. Code
    between their fits does not find it. If such code draws numbers, it is not restored.
    """
    global _is_spare_kept
    if _is_spare_kept:
        yield
        return
    state = np.random.get_state(legacy=False)
    bits = pickle.dumps(state["state"]) if state["has_gauss"] else None  # type: ignore[index]
    _is_spare_kept = True
    try:
        yield
    finally:
        _is_spare_kept = False
        if bits is not None and bits == pickle.dumps(np.random.get_state(legacy=False)["state"]):  # type: ignore[index]
            np.random.set_state(state)


_is_spare_kept = False


@contextmanager
def _other_bits() -> Iterator[None]:
    """Let NumPy's global generator use other bits inside the block.

    This takes a hundredth of the time in which its state is read and set. A Generator or RandomState of the user's that was
    made of the global bits before keeps the outer ones.
    """
    numpy: Any = np.random  # NumPy's types lack the two functions
    outer, inner = numpy.get_bit_generator(), _idle_bits.pop() if _idle_bits else np.random.MT19937(0)
    numpy.set_bit_generator(inner)
    try:
        yield
    finally:
        numpy.set_bit_generator(outer)
        _idle_bits.append(inner)


_idle_bits: list[np.random.MT19937] = []


def _seed_torch(word: int) -> None:
    """Seed torch.

    Without a GPU `torch.manual_seed` takes a millisecond and stores each call, so it is avoided.
    """
    import torch

    if _has_accelerator():
        torch.manual_seed(word)
    else:
        torch.default_generator.manual_seed(word)


@cache
def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def _word(words: np.random.SeedSequence) -> int:
    low, high = words.generate_state(2).tolist()
    return high << 32 | low
