"""Quantisation, groups and refusals: the common part of secure stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedlit.aggregation.aggregator import Aggregator
from fedlit.aggregation.channel.codec import Codec
from fedlit.aggregation.channel.tickets import Ticket
from fedlit.aggregation.privacy.skellam.grid import SkellamGrid
from fedlit.aggregation.secure.protocol.graph import MIN_CLIENTS, Thresholds, make_groups, make_thresholds
from fedlit.aggregation.secure.quantizer import EXTRA, RingQuantizer
from fedlit.aggregation.secure.ring import RingCodec, RingSum
from fedlit.aggregation.secure.secure_stage import OpenedSum, SecureStage
from fedlit.core.errors import ConfigError, raise_errors, require, require_at_least, require_positive
from fedlit.core.facts import LOST_SHARE, FederationFacts, SecureSumFacts
from fedlit.core.tensors import Layout, Tensors


@dataclass(frozen=True)
class IntegerSum(SecureStage):
    """A secure stage that adds quantised updates in a ring.

    Args:
        range: largest absolute value of a coordinate of an update, > 0; larger ones are clipped and counted.
        ranges: another range for single groups of an update, such as `h` of q-FedAvg.
        bits: bits of one client's integer, from 2 to 32.
        ring: 32 or 64; sums are modulo 2^ring.
        max_weight: largest weight of a client, a whole number; None for the examples of the largest client, or 1 if all
            clients have the same weight.
        threshold: part of a group that must survive, in (0.5, 1]; None for floor(2n/3) + 1 of n clients.
        group_size: clients that a group has at least; None for one group, the cohort.
        noise: the grid of a privacy mechanism, which takes the place of range, bits and weights; `Channel.bind` sets it.

    Attributes:
        takes_noise: True if a sum is opened only with the noise of as many clients as its threshold.
    """

    takes_noise: ClassVar[bool] = False

    range: float = 1.0
    ranges: Mapping[str, float] = field(default_factory=dict)
    bits: int = 20
    ring: int = 32
    max_weight: int | None = None
    threshold: float | None = None
    group_size: int | None = None
    noise: SkellamGrid | None = None

    def __post_init__(self) -> None:
        threshold = self.threshold
        is_valid = threshold is None or 0.5 < threshold <= 1
        raise_errors(
            require(is_valid, "threshold", threshold, "must be greater than 0.5 and at most 1, or null"),
            require_at_least("group_size", MIN_CLIENTS if self.group_size is None else self.group_size, MIN_CLIENTS),
            *(require_positive(f"ranges.{name}", value) for name, value in self.ranges.items()),
        )
        RingQuantizer(self.range, self.bits, self.ring, 1 if self.max_weight is None else self.max_weight)

    @property
    def name(self) -> str:
        """Name of the stage, the same for all kinds of secure sums.

        The random numbers of the rounding depend on it, so all kinds have the same sums.
        """
        return "secure_sum"

    @property
    def quantizer(self) -> RingQuantizer:
        """The grid and the ring."""
        return RingQuantizer(self.range, self.bits, self.ring, self.max_weight or 1)

    @property
    def largest_sum(self) -> int | None:
        """The largest absolute value of a sum; None for the ring's."""
        return None

    @property
    def codec(self) -> Codec:
        """The codec of encoded vectors."""
        return RingCodec(self.ring)

    @property
    def aggregator(self) -> Aggregator:
        """The sum modulo the ring."""
        return RingSum()

    def thresholds(self, clients: int) -> Thresholds:
        """The thresholds of a group.

        Raises:
            ValueError: if the group is too small.
        """
        return make_thresholds(clients, self.threshold, None, self.survivors)

    @property
    def survivors(self) -> int:
        """Least number of updates in any opened sum."""
        return MIN_CLIENTS if self.noise is None else max(MIN_CLIENTS, self.noise.survivors)

    def groups(self, cohort: Sequence[int]) -> list[tuple[int, ...]]:
        """Cut a cohort into groups."""
        return make_groups(cohort, self.group_size)

    def bind(self, facts: FederationFacts) -> IntegerSum:
        """The stage with the largest weight of the federation's clients."""
        if self.max_weight is not None:
            return self
        return replace(self, max_weight=1 if facts.weighting == "equal" else max(1, int(facts.sizes.max(initial=1))))

    def sum_facts(self, facts: FederationFacts) -> SecureSumFacts | None:
        """The groups of a federation's cohorts; None for a sum without noise."""
        if not self.takes_noise:
            return None
        smallest = min(map(len, self.groups(range(facts.cohort_size))))
        survivors = replace(self, noise=None).thresholds(max(smallest, MIN_CLIENTS)).group
        return SecureSumFacts(self.ring, survivors, self.largest_group(facts))

    def with_noise(self, grid: SkellamGrid) -> IntegerSum:
        """The same stage with the grid of a privacy mechanism.

        Raises:
            ConfigError: if the stage takes no noise.
        """
        if not self.takes_noise:
            super().with_noise(grid)
        return replace(self, noise=grid)

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors for parts that need single updates.

        Sums that could leave the ring are errors too.
        """
        yield from super().check(facts)
        if facts.integer_buffers:
            problem = f"cannot add the integers {', '.join(facts.integer_buffers[:3])} on a grid of fractions"
            yield ConfigError("encryption", "", problem, "use algorithm.buffers=server, or model.norm=group")
        if facts.update_numbers and not any(facts.update_numbers.values()):
            problem = f"has nothing to add: {facts.algorithm} sends no update"
            yield ConfigError("encryption", "", problem, "use encryption=none")
        if facts.has_client_tests:
            problem = "hides updates alone: the server sees the metrics of each client's own test set in the clear"
            hint = "set data.client_test_fraction=0, or take data without test sets of clients"
            yield ConfigError("encryption", "", problem, hint, warning=True)
        if facts.sampling.kind != "poisson" and facts.cohort_size < MIN_CLIENTS:
            problem = f"needs cohorts of {MIN_CLIENTS} clients or more: in a sum of 2, each client can subtract its own update"
            yield ConfigError("encryption", "", problem, f"use schedule.clients_per_round={MIN_CLIENTS} or more")
        if (share := facts.sampling.prob_below(self.survivors, len(facts.sizes))) >= LOST_SHARE:
            problem = (
                f"draws fewer than {self.survivors} clients in {share:.0%} of the rounds, and such a sum is not opened"
            )
            yield ConfigError("sampler", "poisson", problem, "take a larger q, or more clients a round", warning=True)
        yield from (
            self._check_noise(facts) if facts.secure_sum and facts.secure_sum.has_noise else self._check_grid(facts)
        )

    def _check_grid(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors of the stage's own grid."""
        if unknown := set(self.ranges) - set(facts.update_numbers):
            problem = f"are not groups of the update, which has {', '.join(facts.update_numbers)}"
            yield ConfigError("encryption.ranges", sorted(unknown), problem)
        named = ("parameters", *self.ranges)
        if others := [group for group, count in facts.update_numbers.items() if count and group not in named]:
            hint = f"+encryption.ranges.{others[0]}=VALUE gives it a range of its own"
            problem = f"also limits {', '.join(others)}: larger numbers are clipped, and secure/clipped counts them"
            yield ConfigError("encryption.range", self.range, problem, hint, warning=True)
        size, group = sum(facts.update_numbers.values()), self.largest_group(facts)
        for error in self.bind(facts).quantizer.overflows(group, size, self.largest_sum):
            yield error.prefixed("encryption")

    def largest_group(self, facts: FederationFacts) -> int:
        """Number of clients of the largest possible group."""
        cohort = facts.max_cohort or facts.cohort_size
        return cohort if self.group_size is None else min(cohort, 2 * self.group_size - 1)

    def _check_noise(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield warnings of figures that a privacy mechanism replaces."""
        for name, default in {"range": IntegerSum.range, "ranges": {}, "bits": IntegerSum.bits}.items():
            if (value := getattr(self, name)) != default:
                problem = "has no effect: the privacy mechanism clips updates, and makes the grid of integers"
                hint = "privacy.clip and privacy.granularity take its place"
                yield ConfigError(f"encryption.{name}", value, problem, hint, warning=True)
        if self.max_weight not in (None, 1):  # `bind` makes None 1
            problem = "has no effect: the privacy mechanism gives each client the weight 1"
            yield ConfigError("encryption.max_weight", self.max_weight, problem, "leave it out", warning=True)

    def weight_error(self, weight: float) -> ConfigError | None:
        """An error unless a mask can hold the weight."""
        return self.quantizer.weight_error(weight)

    def describe(self, cohort: int) -> str:
        """The groups of a cohort, and the losses that they survive."""
        sizes = sorted(map(len, self.groups(range(cohort))))
        try:
            thresholds = self.thresholds(sizes[0])
        except ValueError as error:
            return f"{error}, so the round would be lost"
        groups = f"one group of {sizes[0]} clients" if len(sizes) == 1 else f"{len(sizes)} groups of {sizes[0]} clients"
        groups += "" if sizes[0] == sizes[-1] else " or one more"
        noise = "" if self.noise is None else f"; {self.noise.describe()}"
        losses = (
            f"{thresholds.losses} can be lost: {thresholds.group}" if thresholds.losses else "none can be lost: all"
        )
        return f"{groups}, of which {losses} must answer{noise}"

    def encode(self, vector: Tensor, ticket: Ticket) -> tuple[Tensor, Tensors]:
        """Quantise weight * update, and conceal the integers."""
        if self.noise is not None:
            integers = self.noise.encode(vector.numpy(), ticket.weight, ticket.generator)
            return self.conceal(integers.astype(self.quantizer.dtype), ticket)  # modulo the ring
        scaled = vector.numpy() / self._scale(ticket.layout)
        return self.conceal(self.quantizer.quantize(scaled, ticket.weight, ticket.generator), ticket)

    def conceal(self, integers: np.ndarray, ticket: Ticket) -> tuple[Tensor, Tensors]:
        """Conceal the integers of one client.

        Returns:
            The concealed integers, and the client's pending tensors.
        """
        raise NotImplementedError

    def encoded_layout(self, layout: Layout) -> Layout:
        """Layout of the integers: coordinates, weight, number of clipped coordinates.

        A privacy mechanism gives each client the weight 1, and clips no coordinate.
        """
        size = layout.size + (EXTRA if self.noise is None else 0)
        return Layout((("integers", self.name, (size,)),))

    def open_sum(self, total: Tensor, layout: Layout) -> OpenedSum:
        """The sum of all groups as real numbers."""
        if self.noise is not None:  # a fixed divisor takes the place of the weights
            return OpenedSum(torch.from_numpy(self.noise.decode(total.numpy())), 1.0, 0)
        sums, weight, clipped = self.quantizer.dequantize(total.numpy())
        return OpenedSum(torch.from_numpy(sums * self._scale(layout)), weight, clipped)

    def _scale(self, layout: Layout) -> np.ndarray:
        """Each coordinate's range as a multiple of `range`, shape (d,) or ()."""
        scale = np.ones(layout.size if self.ranges else ())
        for group, value in self.ranges.items():
            scale[layout.span(group)] = value / self.range
        return scale
