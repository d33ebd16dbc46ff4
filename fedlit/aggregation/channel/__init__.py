"""The channel between a client's update and the sum."""

from fedlit.aggregation.channel.channel import Channel
from fedlit.aggregation.channel.codec import Codec, Float32
from fedlit.aggregation.channel.message import CHANNEL_PREFIX, channel_states, pack_channel_states
from fedlit.aggregation.channel.stage import Clip, Order, Stage
from fedlit.aggregation.channel.tickets import SumTicket, Ticket

__all__ = [
    "CHANNEL_PREFIX",
    "Channel",
    "Clip",
    "Codec",
    "Float32",
    "Order",
    "Stage",
    "SumTicket",
    "Ticket",
    "channel_states",
    "pack_channel_states",
]
