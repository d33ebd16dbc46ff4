"""Benchmark of the channel's parts against a memory copy, for 10^5 and 10^7 numbers.

    python scripts/bench_channel.py                          all parts
    python scripts/bench_channel.py --only int8 qsgd         these parts
    python scripts/bench_channel.py --sizes 100000 --repeats 31

encode is the client's half: `pack` of a codec, `encode` of a stage, `factor` of a clip. decode is the server's half: `unpack`
of a codec for each message, `open` of a stage once for the sum, which is float64. Both are in GB/s of float32: 4 bytes times
the numbers of the update, divided by seconds, in one thread.

The copy is `Tensor.clone`: like each part, it writes its result to new memory. A repeat times the copy and all parts, one after
the other. `part` is the median over repeats of seconds of the copy / seconds of the part. For comparison the first lines also
have a copy to memory that is already in use, which for 10^5 numbers is in the processor's cache.
"""

import argparse
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fedlit.aggregation import Channel, Codec, Float32, Stage, SumTicket, Ticket
from fedlit.aggregation.compression import QSGD, Half, Int8, RandK, Sign, TopK
from fedlit.aggregation.privacy import CentralDP, LocalDP
from fedlit.core.facts import FederationFacts, Sampling
from fedlit.core.messages import StageState
from fedlit.core.tensors import Layout

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
STAGES: dict[str, Stage] = {
    "randk 1 %": RandK(0.01),
    "randk 10 %": RandK(0.1),
    "privacy=central": CentralDP(noise_multiplier=1.0, clip=1.0),
    "privacy=local": LocalDP(noise_multiplier=1.0, clip=1.0),
}


@dataclass
class Case:
    """A part with one update.

    Args:
        layout: layout of the update: ten tensors.
        vector: the update.
        count: rounds so far, so that each call has other random numbers.
        others: the part's state on the server, and its sum.
    """

    layout: Layout
    vector: torch.Tensor
    count: int = 0
    others: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, size):
        layout = Layout(tuple(("parameters", f"w{index}", (size // 10,)) for index in range(10)))
        return cls(layout, torch.from_numpy(np.random.default_rng(0).normal(size=size).astype(np.float32)))

    def ticket(self, part, state):
        self.count += 1
        facts = {"round": self.count, "client": 1, "seed": 0, "weight": 1.0, "stage": part.name}
        return Ticket(**facts, layout=self.layout, shared=state.shared)

    def sum_ticket(self, part):
        self.count += 1
        facts = {"round": self.count, "seed": 0, "clients": (1,), "updates": 1, "clipped": 0, "weight": 1.0}
        return SumTicket(**facts, stage=part.name, layout=self.layout)


def timed(function, *arguments):
    """Return the seconds of a call and its result."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def time_codec(codec, case):
    """Return the seconds of packing and unpacking a message."""
    encode_s, content = timed(codec.pack, case.vector, case.ticket(codec, StageState()))
    decode_s, _ = timed(codec.unpack, memoryview(bytearray(content)), case.layout)
    return encode_s, decode_s


def time_stage(stage, case):
    """Return the seconds of encoding an update, and of opening a sum of one update."""
    state = stage.init(case.layout)
    encode = getattr(stage, "factor", stage.encode)  # a clip sends a factor
    encode_s, result = timed(encode, case.vector.clone(), case.ticket(stage, state))
    encoded = case.vector if isinstance(result, float) else result[0]
    decode_s, _ = timed(stage.open, encoded.double(), case.sum_ticket(stage), state)
    return encode_s, decode_s


def bind(stage):
    """Return the stage for a federation of 100 clients."""
    facts = FederationFacts(
        sizes=np.full(100, 10),
        cohort_size=10,
        splits=(),
        has_client_tests=False,
        rounds=100,
        sampling=Sampling("poisson", probability=0.1),
        weighting="equal",
    )
    return Channel.of([stage]).bind(facts).stages[0]


def run(parts, size, repeats):
    """Return the seconds of each part, and of the copies, in each repeat."""
    case, seconds = Case.of(size), defaultdict(list)
    target, calls = torch.empty(size), max(1, 1_000_000 // size)
    for _ in range(repeats + 1):
        for _ in range(calls):
            seconds["clone"].append(timed(case.vector.clone)[0])
            seconds["copy_"].append(timed(target.copy_, case.vector)[0])
        for name, (measure, part) in parts.items():
            pairs = [measure(part, case) for _ in range(calls)]
            for half, values in zip(("encode", "decode"), zip(*pairs, strict=True), strict=True):
                seconds[name, half].append(values)
    grouped = {name: np.array(values).reshape(repeats + 1, calls) for name, values in seconds.items()}
    return {name: np.median(values[1:], axis=1) for name, values in grouped.items()}  # the first is a warm-up


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 10_000_000])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of names")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = {name: (time_codec, codec) for name, codec in CODECS.items()}
    parts |= {name: (time_stage, bind(stage)) for name, stage in STAGES.items()}
    parts = {name: part for name, part in parts.items() if not options.only or name.startswith(tuple(options.only))}
    for size in options.sizes:
        seconds, unit = run(parts, size, options.repeats), 4e-9 * size
        copies = ", ".join(f"{name} {unit / statistics.median(seconds[name]):.2f} GB/s" for name in ("clone", "copy_"))
        print(f"{size:,} numbers: {copies}", flush=True)
        print(f"{'':18}{'encode':>10}{'part':>8}{'decode':>10}{'part':>8}   GB/s of float32, and parts of clone")
        for name in parts:
            cells = ""
            for half in ("encode", "decode"):
                values = seconds[name, half]
                cells += f"{unit / np.median(values):10.2f}{np.median(seconds['clone'] / values):8.2f}"
            print(f"{name:18}{cells}", flush=True)


if __name__ == "__main__":
    main()
