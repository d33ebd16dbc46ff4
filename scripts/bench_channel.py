"""Benchmark of the channel's parts against a memory copy, for 10^5 and 10^7 numbers.

    python scripts/bench_channel.py                          all parts
    python scripts/bench_channel.py --only int8 qsgd         these parts
    python scripts/bench_channel.py --sizes 100000 --repeats 31

encode is the client's half, decode the server's. They are `pack` and `unpack` of a codec for each message; `encode` of a stage,
and `open` once for the sum, which is float64; the factor of a clip; a privacy mechanism's noise on the sum; of PowerSGD both
exchanges. `ideal` quantises to integers, and makes numbers of their sum. `secagg` adds five masks to the integers, as with four
neighbours, and the server subtracts one mask. `distributed` clips, rotates, rounds and adds Skellam noise, and the server
undoes the rotation; `distributed plain` does not rotate. Both are in GB/s of float32: 4 bytes times the numbers of the update,
divided by seconds of the processor in one thread.

The copy is `Tensor.clone`: like each part, it writes its result to new memory. A repeat measures the copy and all parts, one
after the other. `part` is the median over repeats of seconds of the copy / seconds of the part.

`cached` repeats one update, which is in the processor's cache if it fits. `memory` takes turns between updates and between
messages of CACHE bytes together, so that each is read from memory, as after a client's training.
"""

import argparse
import math
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedlit.aggregation import Channel, Codec, Float32, Stage, SumTicket, Ticket
from fedlit.aggregation.channel.message import Turn
from fedlit.aggregation.compression import QSGD, Half, Int8, PowerSGD, RandK, Sign, TopK
from fedlit.aggregation.privacy import DPFTRL, CentralDP, DistributedDP, LocalDP
from fedlit.aggregation.secure import IdealSum
from fedlit.aggregation.secure.protocol.primitives import add_masks
from fedlit.aggregation.secure.ring import to_array
from fedlit.aggregation.secure.vault import Vault
from fedlit.core.facts import FederationFacts, Sampling
from fedlit.core.tensors import Layout

CACHE = 1 << 26
"""Bytes that take turns, more than the largest cache of a processor."""

CODECS: dict[str, Codec] = {
    "float32": Float32(),
    "half": Half(),
    "half float16": Half("float16"),
    "int8": Int8(),
    "qsgd 4 bits": QSGD(levels=7),
    "qsgd 8 bits": QSGD(levels=127),
    "sign": Sign(),
    "sign majority": Sign("majority"),
    "topk 1 %": TopK(0.01),
    "topk 10 %": TopK(0.1),
}
POISSON, SEPARATED = Sampling("poisson", probability=0.1), Sampling("separated", separation=5)
KEYS = [bytes([number]) * 32 for number in range(5)]


@dataclass(frozen=True)
class Part:
    """A part of the channel.

    Args:
        encode: makes a message of an update; gets the number of the call.
        decode: the server's half; gets the prepared message and the number of the call.
        prepare: what `decode` takes for a message.
    """

    encode: Callable[[torch.Tensor, int], Any] | None = None
    decode: Callable[[Any, int], Any] | None = None
    prepare: Callable[[Any], Any] = lambda message: message


