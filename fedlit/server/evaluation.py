"""Evaluations of a round: server splits, and clients' own test sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fedlit.core.errors import ConfigError, did_you_mean
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import EvalResult, EvaluateJob
from fedlit.core.streams import Purpose, stream
from fedlit.core.tensors import Groups
from fedlit.data.population import gini
from fedlit.runs.metric_names import bare_name, distinct_names


@dataclass(frozen=True)
class Evaluations:
    """The clients whose own test sets are evaluated.

    Args:
        clients: the round's `cohort`, `all` clients, or this number of clients, drawn once.
    """

    clients: Literal["cohort", "all"] | int = "cohort"

    def __post_init__(self) -> None:
        choices = ("cohort", "all")
        if isinstance(self.clients, str) and self.clients not in choices:
            hint = did_you_mean(self.clients, choices)
            raise ConfigError("clients", self.clients, "must be cohort, all or a number", hint)
        if not isinstance(self.clients, str) and self.clients < 1:
            raise ConfigError("clients", self.clients, "must be cohort, all or a number of at least 1")

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield a warning if very many clients are evaluated, or none."""
        if self.clients != "cohort" and not facts.has_client_tests:
            problem, hint = (
                "evaluates no client: no client has its own test set",
                "data.client_test_fraction=0.2 makes them",
            )
            yield ConfigError("eval.clients", self.clients, problem, hint, warning=True)
        if self.clients == "all" and facts.has_client_tests and len(facts.sizes) > 10_000:
            problem = f"evaluates {len(facts.sizes):,} clients one by one"
            yield ConfigError("eval.clients", "all", problem, "eval.clients=1000 evaluates 1000 of them", warning=True)

    def make_jobs(
        self,
        round: int,
        splits: Iterable[str],
        num_client_tests: int,
        cohort: Sequence[int],
        seed: int,
        client_states: Callable[[Sequence[int]], Mapping[int, Groups]] | None = None,
    ) -> list[EvaluateJob]:
        """Make one job for each split and for each evaluated client.

        Args:
            round: the round, counted from 0.
            splits: the server's splits.
            num_client_tests: number of clients with own test sets; 0 evaluates no client.
            cohort: the clients that `cohort` stands for.
            seed: the experiment's seed.
            client_states: reads the states of clients; None if no model depends on them.
        """
        clients = self._choose(num_client_tests, cohort, seed) if num_client_tests else []
        states = {} if client_states is None else client_states(clients)
        return [EvaluateJob(round, split) for split in splits] + [
            EvaluateJob(round, "test", client, states.get(client, {})) for client in clients
        ]

    def _choose(self, clients: int, cohort: Sequence[int], seed: int) -> list[int]:
        if self.clients == "cohort":
            return sorted(cohort)
        if self.clients == "all":
            return list(range(clients))
        ids = stream(seed, Purpose.EVALUATION).choice(clients, min(int(self.clients), clients), replace=False)
        return sorted(ids.tolist())


@dataclass(frozen=True)
class Scores:
    """The result of a round's evaluations.

    Args:
        metrics: metrics of the splits, and the spread over clients.
        clients: metrics of single clients on their own test sets, by `own/NAME` and client.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    clients: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, results: Sequence[EvalResult]) -> Scores:
        """Combine the results of a round's evaluations."""
        clients: dict[str, dict[int, float]] = {}
        for result in results:
            if result.client is not None:
                for name, value in result.metrics.items():
                    clients.setdefault(f"own/{bare_name(name)}", {})[result.client] = value
        return cls(combine_results(results), clients)


def combine_results(results: Iterable[EvalResult]) -> dict[str, float]:
    """Combine the results of a round's evaluations.

    Returns:
        The splits' metrics under their names. For clients' own test sets `own/NAME`: see `spread_over_clients`.
    """
    metrics: dict[str, float] = {}
    own: dict[str, list[float]] = {}
    for result in results:
        if result.client is None:
            metrics |= result.metrics
        else:
            for name, value in result.metrics.items():
                own.setdefault(name, []).append(value)
    bare = {name: bare_name(name) for name in sorted(own, key=len)}  # loss before loss_std
    names = distinct_names(bare, endings=list(spread_over_clients("", [1.0])))
    for logged, values in own.items():
        metrics |= {f"own/{key}": value for key, value in spread_over_clients(names[logged], values).items()}
    return metrics


def spread_over_clients(name: str, values: Sequence[float]) -> dict[str, float]:
    """Statistics of one metric over clients.

    The worst tenth depends on the metric: it is the lowest of an accuracy and the highest of a loss.

    Returns:
        The unweighted mean under `name`; under `name` and a suffix the population standard deviation, the means of the lowest
        and of the highest tenth (at least one client), and the Gini coefficient (NaN if a value is negative).
    """
    array = np.sort(np.asarray(values, dtype=np.float64))
    tenth = max(1, len(array) // 10)
    return {
        name: float(array.mean()),
        f"{name}_std": float(array.std()),
        f"{name}_lowest_tenth": float(array[:tenth].mean()),
        f"{name}_highest_tenth": float(array[-tenth:].mean()),
        f"{name}_gini": gini(array) if array.min() >= 0 else float("nan"),
    }
