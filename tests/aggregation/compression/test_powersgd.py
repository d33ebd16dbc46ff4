"""PowerSGD: what its two exchanges add up to."""

from dataclasses import replace

import pytest
import torch

from fedlit.aggregation import Channel, Codec, MeanAggregator, SumTicket
from fedlit.aggregation.basis import WEIGHT
from fedlit.aggregation.channel.message import Turn
from fedlit.aggregation.compression import Half, PowerSGD, RandK
from fedlit.aggregation.privacy import CentralDP, LocalDP
from fedlit.aggregation.secure import SecAgg
from fedlit.aggregation.secure.reply import make_reply
from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.core.tensors import Layout

LAYOUT = Layout(
    (
        ("parameters", "weight", (12, 3, 5)),
        ("parameters", "bias", (12,)),
        ("parameters", "head", (8, 20)),
        ("buffers", "moments", (9, 9)),
        ("control", "step", ()),
    )
)


def normal(seed, layout=LAYOUT):
    return torch.randn(layout.size, generator=torch.Generator().manual_seed(seed))


def run_round(channel, states, updates, weights=None, round=0, own=None, lost=(), layout=LAYOUT):
    """One round of clients 0, 1, ...; `lost` ones do not answer in the second exchange.

    Returns:
        The mean, the new states of the stage, the clients' tensors, and the length of their messages and of the basis.
    """
    stage, own = channel.stages[0], dict(own or {})
    weights = weights or [1.0] * len(updates)
    total, pending, sizes = None, {}, []
    for client, update in enumerate(updates):
        facts = {"round": round, "client": client, "seed": 0, "states": states, "own": own.get(client, {})}
        message, kept = channel.encode(layout, update.clone(), weights[client], **facts)
        decoded = channel.decode(layout, message)
        total = MeanAggregator().add(total, decoded.vector, decoded.weight)
        pending[client] = kept[stage.name]
        sizes.append(len(message))
    basis = stage.make_basis(total, layout)
    request = basis.numpy().tobytes()
    total, weight = None, 0.0
    for client in set(pending) - set(lost):
        turn = Turn(exchange="factors", request=request, pending=pending[client])
        reply, kept = make_reply(channel, layout, turn, round=round, client=client, seed=0)
        message = stage.read_reply(reply, layout)
        total = MeanAggregator().add(total, message.vector, message.weight)
        weight += message.weight
        own[client] = {stage.name: kept}
        sizes.append(len(reply))
    facts = {"round": round, "seed": 0, "clients": tuple(pending), "updates": len(pending), "clipped": 0}
    opened, states = channel.open(layout, torch.cat([basis.double(), total]), SumTicket(**facts, weight=weight), states)
    return opened / weight, states, own, (sizes, len(request))


def power(rank, error_feedback=True, **more):
    channel = Channel.of([PowerSGD(rank, **more)], error_feedback=error_feedback)
    return channel, channel.init(LAYOUT)


def mean_of(updates, weights):
    return sum(w * u.double() for w, u in zip(weights, updates, strict=True)) / sum(weights)


@pytest.mark.parametrize("rank", [8, 12, 1000])
def test_a_rank_that_is_not_below_a_matrix_gives_the_exact_mean(rank):
    updates, weights = [normal(seed) for seed in range(3)], [1.0, 2.5, 4.0]
    mean, _, own, _ = run_round(*power(rank), updates, weights)
    head = LAYOUT.groups(mean)["parameters"]["head"]
    assert torch.allclose(head, LAYOUT.groups(mean_of(updates, weights))["parameters"]["head"], atol=1e-6)
    assert all(not LAYOUT.groups(each["powersgd"]["residual"])["parameters"]["head"].any() for each in own.values())


