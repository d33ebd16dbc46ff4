"""Who is asked in a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedlit.messages import Failure


@dataclass(frozen=True)
class Call:
    """Who is asked in a round.

    Args:
        cohort: who was sampled, those with most examples first.
        asked: who trains, in that order; None for all of them.
        budgets: optimizer steps after which a client is cut short, of those that are.
        failures: clients whose update is not waited for.
        metrics: what the record is to say.
        bytes: length of what clients sent before they trained.
    """

    cohort: tuple[int, ...]
    asked: tuple[int, ...] | None = None
    budgets: Mapping[int, int] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    bytes: int = 0

    @property
    def clients(self) -> tuple[int, ...]:
        """Who trains."""
        return self.cohort if self.asked is None else self.asked
