"""Privacy in the plan: noise, epsilon and signal to noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedlit.aggregation.privacy.accounting import Accountant, signal_to_noise
from fedlit.experiment.plan.example_privacy import ExampleEstimate, estimate_examples
from fedlit.experiment.run import Run


@dataclass(frozen=True)
class PrivacyEstimate:
    """Privacy of the planned rounds.

    Args:
        accountant: the accountant, which has the noise multiplier and delta.
        releases: number of rounds that are charged: all planned rounds, or with noise of the clients the largest possible
            number of rounds of one client.
        epsilon: epsilon after them.
        signal_to_noise: the largest possible ratio in one round: see `signal_to_noise`.
    """

    accountant: Accountant
    releases: int
    epsilon: float
    signal_to_noise: float

    def rows(self) -> dict[str, str]:
        """Rows of the plan's table."""
        accountant = self.accountant
        unit = "of a client" if accountant.is_per_client else "in all"
        ratio = f"; signal to noise of a round at most {self.signal_to_noise:.3g}"
        rows = {
            "privacy": f"epsilon {self.epsilon:.4g} at delta {accountant.delta:.3g}, after {self.releases:,} rounds {unit}; "
            f"{accountant.relation}, by {accountant.method}",
            "noise multiplier": f"{accountant.noise_multiplier:.4g}" + (ratio if accountant.noise_multiplier else ""),
        }
        if accountant.is_distributed:
            known = accountant.with_noise(accountant.noise_multiplier * math.sqrt(2 / 3)).epsilon(self.releases)
            rows["if clients collude"] = (
                f"epsilon {known:.4g}, if a third of the clients in the smallest sum tell the server their noise"
            )
        return rows


def estimate_privacy(run: Run, numbers: int) -> PrivacyEstimate | ExampleEstimate | None:
    """Estimate the privacy of a run; None for a run without it.

    Args:
        run: the run.
        numbers: numbers in an update.
    """
    federation, channel = run.federation, run.federation.channel
    accountant = next((stage.accountant for stage in channel.stages if stage.accountant is not None), None)
    if accountant is None:
        return estimate_examples(run, most_rounds(run))
    rounds, cohort = federation.schedule.rounds, channel.denominator
    if cohort is None:
        cohort = federation.schedule.cohort_size(len(federation.registry))
    if accountant.is_per_client:
        rounds = most_rounds(run)
    if accountant.is_local:  # every client of the sum adds its own noise
        cohort = math.sqrt(cohort)
    ratio = signal_to_noise(cohort, accountant.noise_multiplier, numbers)
    return PrivacyEstimate(accountant, rounds, accountant.epsilon(rounds), ratio)


def most_rounds(run: Run) -> int:
    """The largest possible number of planned rounds with one client."""
    return -(-run.federation.schedule.rounds // (run.federation.sampling.separation or 1))


def privacy_rows(estimate: PrivacyEstimate | ExampleEstimate | None) -> dict[str, str]:
    """Rows of the plan's table; none without privacy."""
    return {} if estimate is None else estimate.rows()