def test_vectors_buffers_and_single_numbers_are_exact():
    updates, weights = [normal(seed) for seed in range(3)], [1.0, 2.5, 4.0]
    mean, _, own, _ = run_round(*power(1), updates, weights)
    got, exact = LAYOUT.groups(mean), LAYOUT.groups(mean_of(updates, weights))
    for group, name in (("parameters", "bias"), ("buffers", "moments"), ("control", "step")):
        assert torch.allclose(got[group][name], exact[group][name], atol=1e-12)
        assert not any(LAYOUT.groups(each["powersgd"]["residual"])[group][name].any() for each in own.values())


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("warm_start", [True, False])
def test_a_mean_of_low_rank_is_recovered_exactly(rank, warm_start):
    layout = Layout((("parameters", "w", (30, 40)),))
    left, rights = normal(0, Layout((("a", "l", (30, 2)),))).view(30, 2), [normal(s).view(-1)[:80] for s in (1, 2, 3)]
    updates, weights = [(left @ right.view(2, 40)).view(-1) for right in rights], [1.0, 3.0, 2.0]
    channel = Channel.of([PowerSGD(rank, warm_start)])
    states = channel.init(layout)
    for round in range(3):  # also with columns that are left over
        mean, states, _, _ = run_round(channel, states, updates, weights, round, layout=layout)
        assert torch.allclose(mean, mean_of(updates, weights), atol=1e-4)


def test_sent_and_residual_are_the_sum_of_the_updates():
    channel, states = power(2)
    weights, own = [1.0, 2.0, 4.0], {}
    sent, exact = torch.zeros(LAYOUT.size).double(), torch.zeros(LAYOUT.size).double()
    for round in range(20):
        updates = [normal(10 * round + client) for client in range(3)]
        lost = [round % 3] if round % 2 else []
        mean, states, own, _ = run_round(channel, states, updates, weights, round, own, lost)
        arrived = [client for client in range(3) if client not in lost]
        sent += mean * sum(weights[client] for client in arrived)
        exact += sum(weights[client] * updates[client].double() for client in arrived)
    kept = sum(weights[client] * own[client]["powersgd"]["residual"].double() for client in range(3))
    assert float(kept.norm()) > 1
    assert torch.allclose(sent + kept, exact, atol=1e-3 * float(exact.abs().max()), rtol=0)
    assert float((sent + kept - exact).norm() / exact.norm()) < 1e-5


def test_the_residuals_sum_to_what_the_common_mean_lost():
    updates, weights = [normal(seed) for seed in range(3)], [1.0, 2.5, 4.0]
    mean, _, own, _ = run_round(*power(2), updates, weights)
    residuals = [own[client]["powersgd"]["residual"] for client in range(3)]
    of_the_paper = [update.double() - mean for update in updates]
    assert torch.allclose(mean_of(residuals, weights), mean_of(of_the_paper, weights), atol=1e-6)


def test_a_client_that_is_lost_between_the_exchanges_is_not_in_the_mean():
    """The columns of all updates are in one plane, so the basis is exact for each subset of the clients."""
    channel, states = power(2)
    updates, weights = [low_rank(seed) for seed in range(3)], [1.0, 2.5, 4.0]
    mean, _, own, _ = run_round(channel, states, updates, weights, lost=[1])
    assert torch.allclose(mean, mean_of([updates[0], updates[2]], [1.0, 4.0]), atol=1e-5)
    assert set(own) == {0, 2}


def low_rank(seed):
    """An update whose matrices have rank 2, with columns in the same plane for all seeds."""
    update = normal(seed)
    for name, rows, columns in (("weight", 12, 15), ("head", 8, 20)):
        left, right = normal(99)[: rows * 2].view(rows, 2), normal(seed + 50)[: 2 * columns].view(2, columns)
        matrix = LAYOUT.groups(update)["parameters"][name]
        matrix.copy_((left @ right).view(matrix.shape))
    return update


def best_error(matrix, rank):
    return float(torch.linalg.svdvals(matrix)[rank:].square().sum().sqrt())


