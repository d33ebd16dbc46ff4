"""The releases of a run, as a tensor of the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def new_ledger(noise_multiplier: float) -> Tensor:
    """A ledger without a release.

    Returns:
        float64 of shape (1, 2): the noise multiplier, and 0 releases.
    """
    return torch.tensor([[noise_multiplier, 0.0]], dtype=torch.float64)


def charge(ledger: Tensor, noise_multiplier: float) -> Tensor:
    """The ledger with one more release.

    Equal releases in a row share one row.

    Args:
        ledger: float64 of shape (n, 2): noise multiplier and number of releases in each row; not changed.
        noise_multiplier: standard deviation of the noise / clipping norm.
    """
    if float(ledger[-1, 0]) == noise_multiplier:
        charged = ledger.clone()
        charged[-1, 1] += 1
        return charged
    return torch.cat([ledger, torch.tensor([[noise_multiplier, 1.0]], dtype=torch.float64)])


def list_releases(ledger: Tensor) -> tuple[tuple[float, int], ...]:
    """Pairs (noise multiplier, number of releases), without those of 0 releases."""
    return tuple((float(multiplier), int(count)) for multiplier, count in ledger.tolist() if count)


def count_participations(counts: Tensor, clients: Sequence[int]) -> Tensor:
    """The number of rounds of each client, after one more round.

    Args:
        counts: int64 of shape (clients of the federation,); not changed.
        clients: ids of the clients that were asked to train.
    """
    counted = counts.clone()
    counted[list(clients)] += 1
    return counted
