"""The place of a run in a sweep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SweepJob:
    """The job of a sweep that a run is.

    Args:
        number: number of the job in its sweep, from 1.
        title: the job's number and the overrides that differ between the jobs, such as `job 3 of 8: seed=1`.
        is_trial: True if a sweeper searches for the best value of the monitored metric.
    """

    number: int
    title: str
    is_trial: bool = False
