"""Indices of rows."""

import pytest
import torch

from fedlit.client.vectorized.lanes.rows import ALL, rows_of


@pytest.mark.parametrize("positions", [[0, 1, 2, 3], [0], [3], [1, 2], [0, 2], [0, 2, 3], [1, 3]])
def test_an_index_selects_the_rows(positions):
    table = torch.arange(8).view(4, 2)
    index = rows_of(positions, 4, table.device)
    assert torch.equal(table[index], table[positions])
    table[index] = -1
    assert (table[positions] == -1).all()
    assert (table == -1).sum() == 2 * len(positions)


def test_no_copy_is_made_where_rows_follow_each_other():
    assert rows_of([0, 1, 2], 3, torch.device("cpu")) is ALL
    assert isinstance(rows_of([1, 2], 4, torch.device("cpu")), slice)
    assert isinstance(rows_of([0, 2], 4, torch.device("cpu")), torch.Tensor)
