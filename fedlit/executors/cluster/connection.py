"""The connection to Ray."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import ray
from ray.exceptions import RayError

from fedlit.core.errors import ConfigError, ConfigErrors

CONNECT_S = 10.0
"""Seconds in which the head of a cluster must answer."""


@contextmanager
def connected(address: str | None, num_cpus: int) -> Iterator[None]:
    """Connect to Ray within the block, unless this process is connected already.

    Args:
        address: see `Ray`.
        num_cpus: cores that Ray on this machine gets if it is started.

    Raises:
        ConfigErrors: if there is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        # The folder's path is short, because Ray makes sockets in it. Token authentication stays on.
        if address is not None:
            check_address(address)
        local = {"num_cpus": num_cpus, "include_dashboard": False, "_temp_dir": folder} if address is None else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **local)
        except (ConnectionError, ValueError, RayError) as error:
            problem = f"is not a cluster that can be used: {error}"
            raise ConfigErrors([ConfigError("executor.address", address, problem)]) from error
        try:
            yield
        finally:
            ray.shutdown()


def check_address(address: str) -> None:
    """Raise ConfigErrors if nothing answers at an address.

    Ray itself would try for minutes.
    """
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    try:
        if not host or not port.isdecimal():
            raise OSError("it is not HOST:PORT")
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        problem = f"is not a cluster that can be used: {error}"
        hint = "give HOST:PORT of the head, auto for the cluster of this machine, or null to start Ray here"
        raise ConfigErrors([ConfigError("executor.address", address, problem, hint)]) from error
