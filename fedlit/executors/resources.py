"""TODO."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import torch

from fedlit.core.errors import ConfigError, ConfigErrors


def available_cores() -> int:
    """The cores that this process may use: its share, by the environment variable FEDLIT_CORES, of what the system gives.

    Raises:
        Mistakes: if FEDLIT_CORES is not a number of cores.
    """
    given = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    share = os.environ.get("FEDLIT_CORES", str(given))
    if not share.isdecimal() or int(share) < 1:
        raise ConfigErrors(
            [ConfigError("FEDLIT_CORES", share, "must be a whole number of at least 1", "unset it to take all")]
        )
    return min(given, int(share))


def visible_gpus() -> Sequence[str | None]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    count, chosen = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if chosen is None else chosen.split(",")
    return [name.strip() for name in names][:count]
