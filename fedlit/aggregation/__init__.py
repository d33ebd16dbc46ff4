"""From a client's update to the server's aggregate: channel and sum."""

from fedlit.aggregation.aggregator import Aggregator
from fedlit.aggregation.channel import Channel, Clip, Codec, Float32, Order, Stage, SumTicket, Ticket
from fedlit.aggregation.mean import MeanAggregator

__all__ = [
    "Aggregator",
    "Channel",
    "Clip",
    "Codec",
    "Float32",
    "MeanAggregator",
    "Order",
    "Stage",
    "SumTicket",
    "Ticket",
]
