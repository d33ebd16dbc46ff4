"""The common part of privacy mechanisms."""

from __future__ import annotations

from dataclasses import dataclass

from fedlit.aggregation.channel.stage import Stage


@dataclass(frozen=True, kw_only=True)
class PrivacyMechanism(Stage):
    """A stage whose noise protects all data of one client.

    Args:
        noise_multiplier: see the mechanisms, as for `epsilon` and `delta`.
        epsilon: privacy budget.
        delta: probability in (0, 1) with which epsilon may be exceeded.
        population: number of clients in the federation; `bind` sets it.
    """

    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    population: int = 0

    @property
    def name(self) -> str:
        """The name of every privacy mechanism: a channel has one."""
        return "privacy"

    @property
    def hides_clients(self) -> bool:
        """True: metrics of clients would be releases without noise."""
        return True

    @property
    def zeroes_invalid(self) -> bool:
        """True: a failure would be a release without noise."""
        return True

    @property
    def multiplier(self) -> float:
        """The noise multiplier of a bound mechanism."""
        if self.noise_multiplier is None:
            raise ValueError("the mechanism has no noise multiplier before `bind`")
        return self.noise_multiplier
