import json

import pytest

from fedlit.core.files import read_json_lines, to_json


def test_nan_and_infinity_become_null_at_any_depth():
    text = to_json({"a": float("nan"), "b": [1.5, (float("inf"),)], "c": {"d": -float("inf"), "e": True}})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [1.5, [None]], "c": {"d": None, "e": True}}


def test_other_values_are_written_as_json_writes_them():
    value = {"round": 1, "loss": 0.1, "lost": False, "names": ["a"], "none": None}
    assert to_json(value) == json.dumps(value)
    assert to_json(value, indent=2) == json.dumps(value, indent=2)


def test_json_lines_are_read_without_a_truncated_last_line(tmp_path):
    path = tmp_path / "rounds.jsonl"
    path.write_text('{"round": 1}\n{"round": 2}\n')
    assert read_json_lines(path) == ([{"round": 1}, {"round": 2}], False)
    path.write_text('{"round": 1}\n{"rou')
    assert read_json_lines(path) == ([{"round": 1}], True)
    path.write_text('{"rou\n{"round": 2}\n')
    with pytest.raises(ValueError, match="line 1"):
        read_json_lines(path)
