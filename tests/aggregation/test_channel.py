"""The channel: messages, the order of stages, client states of stages, codecs, clips, and error feedback."""

import pytest
import torch

from fedlit.aggregation import Channel, Clip, Codec, Order, Stage, SumTicket
from fedlit.aggregation.channel import channel_states, pack_channel_states
from fedlit.core.errors import ConfigError
from fedlit.core.messages import StageState
from fedlit.core.tensors import Layout

GROUPS = {
    "parameters": {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor(5.0)},
    "buffers": {"n": torch.tensor(6)},
}
LAYOUT = Layout.of(GROUPS)
FACTS = {"round": 3, "client": 7, "seed": 1}


class Shift(Stage):
    """Adds 1 to each number on the client, and counts messages there and rounds on the server."""

    order = Order.PROTECT

    def init(self, layout):
        return StageState(shared={"by": torch.tensor(1.0)}, private={"rounds": torch.tensor(0)})

    def encode(self, vector, ticket):
        count = ticket.own.get("count", torch.tensor(0)) + 1
        return vector + ticket.shared["by"], {"count": count}

    def open(self, total, ticket, state):
        return total - ticket.updates, StageState(state.shared, {"rounds": state.private["rounds"] + 1})


class Halve(Stage):
    order = Order.PROJECT

    def encode(self, vector, ticket):
        return vector / 2, {}

    def open(self, total, ticket, state):
        return total * 2, state


class Half(Codec):
    def pack(self, vector, ticket):
        return vector.half().numpy().tobytes()

    def unpack(self, content, layout):
        return torch.frombuffer(content, dtype=torch.float16, count=layout.size).float()

    def nbytes(self, layout):
        return 2 * layout.size


class Whole(Half):
    """Loses the part behind the point."""

    def pack(self, vector, ticket):
        return super().pack(vector.trunc(), ticket)


class ToNorm(Clip):
    """Clips to a norm."""

    def __init__(self, norm, name="tonorm"):
        self._norm, self._name = norm, name

    @property
    def name(self):
        return self._name

    def factor(self, vector, ticket):
        return min(1.0, self._norm / float(vector.double().norm()))


def opened(channel, total, states=None, **facts):
    facts = {"round": 3, "seed": 1, "clients": (0, 1, 2), "updates": 3, "clipped": 0, "weight": 3.0, **facts}
    return channel.open(LAYOUT, total, SumTicket(**facts), channel.init(LAYOUT) if states is None else states)


def encode(channel, weight=2.5, states=None, own=None, groups=None):
    states = channel.init(LAYOUT) if states is None else states
    vector = LAYOUT.vector(GROUPS if groups is None else groups)
    return channel.encode(LAYOUT, vector, weight, **FACTS, states=states, own=own or {})


def test_without_a_stage_a_message_holds_the_weight_and_four_bytes_a_number():
    message, own = encode(Channel())
    decoded = Channel().decode(LAYOUT, message)
    vector, weight = decoded.vector, decoded.weight
    assert len(message) == Channel().nbytes(LAYOUT) == 8 + 4 * 6
    assert (weight, own) == (2.5, {})
    assert vector.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert vector.dtype == torch.float64


def test_an_update_without_tensors_is_not_sent():
    assert Channel().nbytes(Layout(())) == 0
    message, _ = Channel().encode(Layout(()), torch.zeros(0), 1.0, **FACTS, states={}, own={})
    decoded = Channel().decode(Layout(()), message)
    assert (len(decoded.vector), decoded.weight) == (0, 1.0)


@pytest.mark.parametrize(
    "groups",
    [
        {"parameters": {"w": torch.zeros(2, 2)}},
        {"parameters": {"w": torch.zeros(4), "b": torch.tensor(0.0)}, "buffers": {"n": torch.tensor(0)}},
    ],
)
def test_another_name_or_shape_is_refused_with_the_name(groups):
    with pytest.raises(ValueError, match=r"parameters/w|buffers/n"):
        LAYOUT.vector(groups)


def test_the_order_of_names_does_not_matter():
    other = {group: dict(reversed(tensors.items())) for group, tensors in reversed(GROUPS.items())}
    messages = [encode(Channel(), groups=groups)[0] for groups in (GROUPS, other)]
    assert messages[0] == messages[1]


