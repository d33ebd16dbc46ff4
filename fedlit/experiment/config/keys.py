"""TODO."""

from __future__ import annotations

GROUPS = (
    "data",
    "partition",
    "model",
    "algorithm",
    "sampler",
    "schedule",
    "trainer",
    "executor",
    "clock",
    "faults",
    "observers",
)


KEYED = (*GROUPS, "monitor", "eval", "checkpoint", "sweep")


KEYS = (*KEYED, "seed", "resume", "check", "traceback")
"""What a configuration has at its top; KEYED are those that have keys of their own."""
