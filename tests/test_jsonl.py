import json

import pytest

from fedlit.jsonl import json_line


def test_what_is_no_number_is_null_at_any_depth():
    text = json_line({"a": float("nan"), "b": [1.5, (float("inf"),)], "c": {"d": -float("inf"), "e": True}})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [1.5, [None]], "c": {"d": None, "e": True}}


def test_what_json_has_is_as_json_writes_it():
    value = {"round": 1, "loss": 0.1, "lost": False, "names": ["a"], "none": None}
    assert json_line(value) == json.dumps(value)
    assert json_line(value, indent=2) == json.dumps(value, indent=2)
