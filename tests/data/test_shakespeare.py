import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fedlit.core.errors import ConfigError
from fedlit.data import Natural
from fedlit.data.sources.shakespeare import Windows, shakespeare, speeches

PLAY = """ANNE:
abcdefgh

BOB:
no

ANNE:
ijk:
lm

GHOST:

CLEO:
zyxwvutsrqponm
"""


@pytest.fixture
def play(tmp_path):
    (tmp_path / "play.txt").write_text(PLAY)
    return str(tmp_path / "play.txt")


def read(data, samples, row):
    """Return a sample as (text, next character)."""
    (ids,) = samples.x[torch.tensor([row])]
    return "".join(data.classes[id] for id in ids), data.classes[samples.y[row]]


def test_speeches_are_joined_by_speaker_in_their_order():
    assert speeches(PLAY) == {"ANNE": "abcdefgh\nijk:\nlm", "BOB": "no", "CLEO": "zyxwvutsrqponm"}


def test_a_paragraph_without_a_name_continues_the_speech():
    assert speeches("Prologue\n\nA:\none\n\ntwo\n") == {"A": "one\ntwo"}


def test_a_sample_is_a_text_and_the_character_after_it(play):
    data = shakespeare(play, length=3, min_chars=10, test_fraction=0.25)
    assert data.shape == (3,)
    assert data.classes == tuple(sorted(set(PLAY)))
    assert read(data, data.train, 0) == ("abc", "d")
    assert read(data, data.train, 1) == ("bcd", "e")
    ((x, y),) = data.train.batches(np.array([1, 0]), None)
    assert (x.dtype, y.dtype, x.shape) == (torch.int64, torch.int64, (2, 3))
    assert [data.classes[id] for id in y] == ["e", "d"]


def test_speakers_with_enough_characters_are_the_clients(play):
    data = shakespeare(play, length=3, min_chars=10, test_fraction=0.0)
    # 16 and 14 characters; a sample needs 4
    assert Natural()(data.train, np.random.default_rng(0)).sizes.tolist() == [13, 11]
    assert data.test is None
    assert data.client_tests is None


def test_no_sample_crosses_the_border_to_the_test_set_or_another_speaker(play):
    data = shakespeare(play, length=3, min_chars=10, test_fraction=0.4)
    train, test = (["".join(read(data, part, row)) for row in range(len(part))] for part in (data.train, data.test))
    assert train == ["abcd", "bcde", "cdef", "defg", "efgh", "fgh\n", "zyxw", "yxwv", "xwvu", "wvut", "vuts"]
    assert test == ["ijk:", "jk:\n", "k:\nl", ":\nlm", "rqpo", "qpon", "ponm"]
    assert data.client_tests.population.sizes.tolist() == [4, 3]
    assert data.client_tests.samples is data.test


def test_the_stride_is_from_start_to_start(play):
    data = shakespeare(play, length=3, stride=4, min_chars=10, test_fraction=0.0)
    texts = [read(data, data.train, row)[0] for row in range(len(data.train))]
    assert texts == ["abc", "efg", "\nij", ":\nl", "zyx", "vut", "rqp"]


def test_subsets_of_windows_share_one_text():
    windows = Windows(torch.arange(1000, dtype=torch.int32), torch.arange(0, 900, 10), 80)
    subset = windows.index_select(0, torch.tensor([3, 1]))
    assert subset.text is windows.text
    assert torch.equal(subset[torch.tensor([1])], torch.arange(10, 90)[None])
    assert torch.equal(windows[torch.tensor([3, 1])], subset[torch.arange(2)])
    moved = windows.to(torch.device("meta"))
    assert {moved.text.device.type, moved.starts.device.type} == {"meta"}


def test_a_validation_set_can_be_held_out(play):
    data = shakespeare(play, length=3, min_chars=10).hold_out(0.3, np.random.default_rng(0))
    assert (len(data.val), len(data.train)) == (5, 12)
    assert all(batch.shape[1] == 3 for batch, _ in data.val.batches(None, 2))
    assert Natural()(data.train, np.random.default_rng(0)).samples == 12


def test_an_excerpt_comes_with_the_package():
    data = shakespeare(min_chars=500)
    assert data.train.clients == 9
    assert data.client_tests.population.sizes.min() > 0
    first = "Before we proceed any further, hear me speak.\nYou are all resolved rather to die"
    assert read(data, data.train, 0) == (first, " ")


def test_all_of_tiny_shakespeare_has_141_clients():
    path = os.environ.get("FEDLIT_SHAKESPEARE")
    if not path:
        pytest.skip("FEDLIT_SHAKESPEARE does not name a file of tiny Shakespeare")
    assert len(speeches(Path(path).read_text())) == 299
    data = shakespeare(path)
    assert (data.train.clients, len(data.classes)) == (141, 65)
    assert (len(data.train), len(data.test)) == (769728, 184044)


@pytest.mark.parametrize(
    ("key", "arguments"),
    [
        ("length", {"length": 0}),
        ("stride", {"stride": 0}),
        ("min_chars", {"min_chars": 20}),  # more than any speaker has
        ("min_chars", {"min_chars": 4}),  # leaves three characters for training
        ("test_fraction", {"test_fraction": 1.0}),
        ("test_fraction", {"test_fraction": 0.1}),  # two characters
    ],
)
def test_wrong_values_are_named(play, key, arguments):
    with pytest.raises(ConfigError) as error:
        shakespeare(play, **{"length": 3, "min_chars": 10, **arguments})
    assert error.value.key == key


def test_a_missing_file_and_a_file_without_speeches_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        shakespeare(str(tmp_path / "none.txt"))
    (tmp_path / "prose.txt").write_text("Once upon a time.\n")
    with pytest.raises(ConfigError, match="NAME:"):
        shakespeare(str(tmp_path / "prose.txt"))
