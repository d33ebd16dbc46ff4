"""The channel: messages, the order of stages, client states of stages, and packing."""

import pytest
import torch

from fedlit.aggregation import Channel, Order, Packing, Stage
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

    def open(self, total, cohort, state):
        return total - cohort, StageState(state.shared, {"rounds": state.private["rounds"] + 1})


class Halve(Stage):
    order = Order.PROJECT

    def encode(self, vector, ticket):
        return vector / 2, {}

    def open(self, total, cohort, state):
        return total * 2, state


class Sign(Stage):
    order = Order.PROJECT
    linear = False

    def encode(self, vector, ticket):
        return vector.sign(), {}

    def decode(self, vector):
        return vector * 10


class Half(Packing):
    def pack(self, vector):
        return vector.half().numpy().tobytes()

    def unpack(self, content, size):
        return torch.frombuffer(content, dtype=torch.float16, count=size).float()

    def nbytes(self, size):
        return 2 * size


def encode(channel, weight=2.5, states=None, own=None):
    states = channel.init(LAYOUT) if states is None else states
    return channel.encode(LAYOUT, GROUPS, weight, **FACTS, states=states, own=own or {})


def test_without_a_stage_a_message_holds_the_weight_and_four_bytes_a_number():
    message, own = encode(Channel())
    vector, weight = Channel().decode(LAYOUT, message)
    assert len(message) == Channel().nbytes(LAYOUT) == 8 + 4 * 6
    assert (weight, own) == (2.5, {})
    assert vector.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert vector.dtype == torch.float32


def test_an_update_without_tensors_is_not_sent():
    assert Channel().nbytes(Layout(())) == 0
    message, _ = Channel().encode(Layout(()), {}, 1.0, **FACTS, states={}, own={})
    vector, weight = Channel().decode(Layout(()), message)
    assert (len(vector), weight) == (0, 1.0)


@pytest.mark.parametrize(
    "groups",
    [
        {"parameters": {"w": torch.zeros(2, 2)}},
        {"parameters": {"w": torch.zeros(4), "b": torch.tensor(0.0)}, "buffers": {"n": torch.tensor(0)}},
    ],
)
def test_another_name_or_shape_is_refused_with_the_name(groups):
    with pytest.raises(ValueError, match=r"parameters/w|buffers/n"):
        Channel().encode(LAYOUT, groups, 1.0, **FACTS, states={}, own={})


def test_the_order_of_names_does_not_matter():
    other = {group: dict(reversed(tensors.items())) for group, tensors in reversed(GROUPS.items())}
    messages = [Channel().encode(LAYOUT, groups, 1.0, **FACTS, states={}, own={})[0] for groups in (GROUPS, other)]
    assert messages[0] == messages[1]


def test_stages_are_sorted_and_open_in_reverse():
    channel = Channel.of([Shift(), Halve()])
    assert [stage.name for stage in channel.stages] == ["halve", "shift"]
    message, own = encode(channel)
    vector, _ = channel.decode(LAYOUT, message)
    assert vector.tolist() == [1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    total, states = channel.open(3 * vector.double(), 3, channel.init(LAYOUT))
    assert total.tolist() == [3.0, 6.0, 9.0, 12.0, 15.0, 18.0]
    assert (int(own["shift"]["count"]), int(states["shift"].private["rounds"])) == (1, 1)


def test_a_client_receives_its_own_tensors_in_the_next_round():
    _, own = encode(Channel.of([Shift()]))
    stored = pack_channel_states(own)
    assert list(stored) == ["channel/shift"]
    _, again = encode(Channel.of([Shift()]), own=channel_states({**stored, "control": {}}))
    assert int(again["shift"]["count"]) == 2
    assert pack_channel_states({"halve": {}}) == {}


def test_a_stage_that_is_not_linear_is_decoded_message_by_message():
    channel = Channel.of([Sign()])
    vector, _ = channel.decode(LAYOUT, encode(channel)[0])
    assert vector.tolist() == [10.0] * 6


def test_another_packing_decides_the_bytes():
    channel = Channel.of([Half(), Shift()])
    message, _ = encode(channel)
    assert len(message) == channel.nbytes(LAYOUT) == 8 + 2 * 6
    assert channel.decode(LAYOUT, message)[0].tolist() == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


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
        ([Half(), Half()], "both pack an update"),
        ([object()], "is not a stage"),
        ([type("Unordered", (Stage,), {"encode": Shift.encode})()], "has no `order`"),
        ([type("Undecoded", (Shift,), {"linear": True, "decode": lambda self, vector: vector})()], "has a `decode`"),
        ([type("Four", (Shift,), {"exchanges": 4})()], "needs 4 exchanges"),
    ],
)
def test_an_invalid_channel_is_refused(stages, problem):
    with pytest.raises(ConfigError, match=problem):
        Channel.of(stages)
