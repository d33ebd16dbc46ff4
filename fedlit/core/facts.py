"""Facts about a federation.

The parts of the federation need the facts to check themselves against each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class FederationFacts:
    """A federation in figures.

    Args:
        sizes: examples of each client, shape (clients,).
        cohort_size: clients in a round.
        splits: splits that the server evaluates.
        has_client_tests: whether clients have test sets of their own.
        classes: names of the classes; empty where labels are not classes.
        val_counts: validation examples of each class, shape (classes,); None where unknown.
        has_clock: whether a clock times the clients.
        rounds: rounds of the run.
        has_worker_processes: whether clients may train in worker processes.
        timeout_s: seconds after which a hanging worker process is replaced; None for never.
        over_select: factor by which more clients are sampled than a cohort has.
        quorum: updates that a round needs.
        max_cohort: size of the largest possible cohort; None for `cohort_size`.
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
    timeout_s: float | None = None
    over_select: float = 1.0
    quorum: int = 1
    max_cohort: int | None = None
    module: str = ""
    manual_optimization: bool = False
