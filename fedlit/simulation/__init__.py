"""Slow devices, failures and crashes, as a real federation has them."""

from fedlit.simulation.clock import Clock
from fedlit.simulation.faults import Corrupt, CrashWorker, Drop, Faults, Hang, Plan, Raise
from fedlit.simulation.server_crash import CrashServer

__all__ = ["Clock", "Corrupt", "CrashServer", "CrashWorker", "Drop", "Faults", "Hang", "Plan", "Raise"]
