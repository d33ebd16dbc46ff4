"""The groups `compression` and `compression/down`: what they make, and the errors of wrong choices."""

import pytest
from configured import build, errors_of

from fedlit.aggregation.compression import QSGD, Half, Int8, PowerSGD, RandK, TopK

pytestmark = pytest.mark.slow  # each composes the configuration


def test_the_groups_make_the_channel():
    channel = build("compression=topk", "compression.fraction=0.02", "compression/down=int8").federation.channel
    assert (channel.codec, channel.error_feedback, channel.down) == (TopK(0.02), True, Int8())
    channel = build("compression=randk", "compression/down=half", "compression.down.dtype=float16").federation.channel
    assert (channel.stages, channel.error_feedback, channel.down) == ([RandK(0.1)], False, Half("float16"))
    channel = build("compression=powersgd", "compression.rank=2").federation.channel
    assert (channel.stages, channel.error_feedback) == ([PowerSGD(2)], True)
    assert build("compression=none", "compression/down=qsgd").federation.channel.down == QSGD(levels=127)


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        (["compression=topk", "compression.fraction=2"], "compression.fraction", "at most 1"),
        (["compression=powersgd", "compression.rank=0"], "compression.rank", "at least 1"),
        (
            ["compression=powersgd", "privacy=central", "privacy.noise_multiplier=3", "algorithm.weights=uniform"],
            "compression",
            "sends an update in two exchanges, and privacy needs all of it in one message",
        ),
        (["compression=qsgd", "compression.levels=0"], "compression.levels", "from 1 to 127"),
        (["compression/down=qsgd", "compression.down.bucket=0"], "compression.down.bucket", "at least 1"),
        (["compression=half", "compression.error_feedback=1"], "compression.error_feedback", "true or false"),
        (["compression.down=half"], "compression.down", "compression/down=half"),
        (["compression=qsgd", "compression.error_feedback=true"], "compression.error_feedback", "error of qsgd"),
        (["compression=sign", "compression.vote=majority"], "compression.error_feedback", "error of sign"),
        (
            ["compression=sign", "compression.vote=majority", "compression.error_feedback=false", "algorithm=scaffold"],
            "compression.vote",
            "no meaning for control of Scaffold",
        ),
        (
            ["+compression.down._target_=fedlit.aggregation.compression.TopK"],
            "compression.down",
            "suits updates, and the server sends weights",
        ),
        (
            ["+compression.down._target_=fedlit.aggregation.compression.RandK"],
            "compression.down",
            "suits updates, and the server sends weights",
        ),
        (
            ["compression=int8", "privacy=local", "privacy.noise_multiplier=1", "algorithm.weights=uniform"],
            "compression",
            "need all of them",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_wrong_choice_is_an_error_with_its_reason(overrides, key, text):
    errors = errors_of(*overrides)
    assert list(errors) == [key]
    assert text in errors[key]