def test_stages_are_sorted_and_open_in_reverse():
    channel = Channel.of([Shift(), Halve()])
    assert [stage.name for stage in channel.stages] == ["halve", "shift"]
    message, own = encode(channel)
    vector = channel.decode(LAYOUT, message).vector
    assert vector.tolist() == [1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    total, states = opened(channel, 3 * vector)
    assert total.tolist() == [3.0, 6.0, 9.0, 12.0, 15.0, 18.0]
    assert (int(own["shift"]["count"]), int(states["shift"].private["rounds"])) == (1, 1)


def test_a_client_receives_its_own_tensors_in_the_next_round():
    _, own = encode(Channel.of([Shift()]))
    stored = pack_channel_states(own)
    assert list(stored) == ["channel/shift"]
    _, again = encode(Channel.of([Shift()]), own=channel_states({**stored, "control": {}}))
    assert int(again["shift"]["count"]) == 2
    assert pack_channel_states({"halve": {}}) == {}


def test_another_codec_decides_the_bytes():
    channel = Channel.of([Half()])
    message, own = encode(channel)
    assert len(message) == channel.nbytes(LAYOUT) == 8 + 2 * 4 + 4 * 2  # of w; b and n are sent exactly
    assert channel.decode(LAYOUT, message).vector.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert pack_channel_states(own) == {}


def test_with_error_feedback_sent_and_residual_are_the_sum_of_the_updates():
    channel, own, sent = Channel.of([Whole()], error_feedback=True), {}, torch.zeros(6, dtype=torch.float64)
    groups = {group: {name: t + 0.375 for name, t in tensors.items()} for group, tensors in GROUPS.items()}
    for _ in range(5):
        message, own = encode(channel, own=channel_states(pack_channel_states(own)), groups=groups)
        sent += channel.decode(LAYOUT, message).vector
    residual = own["whole"]["residual"]
    assert (sent + residual).tolist() == (5 * LAYOUT.vector(groups).double()).tolist()
    assert residual.tolist() == [0.875] * 4 + [0.0] * 2  # 5 * 0.375 - 1 of w; b and n are sent exactly


def test_without_error_feedback_a_client_keeps_nothing():
    assert pack_channel_states(encode(Channel.of([Whole()]))[1]) == {}


def test_a_clip_acts_on_what_the_codec_sends_and_costs_eight_bytes():
    channel = Channel.of([ToNorm(2.0), Whole()])
    big = {"parameters": {"w": torch.full((2, 2), 3.9), "b": torch.tensor(3.0)}, "buffers": {"n": torch.tensor(3.0)}}
    message, _ = encode(channel, groups=big)
    decoded = channel.decode(LAYOUT, message)
    assert len(message) == channel.nbytes(LAYOUT) == 8 + 8 + 2 * 4 + 4 * 2
    assert decoded.clipped
    assert float(decoded.vector.norm()) == pytest.approx(2.0, abs=1e-15)
    assert decoded.vector.tolist() == pytest.approx([2 / 6**0.5] * 6, abs=1e-15)
    small, _ = encode(Channel.of([ToNorm(20.0)]))
    assert not Channel.of([ToNorm(20.0)]).decode(LAYOUT, small).clipped


def test_two_clips_act_one_after_the_other():
    channel = Channel.of([ToNorm(4.0, "a"), ToNorm(1.0, "b")])
    decoded = channel.decode(LAYOUT, encode(channel)[0])
    assert float(decoded.vector.norm()) == pytest.approx(1.0, abs=1e-7)


def test_before_a_protection_the_client_clips_the_numbers_themselves():
    channel = Channel.of([Shift(), ToNorm(2.0)])
    message, _ = encode(channel)
    decoded = channel.decode(LAYOUT, message)
    assert len(message) == channel.nbytes(LAYOUT) == 8 + 4 * 6
    assert float((decoded.vector - 1).norm()) == pytest.approx(2.0, abs=1e-6)
    assert not channel.keeps_geometry
    assert Channel.of([ToNorm(2.0)]).keeps_geometry


def test_random_numbers_of_a_stage_do_not_depend_on_other_stages():
    draws = []

    class Draw(Stage):
        order = Order.PROJECT

        def __init__(self, name):
            self._name = name

        @property
        def name(self):
            return self._name

        def encode(self, vector, ticket):
            draws.append(float(ticket.generator.random()))
            return vector, {}

    for stages in ([Draw("a")], [Draw("a"), Draw("b")]):
        encode(Channel.of(stages))
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ([Shift(), Shift()], "names two stages"),
        ([Half(), Half()], "both make the bytes"),
        ([Half(), Shift()], "loses digits"),
        ([object()], "is not a stage"),
        ([type("Unordered", (Stage,), {"encode": Shift.encode})()], "has no `order`"),
        ([type("Longer", (Shift,), {"order": Order.CLIP})()], "is not a Clip"),
    ],
)
def test_an_invalid_channel_is_refused(stages, problem):
    with pytest.raises(ConfigError, match=problem):
        Channel.of(stages)


def test_a_codec_of_updates_alone_is_refused_for_the_downlink():
    with pytest.raises(ConfigError, match="suits updates"):
        Channel.of(down=Half())


class Vote(Half):
    linear = False
    contracts = False

    def open(self, total, ticket):
        return total.sign() * ticket.weight


def test_a_codec_can_replace_the_sum_of_all_but_the_exact_numbers():
    channel = Channel.of([Vote()])
    total, _ = opened(channel, -3 * LAYOUT.vector(GROUPS).double())
    assert total.tolist() == [-3.0] * 4 + [-15.0, -18.0]
    assert not channel.keeps_geometry


def test_a_vote_is_refused_with_error_feedback_and_with_privacy():
    with pytest.raises(ConfigError, match="needs a codec whose error is shorter"):
        Channel.of([Vote()], error_feedback=True)
    with pytest.raises(ConfigError, match="privacy and encryption need the sum of the updates"):
        Channel.of([Vote(), ToNorm(1.0)])


def test_the_channel_has_the_divisor_and_the_promises_of_its_stages():
    flags = {"denominator": 3.5, "releases_empty": True, "hides_clients": True}
    noisy = type("Noisy", (Halve,), {name: property(lambda self, value=value: value) for name, value in flags.items()})
    for channel, expected in ((Channel(), (None, False, False)), (Channel.of([noisy()]), (3.5, True, True))):
        assert (channel.denominator, channel.releases_empty, channel.hides_clients) == expected
