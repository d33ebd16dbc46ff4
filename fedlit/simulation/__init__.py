"""Slow devices, failures and crashes, as real federations have them."""

from fedlit.simulation.client_faults import Corrupt, CrashWorker, Drop, Fault, Hang, Raise
from fedlit.simulation.clock import VirtualClock
from fedlit.simulation.faults import FailurePolicy, FaultPlan
from fedlit.simulation.server_crash import ServerCrash

__all__ = [
    "Corrupt",
    "CrashWorker",
    "Drop",
    "FailurePolicy",
    "Fault",
    "FaultPlan",
    "Hang",
    "Raise",
    "ServerCrash",
    "VirtualClock",
]
