"""The spelling of metric names: the split of a name, and its counterpart on another split.

A name belongs to the split that it begins with: `val/loss`, `val_loss`, `validation/loss`. Metrics of clients' own test sets
are `own/NAME`.
"""

from __future__ import annotations

SPLITS = ("train", "val", "test", "own/")


def split_of(name: str) -> str | None:
    """The split that a metric's name belongs to; None if it names no split."""
    return next((split.rstrip("/") for split in SPLITS if name.startswith(split)), None)


def is_evaluation(name: str) -> bool:
    """True if the metric is measured by an evaluation, and not in training or elsewhere."""
    return split_of(name) in ("val", "test", "own")


def bare_name(name: str) -> str:
    """The name without its split: `loss` for `test/loss`, `val_loss` and `own/loss`."""
    split = split_of(name)
    return name if split is None else name.removeprefix(split).lstrip("/_")


def with_split(name: str, split: str) -> str:
    """The name under which a logged metric is recorded for a split.

    A name that begins with the split stays. On the test split `val_loss` becomes `test_loss`. Others get the split in front:
    `loss` becomes `test/loss`.
    """
    if name.startswith(split):
        return name
    return counterpart(name, split) if split == "test" and split_of(name) == "val" else f"{split}/{name}"


def counterpart(name: str, split: str) -> str:
    """The name of the same metric on another split: `test_loss` for `val_loss`, `own/loss` for `val/loss`."""
    if split == "own":
        return f"own/{bare_name(name)}"
    own = split_of(name)
    return f"{split}{name.removeprefix(own)}" if own in ("train", "val", "test") else f"{split}/{bare_name(name)}"
