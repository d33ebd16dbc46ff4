"""Speeds of client devices, read from a table."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

from fedlit.core.errors import ConfigError


class DeviceSpeed(NamedTuple):
    """Speed of a client's device.

    The speed is the seconds of one local step, and the bytes per second to the server and from the server.
    """

    step_s: float
    up_bytes_s: float
    down_bytes_s: float


def read_table(path: str) -> dict[int, DeviceSpeed]:
    """Read the speed of each client from a CSV file.

    Raises:
        ConfigError: if the file cannot be read, lacks a column, or has a value that is not greater than 0.
    """
    hint = f"use a CSV file with the header {','.join(('client', *DeviceSpeed._fields))}"
    rows: dict[int, DeviceSpeed] = {}
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigError("table", path, problem, hint) from error
    reader = csv.DictReader(lines, skipinitialspace=True)
    if missing := [name for name in ("client", *DeviceSpeed._fields) if name not in (reader.fieldnames or ())]:
        raise ConfigError("table", path, f"has no column {', '.join(missing)}", hint)
    for row in reader:
        try:
            client, speed = _parse_row(row)
            if client in rows:
                raise ValueError(f"client {client} has two rows")
        except ValueError as error:
            raise ConfigError("table", path, f"has an error in line {reader.line_num}: {error}", hint) from error
        rows[client] = speed
    return rows


def _parse_row(row: dict[str, str | None]) -> tuple[int, DeviceSpeed]:
    client = int(row["client"] or "")
    if client < 0:
        raise ValueError(f"client {client} is below 0")
    speed = DeviceSpeed(*(float(row[name] or "nan") for name in DeviceSpeed._fields))
    for name, value in zip(DeviceSpeed._fields, speed, strict=True):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} of client {client} must be finite and greater than 0, not {row[name]}")
    return client, speed
