"""How fast clients compute and send: what a table says."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

from fedlit.core.errors import ConfigError


class DeviceSpeed(NamedTuple):
    """Seconds of one local step, and bytes a second to the server and from it."""

    step_s: float
    up_bytes_s: float
    down_bytes_s: float


def read_table(path: str) -> dict[int, DeviceSpeed]:
    """Each client's speed in a CSV file.

    Raises:
        Mistake: if it cannot be read, or lacks a column, or a value is not a number above 0.
    """
    remedy = f"a CSV file with a header: {','.join(('client', *DeviceSpeed._fields))}"
    rows: dict[int, DeviceSpeed] = {}
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "table", path, f"cannot be read: {getattr(error, 'strerror', None) or error}", remedy
        ) from error
    reader = csv.DictReader(lines, skipinitialspace=True)
    if missing := [name for name in ("client", *DeviceSpeed._fields) if name not in (reader.fieldnames or ())]:
        raise ConfigError("table", path, f"has no column {', '.join(missing)}", remedy)
    for row in reader:
        try:
            client, speed = _row(row)
            if client in rows:
                raise ValueError(f"client {client} comes twice")
        except ValueError as error:
            raise ConfigError("table", path, f"is wrong in line {reader.line_num}: {error}", remedy) from error
        rows[client] = speed
    return rows


def _row(row: dict[str, str | None]) -> tuple[int, DeviceSpeed]:
    client = int(row["client"] or "")
    if client < 0:
        raise ValueError(f"client {client} is below 0")
    speed = DeviceSpeed(*(float(row[name] or "nan") for name in DeviceSpeed._fields))
    for name, value in zip(DeviceSpeed._fields, speed, strict=True):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} of client {client} must be a number above 0, not {row[name]}")
    return client, speed