def layout_of(size):
    """Ten tensors, square ones if possible."""
    side = math.isqrt(size // 10)
    shape = (side, side) if side * side == size // 10 else (size // 10,)
    return Layout(tuple(("parameters", f"w{index}", shape) for index in range(10)))


def ticket(layout, stage, count, **facts):
    return Ticket(round=count, client=1, seed=0, weight=1.0, stage=stage.name, layout=layout, **facts)


def sum_ticket(layout, stage, count):
    facts = {"seed": 0, "clients": (1,), "updates": 1, "clipped": 0, "weight": 1.0, "stage": stage.name}
    return SumTicket(round=count, layout=layout, **facts)


def bind(stage, sampling=POISSON):
    """Return the stage for a federation of 100 clients."""
    facts = {"sizes": np.full(100, 10), "cohort_size": 10, "splits": (), "has_client_tests": False, "rounds": 20}
    return Channel.of([stage]).bind(FederationFacts(**facts, sampling=sampling, weighting="equal")).stages[0]


def codec_part(codec, layout):
    return Part(
        lambda vector, count: codec.pack(vector, ticket(layout, codec, count)),
        lambda content, count: codec.unpack(content, layout),
        lambda content: memoryview(bytearray(content)),
    )


def stage_part(stage: Stage, layout):
    state = stage.init(layout)
    return Part(
        lambda vector, count: stage.encode(vector, ticket(layout, stage, count, shared=state.shared))[0],
        lambda total, count: stage.open(total, sum_ticket(layout, stage, count), state),
        torch.Tensor.double,
    )


def clip_part(stage, layout):
    state = stage.init(layout)
    return Part(lambda vector, count: stage.factor(vector, ticket(layout, stage, count, shared=state.shared)))


def noise_part(stage, layout):
    """The noise on a sum; the encoding is a copy, which is not shown."""
    state = stage.init(layout)

    def add(total, count):
        return stage.open(total, sum_ticket(layout, stage, count % 20), state)

    return Part(lambda vector, count: vector, add, torch.Tensor.double)


def integer_part(layout, masks):
    """Quantisation, with masks or without."""
    stage = IdealSum(max_weight=1)

    def encode(vector, count):
        integers = stage.quantizer.quantize(vector.numpy(), 1.0, ticket(layout, stage, count).generator)
        add_masks(integers, masks, [])
        return integers

    def decode(total, count):
        add_masks(total, [], masks[:1])
        return stage.open_sum(torch.from_numpy(stage.quantizer.signed(total)), layout)

    return Part(encode, decode)


def distributed_part(layout, noise, rotate):
    """Clip, rotation, rounding and noise, and the rotation of the sum; no mask."""
    stages = [DistributedDP(**noise, rotate=rotate), IdealSum(ring=64)]
    facts = {"sizes": np.full(100, 10), "cohort_size": 10, "splits": (), "has_client_tests": False, "rounds": 20}
    facts |= {"sampling": Sampling("fixed", size=10), "update_numbers": {"parameters": layout.size}}
    stage, secure = Channel.of(stages).bind(FederationFacts(**facts, weighting="equal")).stages
    state, rotated = stage.init(layout), stage.encoded_layout(layout)

    def encode(vector, count):
        spread, _ = stage.encode(vector, ticket(layout, stage, count))
        return secure.encode(spread, ticket(rotated, secure, count))[0]

    def decode(total, count):
        opened = secure.open_sum(total, rotated).total
        return stage.open(opened, sum_ticket(layout, stage, count), state)

    return Part(encode, decode, lambda message: torch.from_numpy(secure.quantizer.signed(to_array(message))))


def powersgd_parts(layout):
    """Both exchanges of PowerSGD."""
    stage, vault = PowerSGD(), Vault()
    state = stage.init(layout)
    update = torch.ones(layout.size)
    left, pending = stage.encode(update, ticket(layout, stage, 0, shared=state.shared))
    basis = stage.make_basis(left.double(), layout)

    def express(vector, count):
        turn = Turn(exchange="factors", request=b"", pending={**pending, "update": vector}, vault=vault)
        return stage.express(basis, ticket(layout, stage, count, turn=turn))[0]

    def open_sum(total, count):
        return stage.open(total, sum_ticket(layout, stage, count), state)

    first = Part(
        lambda vector, count: stage.encode(vector, ticket(layout, stage, count, shared=state.shared))[0],
        lambda total, count: stage.make_basis(total, layout),
        torch.Tensor.double,
    )
    return {
        "powersgd basis": first,
        "powersgd factors": Part(express, open_sum, lambda reply: torch.cat([basis.double(), reply.double()])),
    }


def make_parts(size):
    """Return all parts for updates of some numbers."""
    layout, noise = layout_of(size), {"noise_multiplier": 1.0, "clip": 1.0}
    central = bind(CentralDP(**noise))
    return {
        **{name: codec_part(codec, layout) for name, codec in CODECS.items()},
        "randk 1 %": stage_part(RandK(0.01), layout),
        "randk 10 %": stage_part(RandK(0.1), layout),
        **powersgd_parts(layout),
        "clip": clip_part(central, layout),
        "central noise": noise_part(central, layout),
        "ftrl noise": noise_part(bind(DPFTRL(**noise), SEPARATED), layout),
        "local": stage_part(bind(LocalDP(**noise)), layout),
        "distributed": distributed_part(layout, noise, rotate=True),
        "distributed plain": distributed_part(layout, noise, rotate=False),
        "ideal": integer_part(layout, []),
        "secagg": integer_part(layout, KEYS),
    }


def timed(function, *arguments):
    """Return the seconds of a call and its result."""
    start = time.thread_time()
    result = function(*arguments)
    return time.thread_time() - start, result


def run(parts, size, repeats, turns):
    """Return the seconds of each half, and of the copy, in each repeat.

    Args:
        parts: parts by name.
        size: numbers of an update.
        repeats: number of repeats.
        turns: number of updates that take turns.
    """
    generator, seconds = np.random.default_rng(0), defaultdict(list)
    vectors = [torch.from_numpy(generator.standard_normal(size, np.float32)) for _ in range(turns)]
    calls, messages = max(turns, 1_000_000 // size), {name: deque(maxlen=turns) for name in parts}
    for repeat in range(repeats + 1):  # the first is a warm-up, which fills the messages
        measured = defaultdict(list)
        for call in range(calls):
            measured["copy", ""].append(timed(vectors[call % turns].clone)[0])
        for name, part in parts.items():
            for call in range(calls):
                count = repeat * calls + call
                spent, message = timed(part.encode, vectors[call % turns], count)
                measured[name, "encode"].append(spent)
                if part.decode is not None:
                    messages[name].append(part.prepare(message))
                    measured[name, "decode"].append(timed(part.decode, messages[name][0], count)[0])
        for key, values in measured.items():
            seconds[key].append(statistics.median(values))
    return {key: np.array(values[1:]) for key, values in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 10_000_000])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of names")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for size in options.sizes:
        parts = make_parts(size)
        parts = {name: part for name, part in parts.items() if not options.only or name.startswith(tuple(options.only))}
        modes = {"cached": 1, "memory": max(2, CACHE // (4 * size))}
        results = {mode: run(parts, size, options.repeats, turns) for mode, turns in modes.items()}
        copies = (f"{mode} {4e-9 * size / np.median(seconds['copy', '']):.1f}" for mode, seconds in results.items())
        print(f"{size:,} numbers, copy in GB/s: {', '.join(copies)}", flush=True)
        print(f"{'':18}" + "".join(f"{mode + ' ' + half:>16}{'part':>6}" for mode in modes for half in HALVES))
        for name in parts:
            cells = (cell(results[mode], name, half, size) for mode in modes for half in HALVES)
            print(f"{name:18}" + "".join(cells), flush=True)


HALVES = ("encode", "decode")


def cell(seconds, name, half, size):
    """Return GB/s of a half, and its part of the copy."""
    values = seconds.get((name, half))
    if values is None or (name.endswith("noise") and half == "encode"):
        return f"{'':22}"
    part = np.median(seconds["copy", ""] / values)
    return f"{4e-9 * size / np.median(values):16.2f}{part:6.2f}"


if __name__ == "__main__":
    main()
