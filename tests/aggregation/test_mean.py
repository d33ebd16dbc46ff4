import numpy as np
import pytest
import torch

from fedlit.aggregation.mean import ReductionTree, make_train_jobs
from fedlit.core.messages import ClientFailure, PartialAggregate
from fedlit.core.tensors import Layout

LAYOUT = Layout((("parameters", "w", (2,)),))


def partial(index, *values, weight=1.0):
    return PartialAggregate(
        index,
        LAYOUT,
        torch.tensor(values, dtype=torch.float64) * weight,
        weight,
        (index,),
        (),
        {"train/loss": (weight * 2, weight)},
        10,
        3,
    )


def closed(*partials):
    tally = ReductionTree()
    for part in partials:
        tally.add(part)
    return tally, tally.finish()[0]


def test_chunks_are_single_clients_up_to_64_and_equal_above():
    assert [chunk.clients for chunk in make_train_jobs(0, [7, 3, 5])] == [(7,), (3,), (5,)]
    assert len(make_train_jobs(0, range(64))) == 64
    assert {len(chunk.clients) for chunk in make_train_jobs(0, range(128))} == {2}
    assert [client for chunk in make_train_jobs(4, range(200)) for client in chunk.clients] == list(range(200))


def test_the_mean_is_weighted():
    tally, mean = closed(partial(0, 1.0, 0.0, weight=3.0), partial(1, 5.0, 4.0, weight=1.0))
    assert mean["parameters"]["w"].tolist() == [2.0, 1.0]
    assert (mean.weight, mean.clients, tally.up_bytes, tally.steps) == (4.0, 2, 20, 6)
    assert tally.metrics() == {"train/loss": 2.0}


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 8, 13, 64])
def test_the_sum_is_the_pairwise_tree_over_the_index(count):
    values = np.random.default_rng(count).normal(size=count) * 10.0 ** np.random.default_rng(1).integers(-8, 8, count)

    def tree(low, high):
        """Full subtrees first, from the left, as in a binary number."""
        if high - low == 1:
            return values[low]
        half = 1 << ((high - low - 1).bit_length() - 1)
        return tree(low, low + half) + tree(low + half, high)

    _, mean = closed(*(partial(i, v, v) for i, v in enumerate(values)))
    assert mean["parameters"]["w"][0].item() == tree(0, count) / count


def test_a_chunk_where_nobody_came_through_changes_nothing():
    _, mean = closed(
        partial(0, 1.0, 2.0), PartialAggregate(1, failures=(ClientFailure(1, "not_finite", "x"),)), partial(2, 3.0, 4.0)
    )
    assert mean["parameters"]["w"].tolist() == [2.0, 3.0]


def test_no_weight_at_all_is_a_lost_round():
    assert closed()[1] is None
    assert closed(PartialAggregate(0))[1] is None
    assert closed(partial(0, 1.0, 1.0, weight=0.0))[1] is None


def test_partials_out_of_order_or_of_another_layout_are_refused():
    tally = ReductionTree()
    with pytest.raises(ValueError, match="partial 1 came where 0 was due"):
        tally.add(partial(1, 1.0, 1.0))
    tally.add(partial(0, 1.0, 1.0))
    with pytest.raises(ValueError, match="laid out otherwise"):
        tally.add(
            PartialAggregate(1, Layout((("parameters", "v", (2,)),)), torch.zeros(2, dtype=torch.float64), 1.0, (1,))
        )


def test_few_partials_are_held():
    tally = ReductionTree()
    for index in range(64):
        tally.add(partial(index, 1.0, 1.0))
        assert len(tally._tree) <= 7
