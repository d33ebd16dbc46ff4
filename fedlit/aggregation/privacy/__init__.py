"""Differential privacy of the channel: clipping, noise, and their accounting."""

from fedlit.aggregation.privacy.mechanisms.central import CentralDP
from fedlit.aggregation.privacy.mechanisms.distributed import DistributedDP
from fedlit.aggregation.privacy.mechanisms.ftrl import DPFTRL
from fedlit.aggregation.privacy.mechanisms.local import LocalDP

__all__ = ["DPFTRL", "CentralDP", "DistributedDP", "LocalDP"]
