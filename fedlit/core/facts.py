"""What the parts of a federation are told of each other, so that each can say what it does not go together with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedlit.core.errors import ConfigError


@dataclass(frozen=True)
class FederationFacts:
    """A federation in figures.

    Args:
        sizes: samples of each client, shape (clients,).
        cohort: clients in a round.
        splits: what the server evaluates on.
        own_test: whether clients have test samples of their own.
        classes: names of the classes; empty where labels are none.
        val_counts: validation samples of each class, shape (classes,); None where that is not known.
        clock: whether it is known how long clients take.
        rounds: of the run.
        workers: whether clients may be trained in worker processes.
        wall_timeout_s: seconds after which a worker process is given up as hanging; None for never.
        over_select: factor by which more clients are sampled than a cohort has.
        quorum: updates that must come through.
        most: clients of the largest cohort that there can be; None for `cohort`.
        module: class name of the LightningModule.
        manual_optimization: whether the module steps its optimizers itself.
    """

    sizes: np.ndarray
    cohort_size: int
    splits: tuple[str, ...]
    has_client_tests: bool
    classes: tuple[str, ...] = ()
    val_counts: np.ndarray | None = None
    has_clock: bool = False
    rounds: int = 1
    has_worker_processes: bool = False
    wall_timeout_s: float | None = None
    over_select: float = 1.0
    quorum: int = 1
    max_cohort: int | None = None
    module: str = ""
    manual_optimization: bool = False


def check_part(part: object, told: FederationFacts) -> Iterable[ConfigError]:
    """What a part says that it does not go together with; a user's own need not have rules."""
    check = getattr(part, "check", None)
    return () if check is None else check(told)


class Checked(Protocol):
    """A part that has rules about others. The rule lives with the part that it protects."""

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """What is wrong, under full names; a mistake whose `warning` is set lets the run begin."""
        ...
