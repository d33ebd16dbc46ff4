"""Two neighbouring cohorts have sums at most the clipping norm apart, before the noise, in every legal channel."""

import numpy as np
import pytest
import torch
from private import channel_of, clipped_sum, facts, layout, messages, open_sum, separated, unit

from fedlit.aggregation import Channel, Codec, Order, Stage
from fedlit.aggregation.compression import QSGD, Half, Int8, RandK, Sign, TopK
from fedlit.aggregation.privacy import DPFTRL, CentralDP
from fedlit.core.errors import ConfigError

SIZE, CLIP = 64, 0.7


class Coarse(Codec):
    """Rounds each number up or down at random, so a vector can become longer: a float16 of a multiple of 0.5."""

    def pack(self, vector, ticket):
        levels = (vector * 2 + torch.from_numpy(ticket.generator.random(len(vector)))).floor() / 2
        return levels.half().numpy().tobytes()

    def unpack(self, content, layout):
        return torch.frombuffer(content, dtype=torch.float16, count=layout.size).float()

    def nbytes(self, layout):
        return 2 * layout.size


class Triple(Stage):
    """A linear projection that makes vectors longer."""

    order = Order.PROJECT

    def encode(self, vector, ticket):
        return vector * 3, {}

    def open(self, total, ticket, state):
        return total / 3, state


CHANNELS = {
    "fixed": lambda: channel_of(CentralDP(clip=CLIP, noise_multiplier=1.0)),
    "adaptive": lambda: channel_of(CentralDP(clip="adaptive", initial_clip=CLIP, noise_multiplier=1.0)),
    "ftrl": lambda: channel_of(DPFTRL(clip=CLIP, noise_multiplier=1.0), sampling=separated(5), rounds=10),
    "projection": lambda: channel_of(CentralDP(clip=CLIP, noise_multiplier=1.0), Triple()),
    "codec": lambda: channel_of(CentralDP(clip=CLIP, noise_multiplier=1.0), Coarse()),
}


def updates_of(seed, clients=6):
    """Updates of very different norms, from 1e-3 to 1e4, and one of zeros."""
    generator = np.random.default_rng(seed)
    scales = 10.0 ** generator.uniform(-3, 3, clients)
    vectors = generator.normal(size=(clients, SIZE)) * scales[:, None]
    return [*torch.from_numpy(vectors).float(), torch.zeros(SIZE)]


@pytest.mark.parametrize("name", CHANNELS)
def test_one_client_moves_the_sum_by_at_most_the_clipping_norm(name):
    channel = CHANNELS[name]()
    states = channel.init(layout(SIZE))
    longest = 0.0
    for seed in range(5):
        updates = updates_of(seed)
        for left_out, (message, _) in enumerate(zip(messages(channel, updates, states), updates, strict=True)):
            total, _ = clipped_sum(channel, updates, states, size=SIZE)
            without = [torch.zeros(SIZE) if i == left_out else update for i, update in enumerate(updates)]
            rest, _ = clipped_sum(channel, without, states, size=SIZE)
            assert float((total - rest).norm()) <= CLIP * (1 + 1e-12) + 1e-12 * float(total.norm()), left_out
            longest = max(longest, float(message.vector.norm()))
    assert longest == pytest.approx(CLIP)


CODECS = {
    "rounding up": (Coarse(), True),
    "half": (Half(), True),
    "int8": (Int8(), True),
    "qsgd": (QSGD(levels=1, bucket=None), False),
    "topk": (TopK(0.1), True),
    "randk": (RandK(0.1), False),
    "randk with error feedback": (RandK(0.1), True),
    "sign": (Sign(), True),
}


@pytest.mark.parametrize("name", CODECS)
def test_no_codec_and_no_error_feedback_lengthens_a_message(name):
    """Over rounds, so that the memory of error feedback grows; an update of zeros sends that memory alone."""
    codec, feedback = CODECS[name]
    channel = Channel.of([CentralDP(clip=CLIP, noise_multiplier=1.0), codec], error_feedback=feedback).bind(facts())
    states, own, lengths = channel.init(layout(SIZE)), [{} for _ in range(7)], []
    for round in range(10):
        updates = updates_of(round) if round % 3 else [torch.zeros(SIZE)] * 7
        lengths += [float(m.vector.norm()) for m in messages(channel, updates, states, round=round, own=own)]
    assert max(lengths) == pytest.approx(CLIP)
    assert max(lengths) <= CLIP * (1 + 1e-12)
    assert any("residual" in tensors for tensors in own[0].values()) == feedback


class Grid(Stage):
    """Rounds numbers to a grid after the clip, as secure aggregation does."""

    order = Order.PROTECT

    def encode(self, vector, ticket):
        return (vector * 4).ceil() / 4, {}


@pytest.mark.parametrize(
    "stage", [CentralDP(noise_multiplier=1.0), DPFTRL(noise_multiplier=1.0)], ids=["central", "ftrl"]
)
def test_a_stage_that_changes_clipped_updates_is_refused(stage):
    with pytest.raises(ConfigError, match="encryption: changes updates after privacy has clipped them"):
        Channel.of([stage, Grid()])


def test_groups_share_one_norm():
    """Parameters and a further group, such as control variates, are clipped together."""
    channel = channel_of(CentralDP(clip=CLIP, noise_multiplier=1.0))
    update = torch.cat([torch.full((SIZE // 2,), 1.0), torch.full((SIZE // 2,), 100.0)])
    (message,) = messages(channel, [update], channel.init(layout(SIZE)))
    assert float(message.vector.norm()) == pytest.approx(CLIP)
    assert float(message.vector[-1] / message.vector[0]) == pytest.approx(100.0)


def test_the_largest_step_of_an_adaptive_norm_by_one_client_is_half_a_count():
    channel = CHANNELS["adaptive"]()
    states = channel.init(layout(SIZE))
    logs = []
    for length in (None, 0.1, 10.0):
        updates = [] if length is None else [unit(SIZE, length=length)]
        total, clipped = clipped_sum(channel, updates, states, size=SIZE)
        _, after = open_sum(channel, total, states, clipped=clipped, clients=tuple(range(len(updates))))
        logs.append(float(after["privacy"].shared["clip"].log()))
    without, short, long = logs
    count = 0.2 / channel.denominator  # one client of the count, in the logarithm of the norm
    assert without - short == pytest.approx(count / 2)
    assert long - without == pytest.approx(count / 2)
