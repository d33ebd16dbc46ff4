"""The record of a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedlit.core.messages import ClientFailure
from fedlit.core.model import Model
from fedlit.runs.layout import OTHER_RECORD_KEYS


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """The record of one round.

    Args:
        number: number of the round, counted from 1.
        cohort: ids of the sampled clients, ascending.
        metrics: averages and measurements under `group/name`.
        failures: clients whose update is not in the sum.
        lost: reason of a lost round, in which the model stays the same; None otherwise.
        sha256: digest of the server state after the round.
        model: the global model after the round; None for a record that was read from a file.
        clients: figures of single clients, by name and client; empty for a record that was read from a file.
    """

    number: int
    cohort: tuple[int, ...]
    metrics: Mapping[str, float]
    failures: tuple[ClientFailure, ...] = ()
    lost: str | None = None
    sha256: str = ""
    model: Model | None = field(default=None, repr=False)
    clients: Mapping[str, Mapping[int, float]] = field(default_factory=dict, repr=False)

    @property
    def attempted(self) -> bool:
        """True if there was a client to ask.

        A round without a client is not a failure.
        """
        return bool(self.cohort or self.failures)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], model: Model | None = None) -> RoundRecord:
        """Rebuild the record that `to_dict` gave; null becomes NaN."""
        metrics = {
            name: float("nan") if value is None else value
            for name, value in record.items()
            if name not in OTHER_RECORD_KEYS
        }
        return cls(
            number=record["round"],
            cohort=tuple(record["cohort"]),
            metrics=metrics,
            failures=tuple(ClientFailure(f["client"], f["outcome"], f["reason"]) for f in record["failures"]),
            lost=record["lost"],
            sha256=record["state_sha256"],
            model=model,
        )

    def to_dict(self) -> dict[str, Any]:
        """The record as one flat mapping of JSON values."""
        failures = [{"client": f.client, "outcome": f.outcome, "reason": f.reason} for f in self.failures]
        return {
            "round": self.number,
            "cohort": list(self.cohort),
            **self.metrics,
            "lost": self.lost,
            "failures": failures,
            "state_sha256": self.sha256,
        }


def failure_counts(failures: Iterable[ClientFailure]) -> dict[str, int]:
    """Return the number of failures by outcome, as `failures/OUTCOME`."""
    return dict(Counter(f"failures/{failure.outcome}" for failure in failures))
