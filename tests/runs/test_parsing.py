"""Small files are read within bounds, whatever they are."""

import os

import pytest

from fedlit.runs import parsing
from fedlit.runs.parsing import read_json, read_yaml


def written(tmp_path, text):
    path = tmp_path / "file"
    path.write_text(text)
    return path


def test_plain_values_are_read(tmp_path):
    assert read_yaml(written(tmp_path, "a: [1, 2.5, null, true, x]")) == {"a": [1, 2.5, None, True, "x"]}
    assert read_json(written(tmp_path, '{"a": [1, null]}')) == {"a": [1, None]}


def test_aliases_count_once_for_each_use(tmp_path):
    text = "\n".join(["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 100))])
    with pytest.raises(ValueError, match="more than 200,000 values"):
        read_yaml(written(tmp_path, text))
    assert read_yaml(written(tmp_path, "a: &a [1, 2]\nb: *a\nc: *a")) == {"a": [1, 2], "b": [1, 2], "c": [1, 2]}


def test_a_value_that_contains_itself_is_an_error(tmp_path):
    for text in ("a: &a {b: *a}", "&a [*a]", "a: &a [{b: [*a]}]"):
        with pytest.raises(ValueError, match="recursion"):
            read_yaml(written(tmp_path, text))


def test_a_large_file_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(parsing, "MAX_BYTES", 10)
    assert read_json(written(tmp_path, "[1, 2, 34]")) == [1, 2, 34]
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        read_json(written(tmp_path, "[1, 2, 345]"))


def test_what_is_no_file_is_an_error_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="is not a file"):
            read_json(path)
    with pytest.raises(OSError, match="directory"):
        read_json(tmp_path)
