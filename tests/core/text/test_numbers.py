import math

import pytest

from fedlit.core.text.numbers import format_number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0000"),
        (0.98765432, "0.9877"),
        (-12.5, "-12.5000"),
        (0.001, "0.0010"),
        (2.8948e-12, "2.895e-12"),
        (-0.00098765, "-9.877e-04"),
        (7043092417288154447897870467072.0, "7.043e+30"),
        (9_999_999, "9999999.0000"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_numbers_of_any_size_have_significant_digits(value, text):
    assert format_number(value) == text


def test_number_of_places_is_that_of_significant_digits_with_an_exponent():
    assert (format_number(1 / 3, 6), format_number(1e-6 / 3, 6)) == ("0.333333", "3.33333e-07")
