"""Files of client states that can be read one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from fedlit.core.serialization import flatten_client_states, from_safetensors, to_safetensors, unflatten_client_states
from fedlit.core.tensors import Groups

HEADER_NBYTES = 512
"""Bytes of the header of a file, padded with spaces."""


def client_states_bytes(states: Mapping[int, Groups]) -> bytearray:
    """Serialise client states so that each can be read alone.

    Returns:
        A safetensors file. `states` are the bytes of one safetensors file for each client, one after the other; `clients` and
        `ends`, both int64 of shape (n,), are the ids and the places in `states` where a client's bytes end.
    """
    content, ends = bytearray(HEADER_NBYTES), []  # no second copy of the states, which can be large
    for client, state in states.items():
        content += to_safetensors(flatten_client_states({client: state}))
        ends.append(len(content) - HEADER_NBYTES)
    content += bytes(-len(content) % 8)
    header, length = {}, len(content) - HEADER_NBYTES
    header["states"] = {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}
    for name, numbers in (("clients", [*states]), ("ends", ends)):
        offsets = [length, length + 8 * len(numbers)]
        header[name] = {"dtype": "I64", "shape": [len(numbers)], "data_offsets": offsets}
        content += torch.tensor(numbers, dtype=torch.int64).numpy().tobytes()
        length = offsets[1]
    text = json.dumps(header).encode().ljust(HEADER_NBYTES - 8)
    content[:HEADER_NBYTES] = len(text).to_bytes(8, "little") + text
    return content


def read_client_states(path: Path, clients: Iterable[int]) -> dict[int, dict[str, dict[str, Tensor]]]:
    """Read some clients' states from a file of `client_states_bytes`.

    The states of other clients are not read.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is not such a file, or lacks one of the clients.
    """
    try:
        with path.open("rb") as file:  # no memory map: a cohort's states lie in many files
            head = file.read(HEADER_NBYTES)
            begin = 8 + int.from_bytes(head[:8], "little")
            header = json.loads(head[8:begin])
            places = {name: header[name]["data_offsets"] for name in ("states", "clients", "ends")}
            numbers = (_read(file, begin, places[name]) for name in ("clients", "ends"))
            ids, ends = (np.frombuffer(part, np.int64).tolist() for part in numbers)
            own = {client: (start, end) for client, start, end in zip(ids, [0, *ends], ends, strict=False)}
            parts = {client: _read(file, begin + places["states"][0], own[client]) for client in clients}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is not a file of client states, or lacks a client: {error}") from error
    return {client: unflatten_client_states(from_safetensors(part))[client] for client, part in parts.items()}


def _read(file: IO[bytes], offset: int, place: tuple[int, int]) -> bytes:
    """Read bytes of a file.

    Args:
        file: the file.
        offset: the place from which both places are counted.
        place: the first byte, and the byte after the last one.

    Raises:
        ValueError: if the file ends before.
    """
    begin, end = place
    file.seek(offset + begin)
    content = file.read(end - begin)
    if len(content) != end - begin:
        raise ValueError("it is too short")
    return content
