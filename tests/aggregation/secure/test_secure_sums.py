"""Stages of secure sums: refusals, descriptions for the plan, groups of an update with their own range."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedlit.aggregation import Channel, Codec, Stage
from fedlit.aggregation.channel import Order
from fedlit.aggregation.secure import IdealSum, SecAgg
from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts, Sampling
from fedlit.core.tensors import Layout

FACTS = FederationFacts(
    sizes=np.array([3, 10, 5, 6]),
    cohort_size=4,
    splits=(),
    has_client_tests=False,
    update_numbers={"parameters": 10},
    sampling=Sampling("fixed", size=4),
    weighting="examples",
)


def errors(stage=None, **changes):
    return [str(error) for error in (stage or SecAgg()).check(replace(FACTS, **changes)) if not error.warning]


def test_a_usual_federation_is_accepted():
    assert errors() == []
    assert list(SecAgg().check(FACTS)) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"keeps_messages": True}, "needs them one by one"),
        ({"sampling": Sampling("other", by_loss=True)}, "asks for their losses"),
        ({"integer_buffers": ("bn.num_batches_tracked",)}, "bn.num_batches_tracked"),
        ({"cohort_size": 2}, "cohorts of 3 clients or more"),
        ({"max_cohort": 10**6}, "ring=32: is too small"),
        ({"sizes": np.array([3, 2**29, 5, 6])}, "weight can reach"),
        ({"has_common_key": False}, "no common key"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_with_the_reason(changes, text):
    (error,) = errors(**changes)
    assert text in error


def test_a_small_poisson_cohort_is_possible_so_it_is_not_refused():
    assert errors(sampling=Sampling("poisson", probability=0.5), cohort_size=2) == []


def test_poisson_cohorts_below_three_clients_are_a_warning():
    given = replace(FACTS, sampling=Sampling("poisson", probability=0.5), cohort_size=2)
    (warning,) = [error for error in SecAgg().check(given) if error.key == "sampler"]
    assert warning.warning
    assert "draws fewer than 3 clients in 69% of the rounds" in warning.problem  # 11 of 16 cohorts
    for probability, clients in ((0.5, 30), (1.0, 3)):
        given = replace(FACTS, sampling=Sampling("poisson", probability=probability), sizes=np.full(clients, 5))
        assert not [error for error in SecAgg().check(given) if error.key == "sampler"]


def test_groups_make_the_ring_large_enough():
    assert errors(max_cohort=10**6) != []
    assert errors(SecAgg(group_size=100), max_cohort=10**6) == []
    assert errors(SecAgg(ring=64), max_cohort=10**6) == []


def test_ranges_of_unknown_groups_are_refused_and_groups_without_a_range_are_a_warning():
    (error,) = errors(SecAgg(ranges={"h": 9.0}))
    assert "are not groups of the update, which has parameters" in error
    (warning,) = SecAgg().check(replace(FACTS, update_numbers={"parameters": 10, "control": 10, "buffers": 0}))
    assert warning.warning
    assert "control" in str(warning)
    assert (
        list(SecAgg(ranges={"control": 5.0}).check(replace(FACTS, update_numbers={"parameters": 10, "control": 10})))
        == []
    )


@pytest.mark.parametrize("weights", [("examples", 10), ("equal", 1)])
def test_the_largest_weight_is_that_of_the_federation(weights):
    assert SecAgg().bind(replace(FACTS, weighting=weights[0])).max_weight == weights[1]
    assert SecAgg(max_weight=7).bind(FACTS).max_weight == 7


@pytest.mark.parametrize(
    "arguments",
    [
        {"threshold": 0.5},
        {"threshold": 1.1},
        {"group_size": 2},
        {"neighbours": 3},
        {"neighbours": 0},
        {"ranges": {"h": 0}},
        {"bits": 1},
        {"ring": 48},
        {"range": -1.0},
        {"max_weight": 0},
    ],
)
def test_arguments_outside_their_range_are_refused_with_their_key(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        SecAgg(**arguments)


class Codes(Codec):
    def pack(self, vector, ticket):
        return bytes(8)

    def unpack(self, content, layout):
        return torch.zeros(layout.size)

    def nbytes(self, layout):
        return 8


class Exact(Codes):
    lossless = True


class Noise(Stage):
    order = Order.PROTECT

    def encode(self, vector, ticket):
        return vector, {}


@pytest.mark.parametrize("codec", [Codes(), Exact()])
def test_a_codec_is_refused(codec):
    with pytest.raises(ConfigError, match="compression"):
        Channel.of([SecAgg(), codec])


def test_an_algorithm_that_sends_nothing_is_refused():
    facts = replace(FACTS, update_numbers={"parameters": 0, "buffers": 0}, algorithm="PersonalLayers")
    (error,) = SecAgg().check(facts)
    assert "has nothing to add: PersonalLayers sends no update" in str(error)


def test_metrics_of_clients_own_test_sets_are_in_the_clear_and_warned_about():
    (warning,) = SecAgg().check(replace(FACTS, has_client_tests=True))
    assert warning.warning
    assert "in the clear" in str(warning)


def test_a_sum_of_two_updates_is_never_opened():
    """Each of two clients could subtract its own."""
    assert [SecAgg(threshold=0.51).thresholds(clients).group for clients in (3, 4, 5, 6)] == [3, 3, 3, 4]


def test_two_secure_stages_are_refused():
    with pytest.raises(ConfigError, match="secure_sum"):
        Channel.of([SecAgg(), IdealSum()])


def test_the_secure_stage_is_the_last_one():
    assert [stage.name for stage in Channel.of([SecAgg(), Noise()]).stages] == ["noise", "secure_sum"]


@pytest.mark.parametrize(
    ("stage", "cohort", "text"),
    [
        (SecAgg(), 3, "one group of 3 clients, of which none can be lost: all must answer"),
        (SecAgg(), 10, "one group of 10 clients, of which 3 can be lost: 7 must answer"),
        (SecAgg(), 2, "a group of 2 clients is too small: it needs 3, so the round would be lost"),
        (SecAgg(threshold=0.8), 10, "one group of 10 clients, of which 2 can be lost: 8 must answer"),
        (SecAgg(group_size=4), 9, "2 groups of 4 clients or one more, of which 1 can be lost: 3 must answer"),
        (IdealSum(group_size=5), 10, "2 groups of 5 clients, of which 1 can be lost: 4 must answer"),
    ],
)
def test_the_plan_says_how_many_clients_can_be_lost_also_when_none_can(stage, cohort, text):
    assert stage.describe(cohort) == text


def test_a_group_of_an_update_can_have_its_own_range():
    """One client; the numbers of the group h are a thousand times larger."""
    stage = IdealSum(ranges={"h": 1000.0}, max_weight=1)
    layout = Layout((("parameters", "w", (3,)), ("h", "h", (2,))))
    channel = Channel.of([stage])
    vector = torch.tensor([0.5, -0.25, 1.0, 600.0, -1000.0])
    message, _ = channel.encode(
        layout, vector.clone(), 1.0, round=0, client=0, seed=0, states=channel.init(layout), own={}
    )
    decoded = channel.decode(layout, message)
    signed = torch.from_numpy(stage.quantizer.signed(decoded.vector.numpy().view(np.uint32)))
    opened = stage.open_sum(signed, layout)
    steps = stage.quantizer.step * torch.tensor([1, 1, 1, 1000, 1000])
    assert bool(((opened.total - vector).abs() <= steps).all())
    assert (opened.weight, opened.clipped, decoded.weight, len(message)) == (1.0, 0, 0.0, 4 * 7)
    assert channel.nbytes(layout) == 4 * 7


def test_a_sparse_graph_is_described_by_its_neighbourhoods():
    """The secrets of a client are shared in its neighbourhood, whose threshold limits losses and colluding clients."""
    complete, sparse = SecAgg(), SecAgg(neighbours=32)
    text = "; in each neighbourhood of 33 clients 23 must answer, too"
    assert sparse.describe(100) == complete.describe(100) + text
    assert sparse.describe(33) == complete.describe(33)  # the graph is complete
    assert sparse.describe(2) == complete.describe(2)  # too small
    assert "fewer clients of a group than its threshold" in complete.statement()
    assert "fewer clients of a neighbourhood of 33 clients than its threshold" in sparse.statement()
