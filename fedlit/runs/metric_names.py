"""The spelling of metric names: splits, and counterparts on other splits.

A name belongs to the split that it begins with: `val/loss`, `val_loss`, `validation/loss`. Metrics of clients' own test sets
are `own/NAME`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from itertools import chain, count

SPLITS = ("train", "val", "test", "own/")
PREFIXES = ("train/", "train_", "val/", "val_", "test", "own/")
"""Prefixes of a name that `bare_name` removes. `value` and `validation/loss` have none of them."""
FRACTION = re.compile(
    r"acc|accuracy|auc|auroc|precision|recall|f1|dice|iou|jaccard|sensitivity|specificity|top1|top5|gini"
)
"""Words in the names of metrics between 0 and 1."""
LOSS = re.compile(r"loss|nll|entropy|mse|rmse|mae|mape|error|perplexity|variance|std")
"""Words in the names of metrics that are never negative, and of which smaller values are better."""
SHARE, AMOUNT = re.compile(r"fraction"), re.compile(r"epsilon|clip|noise|ratio|bytes")
"""Words in the names of other metrics between 0 and 1, and of others that are never negative."""
UNEVENNESS = re.compile(r"std|variance|gini")
"""Words in the names of metrics that measure how uneven values are."""


def split_of(name: str) -> str | None:
    """The split that a metric's name belongs to, or None.

    The result is None if the name has no split.
    """
    return next((split.rstrip("/") for split in SPLITS if name.startswith(split)), None)


def is_evaluation(name: str) -> bool:
    """True if an evaluation measures the metric: on val, test or own."""
    return split_of(name) in ("val", "test", "own")


def bare_name(name: str) -> str:
    """The name without its split: `loss` for `test/loss`, `val_loss` and `own/loss`."""
    return name.removeprefix(_prefix_of(name)).lstrip("/_")


def with_split(name: str, split: str) -> str:
    """The name under which a logged metric is recorded for a split.

    A name that begins with the split stays. On the test split `val_loss` becomes `test_loss`. Others get the split in front:
    `loss` becomes `test/loss`.
    """
    if name.startswith(split):
        return name
    return counterpart(name, split) if split == "test" and _prefix_of(name) in ("val/", "val_") else f"{split}/{name}"


def names_on_split(names: Iterable[str], split: str) -> dict[str, str]:
    """The record's names of the metrics logged on a split.

    Names are those of `with_split`. If two metrics would have one name, the metric that is logged with a split has it, and the
    other one gets a number: of `train/loss` and `loss`, the second becomes `train/loss_2`.
    """
    wanted = {name: with_split(name, split) for name in names}
    order = sorted(wanted, key=lambda name: (name != wanted[name], split_of(name) is None, name))
    return distinct_names({name: wanted[name] for name in order})


def distinct_names(wanted: Mapping[str, str], endings: Sequence[str] = ("",)) -> dict[str, str]:
    """Distinct names of metrics.

    The first metric that wants a name has it; the others get a number.

    Args:
        wanted: the wanted name of each metric, by its logged name.
        endings: endings that follow a name; the names with their endings are distinct as well.
    """
    taken: set[str] = set()
    names: dict[str, str] = {}
    for is_numbered in (False, True):
        for logged, name in wanted.items():
            free = _free_name(name, taken, endings)
            if logged not in names and (is_numbered or free == name):
                names[logged] = free
                taken.update(free + ending for ending in endings)
    return names


def join_metrics(*parts: Mapping[str, float]) -> dict[str, float]:
    """Join the metrics of a round.

    If several parts have a name, the last of them has it, and the others get a number.
    """
    taken = {name for part in parts for name in part}
    metrics: dict[str, float] = {}
    for number, part in enumerate(parts):
        for name, value in part.items():
            is_later = any(name in other for other in parts[number + 1 :])
            key = _free_name(name, taken) if is_later else name
            taken.add(key)
            metrics[key] = value
    return metrics


def counterpart(name: str, split: str) -> str:
    """The name of the same metric on another split: `test_loss` for `val_loss`.

    On clients' own test sets it is `own/loss`. Only the split of an evaluation is replaced. Other names get the split in
    front: `loss` becomes `test/loss`, and `train/loss` becomes `test/train/loss`.
    """
    prefix = _prefix_of(name) if is_evaluation(name) else ""
    if "own" in (split, prefix.rstrip("/")):
        return f"{split}/{name.removeprefix(prefix).lstrip('/_')}"
    return f"{split}{name.removeprefix(prefix.rstrip('/_'))}" if prefix else f"{split}/{name}"


def _free_name(name: str, taken: Set[str], endings: Sequence[str] = ("",)) -> str:
    """The name, with the smallest number from 2 if it is taken."""
    candidates = chain([name], (f"{name}_{number}" for number in count(2)))
    return next(name for name in candidates if not any(name + ending in taken for ending in endings))


def _prefix_of(name: str) -> str:
    return next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")


def bounds(name: str, values: Collection[float]) -> tuple[float, float]:
    """Return the smallest and the largest possible value of a metric.

    The name gives the range, and measured values outside of it show another one: an accuracy of 93.5 is in per cent.

    Args:
        name: name of the metric.
        values: measured values, finite.

    Returns:
        The bounds; -inf and inf where none is known.
    """
    words = _words(name)
    known: list[tuple[float, float]] = []
    if any(FRACTION.fullmatch(word) or SHARE.fullmatch(word) for word in words):
        known = [(0.0, 1.0), (0.0, 100.0)]
    elif any(LOSS.fullmatch(word) or AMOUNT.fullmatch(word) for word in words):
        known = [(0.0, math.inf)]
    fitting = (pair for pair in known if not values or (pair[0] <= min(values) and max(values) <= pair[1]))
    return next(fitting, (-math.inf, math.inf))


def preferred_mode(name: str) -> str | None:
    """Return `max` or `min`, whichever is better; None if unknown.

    The words of the name tell. Of an accuracy larger values are better, of a loss smaller ones, and of a standard deviation
    over clients smaller ones.
    """
    words = _words(name)
    if any(map(UNEVENNESS.fullmatch, words)):
        return "min"
    is_fraction, is_loss = (any(map(pattern.fullmatch, words)) for pattern in (FRACTION, LOSS))
    return None if is_fraction == is_loss else "max" if is_fraction else "min"


def _words(name: str) -> list[str]:
    """The words of a metric's name in lower case, without its split."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+\d*|[A-Z]+\d*(?![a-z])", bare_name(name))]
