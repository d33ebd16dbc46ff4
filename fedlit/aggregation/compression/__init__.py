"""Codecs that make updates smaller: half, int8, QSGD, top-k, random-k, sign, PowerSGD."""

from fedlit.aggregation.compression.powersgd import PowerSGD
from fedlit.aggregation.compression.qsgd import QSGD
from fedlit.aggregation.compression.randk import RandK
from fedlit.aggregation.compression.rounding import Half, Int8
from fedlit.aggregation.compression.sign import Sign
from fedlit.aggregation.compression.topk import TopK

__all__ = ["QSGD", "Half", "Int8", "PowerSGD", "RandK", "Sign", "TopK"]
