"""From a client's update to the server's aggregate: channel and sum."""

from fedlit.aggregation.aggregator import Aggregator
from fedlit.aggregation.channel import Channel
from fedlit.aggregation.mean import MeanAggregator
from fedlit.aggregation.stage import Order, Packing, Stage, Ticket

__all__ = ["Aggregator", "Channel", "MeanAggregator", "Order", "Packing", "Stage", "Ticket"]
