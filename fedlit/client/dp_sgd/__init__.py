"""Example-level differential privacy: DP-SGD inside a client's local training."""

from fedlit.client.dp_sgd.settings import ExamplePrivacy

__all__ = ["ExamplePrivacy"]
