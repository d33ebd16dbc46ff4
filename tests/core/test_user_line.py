"""Exceptions of user code: class, message, and the user's line."""

import importlib
import sys

import numpy as np
import pytest
import torch

from fedlit.core.errors import describe_exception, did_you_mean


@pytest.fixture
def raised(tmp_path, monkeypatch):
    """The description of the exception that a file of user code raises while it is imported."""

    def describe(text):
        (tmp_path / "user_code.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.chdir(tmp_path)
        monkeypatch.delitem(sys.modules, "user_code", raising=False)
        with pytest.raises(Exception) as error:  # noqa: PT011 - any, that is the test
            importlib.import_module("user_code")
        return describe_exception(error.value.with_traceback(error.value.__traceback__.tb_next))

    return describe


def test_the_users_line_is_the_innermost_one_outside_libraries(raised):
    text = "import torch\ndef f(x):\n    return torch.nn.Linear(2, 3)(x)\nf(torch.ones(5))\n"
    first, second = raised(text).splitlines()
    assert first.startswith("RuntimeError: ")
    assert second == "at user_code.py:3 in f: return torch.nn.Linear(2, 3)(x)"


def test_a_syntax_error_names_its_own_line(raised):
    assert raised("a = 1\nx = = 1\n") == "SyntaxError: invalid syntax\nat user_code.py:2: x = = 1"


def test_a_long_message_of_many_lines_is_one_line_of_400_characters(raised):
    first, second = raised("raise ValueError('word\\n' * 1000)\n").splitlines()
    assert len(first) == len("ValueError: ") + 400 + len(" ...")
    assert second.startswith("at user_code.py:1: raise")


def test_an_exception_without_a_message_is_its_class(raised):
    assert raised("assert 1 > 2\n") == "AssertionError\nat user_code.py:1: assert 1 > 2"


@pytest.mark.parametrize("fail", [lambda: torch.ones(2) @ torch.ones(3), lambda: np.ones(2) @ np.ones(3)])
def test_an_error_of_a_library_alone_has_no_line(fail):
    with pytest.raises((RuntimeError, ValueError)) as error:
        fail()
    assert "\n" not in describe_exception(error.value.with_traceback(None))


def test_a_suggestion_keeps_capital_letters():
    assert did_you_mean("mymodel", ["MyModel", "other"]) == "did you mean MyModel?"
