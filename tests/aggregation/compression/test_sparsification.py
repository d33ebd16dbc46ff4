"""Top-k, random-k and sign: what they send, contraction, unbiasedness."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_codecs import flat, normal, received

from fedlit.aggregation import Channel, SumTicket, Ticket
from fedlit.aggregation.channel import channel_states, pack_channel_states
from fedlit.aggregation.compression import QSGD, Half, Int8, RandK, Sign, TopK, randk
from fedlit.aggregation.compression.indices import indices_nbytes
from fedlit.aggregation.compression.randk import draw_subset
from fedlit.aggregation.compression.topk import largest
from fedlit.core.messages import StageState
from fedlit.core.tensors import Layout

MIXED = Layout((("parameters", "w", (30,)), ("buffers", "mean", (4,)), ("control", "w", (16,))))


def test_top_k_sends_the_largest_numbers_exactly():
    vector = torch.tensor([0.5, -3.0, 0.0, 2.0, -0.1])
    assert received(TopK(0.4), vector).tolist() == [0.0, -3.0, 0.0, 2.0, 0.0]
    assert received(TopK(1.0), vector).tolist() == vector.tolist()
    assert received(TopK(0.001), vector).tolist() == [0.0, -3.0, 0.0, 0.0, 0.0]


def test_of_equal_numbers_the_first_are_sent():
    assert received(TopK(0.5), torch.tensor([1.0, -1.0, 1.0, 1.0])).tolist() == [1.0, -1.0, 0.0, 0.0]
    assert largest(np.array([2.0, 1.0, 2.0, 1.0, 3.0]), 2).tolist() == [0, 4]


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_top_k_is_a_contraction(fraction):
    for seed in range(20):
        vector = normal(1000, seed) ** 3
        lost = (vector - received(TopK(fraction), vector)).double().square().sum()
        assert float(lost) <= (1 - fraction) * float(vector.double().square().sum())
    flattest = torch.ones(1000)  # the worst case
    assert float((flattest - received(TopK(fraction), flattest)).square().sum()) == pytest.approx(1000 * (1 - fraction))


def test_top_k_of_one_percent_takes_an_eightieth_of_the_bytes():
    nbytes = TopK(0.01).nbytes(flat(100_000))
    assert nbytes == 4 * 1000 + indices_nbytes(1000, 100_000)
    assert 4 * 100_000 / nbytes > 78


def randk_ticket(layout=MIXED, client=0, round=0, error_feedback=False, own=None):
    facts = {"round": round, "client": client, "seed": 0, "weight": 1.0, "stage": "randk"}
    return Ticket(**facts, layout=layout, error_feedback=error_feedback, own=own or {})


def sum_ticket(layout, **facts):
    return SumTicket(
        **{"round": 0, "seed": 0, "clients": (1,), "updates": 1, "clipped": 0, "weight": 1.0, "layout": layout, **facts}
    )


def opened(stage, total, layout=MIXED, round=0, error_feedback=False):
    ticket = sum_ticket(layout, round=round, stage="randk", error_feedback=error_feedback)
    return stage.open(total.double(), ticket, StageState())[0]


def test_random_k_has_one_support_for_all_clients_of_a_round():
    stage, vector = RandK(0.25), torch.arange(1.0, 51.0)
    first, _ = stage.encode(vector, randk_ticket())
    other, _ = stage.encode(vector, randk_ticket(client=9))
    later, _ = stage.encode(vector, randk_ticket(round=1))
    assert torch.equal(first, other)
    assert not torch.equal(first, later)
    assert len(first) == stage.encoded_layout(MIXED).size == 12 + 4  # 25 % of 46 numbers, rounded, and 4 buffers
    assert first[12:].tolist() == vector[30:34].tolist()


def test_the_sum_of_random_k_is_random_k_of_the_sum():
    stage, a, b = RandK(0.25), normal(50), normal(50, seed=1)
    encoded = [stage.encode(vector, randk_ticket(client=client))[0] for client, vector in enumerate((a, b, a + b))]
    together = opened(stage, encoded[0].double() + encoded[1].double())
    assert torch.allclose(together, opened(stage, encoded[2]), atol=1e-6)
    chosen = (together != 0).nonzero().view(-1)
    assert len(chosen) == 12 + 4
    factor = torch.where(torch.isin(chosen, torch.arange(30, 34)), 1.0, 46 / 12)
    assert torch.allclose(together[chosen], (a + b).double()[chosen] * factor, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "count"), [(5, 2), (5, 5), (5, 0), (0, 0), (1000, 1), (300, 3), (300, 299), (7, 1)], ids=str
)
def test_subsets_are_uniform(size, count):
    generator, hits = np.random.default_rng(0), np.zeros(size)
    for _ in range(2000):
        subset = draw_subset(size, count, generator)
        assert (len(subset), len(set(subset.tolist()))) == (count, count)
        assert (np.diff(subset) > 0).all()
        hits[subset] += 1
    expected, rate = 2000 * count / max(1, size), count / max(1, size)
    assert (np.abs(hits - expected) <= 5 * (2000 * rate * (1 - rate)) ** 0.5).all()


def test_pairs_of_a_subset_are_uniform():
    generator, pairs = np.random.default_rng(0), np.zeros((6, 6))
    for _ in range(3000):
        subset = draw_subset(6, 3, generator)
        pairs[np.ix_(subset, subset)] += 1
    together = pairs[np.triu_indices(6, 1)]  # each pair is in a subset with probability 1/5
    assert (np.abs(together - 600) < 5 * (3000 * 0.2 * 0.8) ** 0.5).all()


@pytest.mark.slow
def test_subsets_of_several_blocks_are_uniform(monkeypatch):
    """The members of a block and those of two blocks have the probabilities of a subset of all numbers."""
    monkeypatch.setattr(randk, "SUBSET_BLOCK", 4)
    generator, together, draws, size, count = np.random.default_rng(0), np.zeros((10, 10)), 4000, 10, 5
    for _ in range(draws):
        subset = draw_subset(size, count, generator)
        assert (np.diff(subset) > 0).all()
        together[np.ix_(subset, subset)] += 1
    for hits, rate in ((np.diag(together), 1 / 2), (together[np.triu_indices(size, 1)], 2 / 9)):
        assert (np.abs(hits - draws * rate) < 5 * (draws * rate * (1 - rate)) ** 0.5).all()


def test_a_large_subset_has_its_members_in_all_blocks():
    size = 3 * randk.SUBSET_BLOCK + 17
    subset = draw_subset(size, size // 4, np.random.default_rng(0))
    assert len(np.unique(subset)) == len(subset) == size // 4
    assert (np.diff(subset) > 0).all()
    hits = np.bincount(subset * 16 // size, minlength=16)
    assert (np.abs(hits - len(subset) / 16) < 5 * (len(subset) / 16) ** 0.5).all()


def test_the_seed_and_the_name_of_the_stage_decide_the_support():
    stage, vector = RandK(0.25), torch.arange(1.0, 51.0)
    supports = [
        stage.encode(vector, replace(randk_ticket(), **change))[0] for change in ({}, {"seed": 1}, {"stage": "x"})
    ]
    assert not torch.equal(supports[0], supports[1])
    assert not torch.equal(supports[0], supports[2])
    assert torch.equal(stage.encode(vector, randk_ticket())[0], supports[0])


def test_random_k_is_unbiased_over_rounds():
    stage, vector, rounds = RandK(0.25), normal(50), 2000
    sums = [opened(stage, stage.encode(vector, randk_ticket(round=t))[0], round=t) for t in range(rounds)]
    mean, exact = torch.stack(sums).mean(0), vector.double()
    factor = 46 / 12
    error = exact.abs() * ((factor - 1) / rounds) ** 0.5  # standard error of factor * Bernoulli(1 / factor)
    error[30:34] = 1e-12
    assert bool(((mean - exact).abs() <= 4 * error).all())


@pytest.mark.parametrize(
    "codec",
    [Half(), Int8(), QSGD(levels=63), TopK(0.05), RandK(0.2), Sign()],
    ids=repr,
)
def test_sent_and_residual_are_the_sum_of_the_accepted_updates(codec):
    channel, stored = Channel.of([codec], error_feedback=True), {}
    states = channel.init(MIXED)
    sent, exact = torch.zeros(50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)
    for round in range(30):
        if round % 5 == 2:
            continue  # the client is not selected
        update, facts = normal(50, seed=round), {"round": round, "client": 1, "seed": 0, "states": states}
        message, own = channel.encode(MIXED, update.clone(), 1.0, **facts, own=channel_states(stored))
        if round % 5 == 4:
            continue  # the upload fails, and the client keeps its state
        stored = pack_channel_states(own)
        exact += update.double()
        total = channel.decode(MIXED, message).vector
        sent += channel.open(MIXED, total, sum_ticket(MIXED, round=round), states)[0]
    ((residual,),) = (group.values() for group in stored.values())
    torch.testing.assert_close(sent + residual.double(), exact, atol=1e-5, rtol=0)
    assert residual[30:34].tolist() == [0.0] * 4
    assert float(residual.abs().max()) > 0


def test_random_k_of_a_channel_sends_no_positions():
    channel = Channel.of([RandK(0.25)])
    assert channel.nbytes(MIXED) == 8 + 4 * (12 + 4)


def test_the_scaled_sign_has_the_mean_size_of_each_tensor():
    layout = Layout((("parameters", "a", (3,)), ("parameters", "b", (2,))))
    vector = torch.tensor([1.0, -2.0, 3.0, -0.1, -0.3])
    assert received(Sign(), vector, layout).tolist() == pytest.approx([2.0, -2.0, 2.0, -0.2, -0.2])


def test_the_sign_of_zeros_is_unbiased():
    ones = received(Sign("majority"), torch.zeros(10_000))
    assert abs(float(ones.mean())) < 0.04
    assert set(ones.tolist()) == {-1.0, 1.0}


def test_a_majority_vote_moves_each_number_by_the_step():
    codec = Sign("majority", step=0.01)
    votes = [torch.tensor([1.0, -5.0, 0.1]), torch.tensor([2.0, 1.0, -0.2]), torch.tensor([-9.0, -1.0, -3.0])]
    total = sum(received(codec, vote).double() for vote in votes)
    result = codec.open(total, sum_ticket(flat(3), weight=3.0)) / 3.0
    assert result.tolist() == pytest.approx([0.01, -0.01, -0.01])
