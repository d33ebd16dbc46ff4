"""The sum of a round: jobs, the tree of sums, the weighted mean."""

import numpy as np
import pytest
import torch

from fedlit.aggregation import MeanAggregator
from fedlit.aggregation.aggregator import ReductionTree, merge
from fedlit.aggregation.jobs import make_train_jobs
from fedlit.aggregation.sum_tree import SumTree
from fedlit.core.messages import ClientFailure, PartialAggregate
from fedlit.core.tensors import Layout

LAYOUT = Layout((("parameters", "w", (2,)),))


def partial(index, *values, weight=1.0):
    return PartialAggregate(
        index=index,
        layout=LAYOUT,
        total=torch.tensor(values, dtype=torch.float64) * weight,
        weight=weight,
        members=(index,),
        metrics={"train/loss": (weight * 2, weight)},
        up_bytes=10,
        steps=3,
        sum_of_squares=2.0 + index,
    )


def reduce_partials(*partials):
    tree = ReductionTree(MeanAggregator())
    for part in partials:
        tree.add(part)
    total, weight = tree.root()
    return tree, tree.finish(
        tree.layout, total, weight, len(tree.members)
    ) if total is not None and weight > 0 else None


def test_jobs_are_single_clients_up_to_64_and_equal_parts_of_at_most_4_above():
    assert [job.clients for job in make_train_jobs(0, [7, 3, 5])] == [(7,), (3,), (5,)]
    assert len(make_train_jobs(0, range(64))) == 64
    assert {len(job.clients) for job in make_train_jobs(0, range(128))} == {2}
    assert [len(make_train_jobs(0, range(count))) for count in (256, 257, 10_000)] == [64, 65, 2500]
    assert [client for job in make_train_jobs(4, range(200)) for client in job.clients] == list(range(200))


def test_a_job_has_the_states_and_budgets_of_its_own_clients():
    jobs = make_train_jobs(2, [7, 3], {7: {"a": {}}, 9: {"b": {}}}, {3: 5})
    assert [(job.round, job.index, dict(job.client_states), dict(job.budgets)) for job in jobs] == [
        (2, 0, {7: {"a": {}}}, {}),
        (2, 1, {}, {3: 5}),
    ]


def test_the_mean_is_weighted():
    tree, mean = reduce_partials(partial(0, 1.0, 0.0, weight=3.0), partial(1, 5.0, 4.0, weight=1.0))
    assert mean["parameters"]["w"].tolist() == [2.0, 1.0]
    assert (mean.weight, mean.clients, tree.up_bytes, tree.steps) == (4.0, 2, 20, 6)
    assert tree.sum_of_squares == 2.0 + 3.0
    assert tree.metrics() == {"train/loss": 2.0}


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 8, 13, 64])
def test_the_sum_is_the_pairwise_tree_over_the_index(count):
    generator = np.random.default_rng(count)
    values = generator.normal(size=(count, 32)) * 10.0 ** generator.integers(-8, 8, (count, 32))  # 32 sums at once

    def tree(low, high):
        """Return the sum with full subtrees first, from the left, as in a binary number."""
        if high - low == 1:
            return values[low]
        half = 1 << ((high - low - 1).bit_length() - 1)
        return tree(low, low + half) + tree(low + half, high)

    layout = Layout((("parameters", "w", (32,)),))
    partials = (
        PartialAggregate(index=i, layout=layout, total=torch.tensor(v), weight=1.0) for i, v in enumerate(values)
    )
    summed = ReductionTree(MeanAggregator())
    for part in partials:
        summed.add(part)
    assert summed.root()[0].tolist() == tree(0, count).tolist()
    assert count < 5 or tree(0, count).tolist() != sum(values[1:], values[0]).tolist()  # another order shows


@pytest.mark.parametrize("size", [2, 4, 16])
@pytest.mark.parametrize("count", [1, 3, 16, 17, 23, 30, 31, 64])
def test_subtrees_that_were_added_elsewhere_do_not_change_the_sum(count, size):
    generator = np.random.default_rng(count)
    values = generator.normal(size=(count, 32)) * 10.0 ** generator.integers(-8, 8, (count, 32))
    weights = generator.random(count)
    leaves = [(torch.tensor(value), weight) for value, weight in zip(values, weights, strict=True)]
    leaves[count // 2] = (None, 0.0)  # no client of this job succeeded

    def add(parts):
        tree = SumTree(torch.add)
        for height, total, weight in parts:
            tree.push(height, total, weight)
        return tree.root()

    def subtree(part):
        return ((len(part) - 1).bit_length(), *add((0, *leaf) for leaf in part))

    total, weight = add((0, *leaf) for leaf in leaves)
    joined, joined_weight = add(subtree(leaves[i : i + size]) for i in range(0, count, size))
    assert weight == joined_weight
    assert (total is None and joined is None) or torch.equal(total, joined)


def test_a_job_without_a_successful_client_changes_nothing():
    failed = PartialAggregate(index=1, failures=(ClientFailure(1, "not_finite", "x"),))
    _, mean = reduce_partials(partial(0, 1.0, 2.0), failed, partial(2, 3.0, 4.0))
    assert mean["parameters"]["w"].tolist() == [2.0, 3.0]


def test_without_any_weight_there_is_no_mean():
    assert reduce_partials()[1] is None
    assert reduce_partials(PartialAggregate(index=0))[1] is None
    assert reduce_partials(partial(0, 1.0, 1.0, weight=0.0))[1] is None


def test_partials_in_another_order_or_layout_are_refused():
    tree = ReductionTree(MeanAggregator())
    with pytest.raises(ValueError, match="partial aggregate 1 arrived, and 0 is next"):
        tree.add(partial(1, 1.0, 1.0))
    tree.add(partial(0, 1.0, 1.0))
    other = Layout((("parameters", "v", (2,)),))
    zeros = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="have another layout than the updates before"):
        tree.add(PartialAggregate(index=1, layout=other, total=zeros, weight=1.0, members=(1,)))


def test_a_tree_holds_at_most_log2_of_the_partials():
    tree = ReductionTree(MeanAggregator())
    for index in range(64):
        tree.add(partial(index, 1.0, 1.0))
        assert len(tree._tree) <= 7


def test_merging_adds_from_left_to_right_and_keeps_the_first_index():
    failed = PartialAggregate(index=4, failures=(ClientFailure(9, "exception", "x"),))
    both = merge(MeanAggregator(), [partial(4, 1.0, 1.0), failed, partial(4, 1e16, 2.0), partial(4, -1e16, 3.0)])
    assert both.total.tolist() == [(1.0 + 1e16) - 1e16, 6.0]
    assert both.total[0] != 1.0 + (1e16 - 1e16)
    assert both.sum_of_squares == 3 * (2.0 + 4)
    assert (both.index, both.weight, both.members, both.up_bytes, both.steps) == (4, 3.0, (4, 4, 4), 30, 9)
    assert [failure.client for failure in both.failures] == [9]
    assert both.metrics == {"train/loss": (6.0, 3.0)}
