"""Power-of-choice: of some candidates those take part whose loss is highest.

Cho, Wang, Joshi, "Towards Understanding Biased Client Selection in Federated Learning", AISTATS 2022,
https://arxiv.org/abs/2010.01243
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.server.sampling.sampler import ClientPool, Sampler
from fedlit.server.sampling.samplers import check_cohort_size, draw_by_examples


@dataclass(frozen=True)
class PowerOfChoice(Sampler):
    """Draws d candidates without replacement with probabilities proportional to examples, asks each for its mean training loss
    of the global model, and takes the m with the highest; of equal ones those with the lower ids.

    The paper averages uniformly: `algorithm.weights=uniform`. The candidates do not depend on the algorithm, the choice among
    them does, since it depends on the model. A candidate that fails to answer is not taken; if fewer than m answer, all do.

    Args:
        size: m, clients in a cohort, >= 1.
        candidates: d, >= m; None for 2 m, or all clients if there are fewer. d = m is `Weighted`.
    """

    size: int
    candidates: int | None = None
    weighted_by_examples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.candidates is not None and self.candidates < self.size:
            why = f"must be at least the {self.size} clients of a round"
            raise ConfigError("candidates", self.candidates, why, "null takes twice as many")

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """At most `size` different ids."""
        asked = np.sort(draw_by_examples(pool, self._count(pool.sizes), generator))
        losses = pool.losses(asked)
        answered = ~np.isnan(losses)
        highest = np.argsort(-losses[answered], kind="stable")  # of equal ones the lower id
        return asked[answered][highest[: self.size]]

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """As many clients with samples as candidates; a warning that asking takes no simulated time."""
        if self.candidates is not None and self.candidates > len(facts.sizes):
            why = f"is more than the {len(facts.sizes)} clients there are"
            yield ConfigError("sampler.candidates", self.candidates, why, "take fewer")
        else:
            yield from check_cohort_size(facts, self.candidates or self.size)
        if facts.has_clock:
            why = "does not count the seconds in which candidates answer with their losses"
            yield ConfigError("clock", "", why, "read time/simulated_s as that of training alone", warning=True)

    def _count(self, sizes: np.ndarray) -> int:
        return self.candidates or min(2 * self.size, int((sizes > 0).sum()))
