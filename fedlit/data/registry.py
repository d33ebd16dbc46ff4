"""The server's view of the clients: figures, and no sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class ClientRegistry:
    """Everything that the server knows of the data.

    A registry holds no samples, so that a real silo, which keeps its data, can stand behind it.

    Args:
        sizes: examples of each client, shape (clients,).
        splits: names of the splits that the server evaluates, such as `val` and `test`.
        num_client_tests: number of clients that have their own test set; 0 for none.
        seed: seed of the experiment.
        is_pooled: True if one client holds the training samples of all clients.
        partition_sha256: digest of the owner of each sample: see `client_data.partition_sha256`.
    """

    sizes: np.ndarray
    splits: tuple[str, ...]
    num_client_tests: int
    seed: int
    is_pooled: bool = False
    partition_sha256: str

    def __len__(self) -> int:
        return len(self.sizes)

    def clients_to_evaluate(self, cohort: Sequence[int]) -> Sequence[int]:
        """Return the clients whose own test sets are evaluated for a cohort.

        They are the cohort. With pooled data they are all clients that have a test set.
        """
        return range(self.num_client_tests) if self.is_pooled else cohort
