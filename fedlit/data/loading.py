"""Settings of batches and held-out samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedlit.core.errors import ConfigError, did_you_mean, raise_errors, require, require_at_least
from fedlit.core.facts import FederationFacts

DEFAULT_VAL_FRACTION = 0.1
"""Part of the training set for validation if the configuration does not set one."""


@dataclass(frozen=True)
class Loading:
    """Settings of batches, validation set and clients' test sets.

    Args:
        batch_size: samples in a local batch, or `full`: the whole shard, which turns FedAvg into FedSGD.
        eval_batch_size: samples in a batch of an evaluation; it changes time and memory only.
        val_fraction: part of the training set held out for validation before the rest is partitioned, in [0, 1); None for a
            tenth, or for 0 if the data brings its own validation set.
        client_test_fraction: part of each client's shard, rounded down, held out as its own test set, in [0, 1).
        drop_last: True leaves out a last batch that is not full.
        num_workers: processes that load the samples of a map-style dataset; tensors need none.
    """

    batch_size: int | Literal["full"] = 32
    eval_batch_size: int = 500
    val_fraction: float | None = None
    client_test_fraction: float = 0.0
    drop_last: bool = False
    num_workers: int = 0

    def __post_init__(self) -> None:
        size, val, test = self.batch_size, self.val_fraction, self.client_test_fraction
        is_size, size_hint = size == "full" if isinstance(size, str) else size >= 1, did_you_mean(size, ["full"])
        rule, hint = "must be at least 0 and below 1", "0 holds out nothing; then the last round counts as the best"
        raise_errors(
            require(is_size, "batch_size", size, "must be a whole number of at least 1, or full", size_hint),
            require_at_least("num_workers", self.num_workers, 0),
            require_at_least("eval_batch_size", self.eval_batch_size),
            require(0 <= (val or 0) < 1, "val_fraction", val, rule, hint),
            require(0 <= test < 1, "client_test_fraction", test, rule),
        )

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors and warnings about batches and the validation set."""
        size, largest = self.local_batch_size, int(facts.sizes.max(initial=0))
        if self.drop_last and size is not None and size > largest:
            why = f"is more than the {largest} samples of the largest client, so data.drop_last leaves no batch"
            yield ConfigError("data.batch_size", size, why, "use smaller batches, or data.drop_last=false")
        fraction = DEFAULT_VAL_FRACTION if self.val_fraction is None else self.val_fraction
        if fraction > 0 and "val" not in facts.splits:
            why = "holds out less than one sample, so the last round counts as the best"
            yield ConfigError("data.val_fraction", fraction, why, "use a larger fraction", warning=True)
        if self.client_test_fraction > 0 and not facts.has_client_tests:
            why = "holds out less than one sample of each client, so no client has its own test set"
            yield ConfigError(
                "data.client_test_fraction", self.client_test_fraction, why, "use a larger fraction", warning=True
            )
        if facts.val_counts is not None and not facts.val_counts.all():
            names = [facts.classes[label] for label in np.flatnonzero(facts.val_counts == 0)]
            why = f"leaves validation without class {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            hint = "use a larger fraction; otherwise the best round may be a wrong choice"
            value = self.val_fraction or ""  # without a fraction the data may have brought the validation set
            yield ConfigError("data.val_fraction" if value else "data", value, why, hint, warning=True)

    @property
    def local_batch_size(self) -> int | None:
        """Samples in a local batch; None for the whole shard."""
        return None if isinstance(self.batch_size, str) else self.batch_size