@pytest.mark.parametrize("warm_start", [True, False])
def test_a_warm_start_converges_to_the_best_approximation(warm_start):
    layout = Layout((("parameters", "w", (20, 30)),))
    matrix, channel = normal(0, layout).view(20, 30), Channel.of([PowerSGD(3, warm_start)])
    states, errors = channel.init(layout), []
    for round in range(200):
        mean, states, _, _ = run_round(channel, states, [matrix.view(-1)] * 2, None, round, layout=layout)
        errors.append(float((mean.view(20, 30) - matrix).norm()))
    best = best_error(matrix, 3)
    assert min(errors) >= best * (1 - 1e-6)
    assert errors[0] > 1.02 * best
    assert (errors[-1] < best * (1 + 1e-5)) == warm_start


def test_zero_updates_leave_nothing_behind_that_stays_zero():
    channel, states = power(2, error_feedback=False)
    mean, states, own, _ = run_round(channel, states, [torch.zeros(LAYOUT.size)] * 2)
    assert not mean.any()
    assert own == {0: {"powersgd": {}}, 1: {"powersgd": {}}}  # without error feedback nothing is kept
    assert not states["powersgd"].shared["right"].any()
    mean, states, _, _ = run_round(channel, states, [normal(0)] * 2, round=1)
    assert mean.isfinite().all()
    assert states["powersgd"].shared["right"].all()


def test_factors_of_a_round_have_columns_of_length_one():
    channel, states = power(2)
    _, states, _, _ = run_round(channel, states, [1e-25 * normal(0)] * 2)
    weight, head = states["powersgd"].shared["right"].split([15 * 2, 20 * 2])
    for factor in (weight.view(15, 2), head.view(20, 2)):
        assert factor.norm(dim=0).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_messages_are_as_long_as_predicted():
    channel, states = power(2)
    stage = channel.stages[0]
    _, _, _, (sizes, basis) = run_round(channel, states, [normal(0)] * 2)
    up, down = stage.exchange_nbytes(LAYOUT)
    assert sizes == [channel.nbytes(LAYOUT)] * 2 + [up] * 2
    assert basis == down == 4 * 2 * (12 + 8)
    assert sizes[0] == 8 + down
    assert up == 8 + 4 * (2 * (15 + 20) + 12 + 81 + 1)


def test_a_layout_without_matrices_is_sent_whole():
    layout = Layout((("parameters", "bias", (7,)), ("parameters", "empty", (0, 4))))
    channel = Channel.of([PowerSGD()], error_feedback=True)
    mean, _, _, _ = run_round(channel, channel.init(layout), [normal(0, layout)] * 2, layout=layout)
    assert torch.allclose(mean, normal(0, layout).double())


def test_pending_weights_are_exact():
    channel, states = power(2)
    facts = {"round": 0, "client": 0, "seed": 0, "states": states, "own": {}}
    _, pending = channel.encode(LAYOUT, normal(0), 0.1, **facts)
    assert float(pending["powersgd"][WEIGHT]) == 0.1


class Unchanged(Codec):
    """A codec of the user."""

    def pack(self, vector, ticket):
        return vector.numpy().tobytes()

    def unpack(self, content, layout):
        return torch.frombuffer(content, dtype=torch.float32)

    def nbytes(self, layout):
        return 4 * layout.size


@pytest.mark.parametrize(
    "other",
    [CentralDP(noise_multiplier=1.0), LocalDP(noise_multiplier=1.0), SecAgg(), RandK(), Half(), Unchanged()],
    ids=lambda other: type(other).__name__,
)
def test_it_is_refused_beside_another_stage(other):
    with pytest.raises(ConfigError, match="sends an update in two exchanges") as raised:
        Channel.of([PowerSGD(), other])
    assert raised.value.key == "compression"


def test_a_rank_below_one_and_an_aggregator_of_messages_are_errors():
    with pytest.raises(ConfigError, match="at least 1"):
        PowerSGD(0)
    facts = FederationFacts(sizes=torch.ones(3).numpy(), cohort_size=3, splits=(), has_client_tests=False)
    assert not list(PowerSGD().check(facts))
    (error,) = PowerSGD().check(replace(facts, keeps_messages=True))
    assert "one by one" in str(error)
