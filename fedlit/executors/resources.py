"""The CPU cores and GPUs that this process may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from fedlit.core.errors import ConfigError, ConfigErrors


def available_cores() -> int:
    """Return the number of CPU cores that this process may use.

    The environment variable FEDLIT_CORES limits the number that the system offers.

    Raises:
        ConfigErrors: if FEDLIT_CORES is not a whole number of at least 1.
    """
    offered = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    limit = os.environ.get("FEDLIT_CORES", str(offered))
    if not limit.isdecimal() or int(limit) < 1:
        problem = "must be a whole number of at least 1"
        raise ConfigErrors([ConfigError("FEDLIT_CORES", limit, problem, "unset it to use all cores")])
    return min(offered, int(limit))


def visible_gpus() -> Sequence[str | None]:
    """Return the GPUs that this process sees, named as in CUDA_VISIBLE_DEVICES."""
    import torch  # here: it takes seconds, and the values of a configuration are checked without it

    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if visible is None else visible.split(",")
    return [name.strip() for name in names][:count]
