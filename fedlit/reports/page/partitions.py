"""Pictures of the partitions of runs, from their partition.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedlit.reports.grouping import Group
from fedlit.runs.folder import READ_ERRORS
from fedlit.runs.layout import PARTITION
from fedlit.runs.parsing import read_json

MAX_PICTURES = 12
MAX_CLIENTS = 50
MAX_CLASSES = 20


def partition_pictures(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return the different partitions of the groups' first runs, at most MAX_PICTURES.

    Returns:
        For each partition `id` in the page; `title`; `groups`, the labels of the groups that have it; `counts`, samples by
        client and class; and `classes`, the labels.
    """
    pictures: dict[str, dict[str, Any]] = {}
    for group in groups:
        run = next(iter(group.runs.values()))
        try:
            picture = _picture(read_json(run.folder / PARTITION))
        except (*READ_ERRORS, OverflowError):  # a run without the file, or with another content
            continue
        picture["title"] = f"seed {run.seed}: {picture['title']}"
        known = pictures.setdefault(json.dumps(picture), picture | {"groups": []})
        known["groups"].append(group.label)
    chosen = [*pictures.values()][:MAX_PICTURES]
    return [picture | {"id": f"partition-{i}"} for i, picture in enumerate(chosen)]


def _picture(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Return counts, classes and title of a partition.

    Of many clients some are chosen, evenly spaced; of many classes the largest.

    Raises:
        ValueError, KeyError, TypeError: if the content is not what a run writes.
    """
    has_labels = "label_counts" in statistics
    counts = np.array(statistics["label_counts"] if has_labels else statistics["sizes"], dtype=np.int64)
    counts = counts if has_labels else counts[:, None]
    if counts.ndim != 2 or not counts.size:
        raise ValueError("has no counts by client and class")
    counts = counts[np.linspace(0, len(counts) - 1, min(len(counts), MAX_CLIENTS)).astype(np.int64)]
    classes = np.sort(np.argsort(-counts.sum(axis=0), kind="stable")[:MAX_CLASSES])
    shown = "" if len(counts) == statistics["clients"] else f", {len(counts)} shown"
    title = f"{int(statistics['samples']):,} samples, {int(statistics['clients']):,} clients{shown}"
    if has_labels:
        title += f", mean total variation {float(statistics['mean_total_variation']):.2f}"
    labels = [str(label) for label in classes.tolist()] if has_labels else ["all"]
    return {"title": title, "counts": counts[:, classes].tolist(), "classes": labels}
