"""What is evaluated when: the server's splits, and clients on their own test samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedlit.core.errors import ConfigError, did_you_mean
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import EvalResult, EvaluateJob
from fedlit.core.streams import Purpose, stream
from fedlit.core.tensors import Groups
from fedlit.data.population import gini


@dataclass(frozen=True)
class Evaluations:
    """Which evaluations a round has.

    Args:
        clients: whose own test samples are evaluated on, where there are any: those of the round's `cohort`, of `all`
            clients, or of so many drawn once.
    """

    clients: Literal["cohort", "all"] | int = "cohort"

    def __post_init__(self) -> None:
        if isinstance(self.clients, str) and self.clients not in ("cohort", "all"):
            raise ConfigError(
                "clients",
                self.clients,
                "must be cohort, all or a number",
                did_you_mean(self.clients, ["cohort", "all"]),
            )
        if not isinstance(self.clients, str) and self.clients < 1:
            raise ConfigError("clients", self.clients, "must be cohort, all or a number of at least 1")

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Not a million evaluations by accident."""
        if self.clients == "all" and facts.has_client_tests and len(facts.sizes) > 10_000:
            why = f"evaluates {len(facts.sizes):,} clients one by one"
            yield ConfigError("eval.clients", "all", why, "eval.clients=1000 takes so many of them", warning=True)

    def make_jobs(
        self,
        round: int,
        splits: Iterable[str],
        own: int,
        cohort: Sequence[int],
        seed: int,
        memories: Callable[[Sequence[int]], Mapping[int, Groups]] | None = None,
    ) -> list[EvaluateJob]:
        """A job for each split, and for each client that is to be looked at if `own`, the number of clients, is not 0; with
        what it remembers, if that is asked for."""
        chosen = self._chosen(own, cohort, seed) if own else []
        known = {} if memories is None else memories(chosen)
        return [EvaluateJob(round, split) for split in splits] + [
            EvaluateJob(round, "test", client, known.get(client, {})) for client in chosen
        ]

    def _chosen(self, clients: int, cohort: Sequence[int], seed: int) -> list[int]:
        if self.clients == "cohort":
            return sorted(cohort)
        if self.clients == "all":
            return list(range(clients))
        drawn = stream(seed, Purpose.EVALUATION).choice(clients, min(int(self.clients), clients), replace=False)
        return sorted(drawn.tolist())


def combine_results(scores: Iterable[EvalResult]) -> dict[str, float]:
    """The splits' metrics under their names, and those of the clients' own test samples as `own/NAME`: their unweighted
    mean, standard deviation, lowest and highest tenth (means over a tenth of the clients, at least one) and Gini."""
    metrics: dict[str, float] = {}
    own: dict[str, list[float]] = {}
    for score in scores:
        if score.client is None:
            metrics |= score.metrics
        else:
            for name, value in score.metrics.items():
                own.setdefault(name.removeprefix("test").lstrip("/_"), []).append(value)
    for name, values in own.items():
        metrics |= {f"own/{key}": value for key, value in spread_over_clients(name, values).items()}
    return metrics


def spread_over_clients(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean, population standard deviation, means of the lowest and of the highest tenth, and Gini coefficient. Which tenth is
    the worst depends on what the values are: the lowest of an accuracy, the highest of a loss."""
    array = np.sort(np.asarray(values, dtype=np.float64))
    tenth = max(1, len(array) // 10)
    return {
        name: float(array.mean()),
        f"{name}_std": float(array.std()),
        f"{name}_lowest_tenth": float(array[:tenth].mean()),
        f"{name}_highest_tenth": float(array[-tenth:].mean()),
        f"{name}_gini": gini(array) if array.min() >= 0 else float("nan"),
    }
