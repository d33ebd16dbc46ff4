"""What a round leaves behind: its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedlit.core.messages import ClientFailure, Model


@dataclass(frozen=True)
class RoundRecord:
    """The record of one round; `number` counts from 1.

    Args:
        cohort: ids of the sampled clients, ascending.
        metrics: averages and measurements under `group/name`.
        failures: clients whose update was left out.
        lost: why the model stayed as it was; None if it did not.
        sha256: digest of the server's state after the round.
        model: the global model after the round; None of a round that was read from a file.
    """

    number: int
    cohort: tuple[int, ...]
    metrics: Mapping[str, float]
    failures: tuple[ClientFailure, ...]
    lost: str | None
    sha256: str
    model: Model | None = field(repr=False)

    @property
    def attempted(self) -> bool:
        """Whether there was anybody to ask: nothing went wrong in a round without."""
        return bool(self.cohort or self.failures)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], model: Model | None = None) -> RoundRecord:
        """The round of a record that was read back."""
        named = {"round", "cohort", "lost", "failures", "state_sha256"}
        metrics = {
            name: float("nan") if value is None else value for name, value in record.items() if name not in named
        }
        failures = tuple(ClientFailure(f["client"], f["outcome"], f["reason"]) for f in record["failures"])
        cohort = tuple(record["cohort"])
        return cls(record["round"], cohort, metrics, failures, record["lost"], record["state_sha256"], model)

    def to_dict(self) -> dict[str, Any]:
        """The round as one flat mapping of JSON values."""
        failures = [{"client": f.client, "outcome": f.outcome, "reason": f.reason} for f in self.failures]
        return {
            "round": self.number,
            "cohort": list(self.cohort),
            **self.metrics,
            "lost": self.lost,
            "failures": failures,
            "state_sha256": self.sha256,
        }
