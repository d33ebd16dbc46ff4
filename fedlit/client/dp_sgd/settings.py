"""Settings of example-level differential privacy, without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedlit.core.errors import ConfigError, raise_errors, require, require_positive
from fedlit.core.facts import FederationFacts
from fedlit.data.loading import Loading

HALF = {"16-true": "float16", "bf16-true": "bfloat16"}
"""Precisions of a Trainer whose weights have half precision."""


@dataclass(frozen=True)
class ExamplePrivacy:
    """DP-SGD in the local training of each client.

    In each step each example of the client is in the batch with probability batch size / examples, independently of the others.
    The gradient of each example is clipped to the norm `clip`, Gaussian noise is added to the sum, and the sum is divided by
    the expected batch size. This is Algorithm 1 of Abadi et al., "Deep Learning with Differential Privacy", CCS 2016,
    https://arxiv.org/abs/1607.00133. What a client sends is a function of these noisy gradients.

    The protected unit is one example of one client: epsilon bounds the effect of an example on everything that its client
    sends, compared with the same client where the example contributes nothing. The number of examples of each client counts as
    public: the sampling probability, the number of steps and the client's weight depend on it.

    Args:
        clip: largest norm of an example's gradient over all trained parameters together, > 0.
        noise_multiplier: standard deviation of the noise on the sum / clip, >= 0; None if `epsilon` decides.
        epsilon: epsilon of a client that takes part in every round, > 0 and possibly infinite, which decides the noise
            multiplier of each client; None if `noise_multiplier` is given.
        delta: probability of a larger loss of privacy than epsilon, in (0, 1).
        rounds: rounds of the run; `bind` sets them.
        fits: passes over the shard of each fit of a round, None for the schedule's local work; `bind` sets them.
    """

    clip: float = 1.0
    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float = 1e-5
    rounds: int = 1
    fits: tuple[int | None, ...] = (None,)

    def __post_init__(self) -> None:
        noise, epsilon, delta = self.noise_multiplier, self.epsilon, self.delta
        both = noise is not None and epsilon is not None
        problem = (
            f"calibrates the noise, and noise_multiplier={noise} gives it" if both else "leaves the noise undecided"
        )
        hint = "set one of them to null" if both else "set it, or privacy.noise_multiplier"
        least = "must be a number of at least 0"
        raise_errors(
            require_positive("clip", self.clip),
            require((noise is None) != (epsilon is None), "epsilon", epsilon, problem, hint),
            require(noise is None or 0 <= noise < math.inf, "noise_multiplier", noise, least, "0 adds no noise"),
            require(epsilon is None or epsilon > 0, "epsilon", epsilon, "must be greater than 0", "inf adds no noise"),
            require(0 < delta < 1, "delta", delta, "must be greater than 0 and less than 1", "1e-5 is a usual value"),
        )

    def statement(self) -> str:
        """A sentence of the summary: what is protected, and against whom."""
        guarantee = f"differential privacy at delta {self.delta:.3g}, zero-out, accounted by PLD for each client"
        public = "the clients' numbers of examples are public"
        research = "the noise follows from the seed, so it serves research only"
        return f"One example of one client against the server and everyone else: {guarantee}; {public}; {research}."

    def bind(self, rounds: int, fits: tuple[int | None, ...]) -> ExamplePrivacy:
        """The same settings with the planned rounds and fits.

        The number of rounds has no effect if the noise multiplier is given, and is left out.
        """
        return replace(self, rounds=1 if self.epsilon is None else rounds, fits=fits)

    def sample_rate(self, examples: int, batch_size: int | None) -> float:
        """Probability that an example is in a batch.

        It is 1 for a client that has fewer examples than a batch.

        Args:
            examples: number of examples of the client, > 0.
            batch_size: expected number of examples in a batch; None for the whole shard.
        """
        return 1.0 if batch_size is None else min(1.0, batch_size / examples)

    def check(self, facts: FederationFacts, loading: Loading, options: Mapping[str, Any]) -> Iterator[ConfigError]:
        """Yield errors and warnings about the Trainer, the batches and the clients.

        Args:
            facts: facts about the federation.
            loading: recipe of batches.
            options: arguments of the clients' Trainers.
        """
        yield from _trainer_errors(options)
        if facts.manual_optimization:
            problem = "uses manual optimization: privacy=example cannot put its noise between the gradient and the step"
            yield ConfigError("model", facts.module, problem, "use automatic optimization")
        yield from _loading_errors(loading)
        yield from self._warnings(facts, loading)

    def _warnings(self, facts: FederationFacts, loading: Loading) -> Iterator[ConfigError]:
        size = loading.local_batch_size
        small = int(((facts.sizes > 0) & (facts.sizes <= (size or facts.sizes))).sum())
        if small:
            problem = (
                f"is at least the number of examples of {small} of {len(facts.sizes)} clients: they use every example in every "
                "step, so sampling does not reduce their epsilon"
            )
            hint = "use smaller batches, or larger clients"
            yield ConfigError("data.batch_size", loading.batch_size, problem, hint, warning=True)
        if self.noise_multiplier == 0 or self.epsilon == math.inf:
            key, value = ("noise_multiplier", 0) if self.epsilon is None else ("epsilon", "inf")
            problem = "adds no noise, so nothing is protected"
            yield ConfigError(f"privacy.{key}", value, problem, "epsilon=8 is a usual start", warning=True)
        if (largest := int(facts.sizes.max(initial=0))) and self.delta >= 1 / largest:
            problem = f"is at least 1 / {largest}, the inverse of the largest client's number of examples"
            hint = "such a delta allows a mechanism that publishes one example at random"
            yield ConfigError("privacy.delta", self.delta, problem, hint, warning=True)


def _trainer_errors(options: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Yield errors about arguments of the clients' Trainers."""
    if (count := options.get("accumulate_grad_batches") or 1) != 1:
        problem = "adds up the gradients of several batches before a step, and privacy=example accounts for each batch"
        yield ConfigError("trainer.accumulate_grad_batches", count, problem, "use larger batches: data.batch_size")
    if options.get("gradient_clip_val") is not None:
        problem = (
            "clips the mean gradient again after the noise, and privacy=example clips the gradient of each example"
        )
        hint = "privacy.clip is the largest norm of an example's gradient"
        yield ConfigError("trainer.gradient_clip_val", options["gradient_clip_val"], problem, hint)
    precision = str(options.get("precision"))
    if precision == "16-mixed":
        problem = "scales the loss by a factor that depends on the gradients, before privacy=example clips them"
        yield ConfigError("trainer.precision", precision, problem, "use bf16-mixed or 32-true")
    if precision in HALF:
        problem = f"clips gradients and draws noise in {HALF[precision]}: rounding can lengthen a clipped gradient"
        yield ConfigError("trainer.precision", precision, problem, "use bf16-mixed or 32-true")


def _loading_errors(loading: Loading) -> Iterator[ConfigError]:
    """Yield errors about the recipe of batches."""
    if loading.drop_last:
        problem = "leaves out the last batch of a pass, and the batches of privacy=example are drawn independently"
        yield ConfigError("data.drop_last", "true", problem, "use data.drop_last=false")
    if loading.num_workers:
        problem = "starts new processes for each batch, since privacy=example draws the examples of each batch anew"
        yield ConfigError("data.num_workers", loading.num_workers, problem, "use data.num_workers=0")
