"""The checks of an update: its layout and its numbers."""

import pytest
import torch

from fedlit.aggregation.validation import UpdateTemplate


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ({}, "parameters/w is missing, not float32 [2]"),
        ({"parameters": {"w": torch.ones(2, dtype=torch.float64)}}, "parameters/w is float64 [2], not float32 [2]"),
        ({"parameters": {"w": torch.ones(2), "v": torch.ones(1)}}, "parameters/v is float32 [1], not missing"),
        ({"parameters": {"w": torch.ones(2)}, "more": {}}, ""),
        (
            {"other": {"w": torch.ones(2)}},
            "parameters/w is missing, not float32 [2]; other/w is float32 [2], not missing",
        ),
        (
            {"parameters": {f"x{n}": torch.ones(1) for n in range(5)}},
            "parameters/w is missing, not float32 [2]; parameters/x0 is float32 [1], not missing; "
            "parameters/x1 is float32 [1], not missing; and 3 more",
        ),
    ],
)
def test_a_mismatch_reports_names_shapes_and_dtypes(groups, problem):
    assert UpdateTemplate({"parameters": {"w": torch.ones(2)}}).mismatch(groups) == problem
