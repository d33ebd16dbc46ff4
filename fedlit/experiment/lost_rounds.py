"""The end of a run whose rounds are lost, with the cause."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fedlit.core.errors import LostRounds
from fedlit.experiment.summary import RunTracker
from fedlit.runs.record import RoundRecord

MAX_REASONS = 3
"""Largest number of different failures that a message lists."""

DIVERGED = (
    "a lower learning rate (model.optimizer.lr) or gradient clipping (trainer.gradient_clip_val=1.0) is the usual remedy, "
    "in a new run"
)


@contextmanager
def explain_lost_rounds(tracker: RunTracker) -> Iterator[None]:
    """End a run whose rounds are lost, with the clients' failures.

    Args:
        tracker: the rounds of the run. If all of them are lost when the block ends, the run has trained nothing.

    Raises:
        LostRounds: with the cause of the last lost round, instead of the block's LostRounds.
    """
    reason = None
    try:
        yield
    except LostRounds as error:
        reason = error
    last = tracker.last
    if last is None or not last.lost:
        if reason is not None:
            raise reason
        return
    if reason is None and tracker.num_lost < last.number:
        return
    text = reason or f"{'all' if last.number > 1 else 'the only one of'} {last.number} rounds were lost"
    error = LostRounds(f"{text}. {describe_lost_round(last)}")
    if last.failures and all(failure.outcome == "not_finite" for failure in last.failures):
        error.remedy = DIVERGED
    raise error from reason


def describe_lost_round(record: RoundRecord) -> str:
    """The reason of a lost round, with the failures of its clients."""
    clients: dict[str, list[str]] = {}
    for failure in record.failures:
        clients.setdefault(f"{failure.outcome}: {failure.reason}", []).append(str(failure.client))
    parts = [f"{_count(numbers)} left out, {reason}" for reason, numbers in [*clients.items()][:MAX_REASONS]]
    parts += [f"{len(clients) - MAX_REASONS} further reasons"] if len(clients) > MAX_REASONS else []
    return f"Round {record.number}: {'; '.join([str(record.lost), *parts])}"


def _count(numbers: Sequence[str]) -> str:
    """The numbers of some clients, at most ten."""
    listed = ", ".join(numbers[:10]) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
    return f"client {listed} is" if len(numbers) == 1 else f"clients {listed} are"
