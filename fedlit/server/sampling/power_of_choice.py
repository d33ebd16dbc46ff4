"""Power-of-choice: the candidates with the highest losses form the cohort.

Cho, Wang, Joshi, "Towards Understanding Biased Client Selection in Federated Learning", AISTATS 2022,
https://arxiv.org/abs/2010.01243
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts, Sampling
from fedlit.server.sampling.sampler import ClientPool, Sampler
from fedlit.server.sampling.samplers import check_cohort_size, draw_by_examples


@dataclass(frozen=True)
class PowerOfChoice(Sampler):
    """Power-of-choice: the m candidates with the highest losses out of d.

    The d candidates are drawn without replacement with probabilities proportional to examples. Each of them returns its mean
    training loss of the global model. Of equal losses the lower id is taken.

    The paper averages uniformly: `algorithm.weights=uniform`. The candidates do not depend on the algorithm. The cohort does,
    since the losses depend on the model. A candidate that fails to return its loss is not taken. If fewer than m return theirs,
    the cohort is smaller.

    Args:
        size: m, clients in a cohort, >= 1.
        candidates: d, >= m; None for 2 m, or for all clients with examples if they are fewer. d = m is `Weighted`.
    """

    size: int
    candidates: int | None = None
    weighted_by_examples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.candidates is not None and self.candidates < self.size:
            problem = f"must be at least {self.size}, the number of clients in a round"
            raise ConfigError("candidates", self.candidates, problem, "candidates=null takes twice that number")

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """Draw at most `size` distinct ids."""
        candidates = np.sort(draw_by_examples(pool, self._num_candidates(pool.sizes), generator))
        losses = pool.losses(candidates)
        has_loss = ~np.isnan(losses)
        highest = np.argsort(-losses[has_loss], kind="stable")  # of equal ones the lower id
        return candidates[has_loss][highest[: self.size]]

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors of the number of candidates; warn about a clock."""
        if self.candidates is not None and self.candidates > len(facts.sizes):
            problem = f"is more than the {len(facts.sizes)} clients of the federation"
            yield ConfigError("sampler.candidates", self.candidates, problem, "take fewer candidates")
        else:
            yield from check_cohort_size(facts, self.candidates or self.size)
        if facts.has_clock:
            problem = "does not count the seconds in which candidates compute their losses"
            hint = "time/simulated_s is the time of training alone"
            yield ConfigError("clock", "", problem, hint, warning=True)

    def sampling(self, clients: int) -> Sampling:
        """Cohorts that depend on the clients' losses."""
        return Sampling("other", by_loss=True)

    def _num_candidates(self, sizes: np.ndarray) -> int:
        return self.candidates or min(2 * self.size, int((sizes > 0).sum()))
