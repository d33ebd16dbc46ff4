"""Slow devices, failures and crashes, as a real federation has them."""

from fedlit.simulation.clock import VirtualClock
from fedlit.simulation.faults import Corrupt, CrashWorker, Drop, FailurePolicy, FaultPlan, Hang, Raise
from fedlit.simulation.server_crash import ServerCrash

__all__ = [
    "Corrupt",
    "CrashWorker",
    "Drop",
    "FailurePolicy",
    "FaultPlan",
    "Hang",
    "Raise",
    "ServerCrash",
    "VirtualClock",
]
