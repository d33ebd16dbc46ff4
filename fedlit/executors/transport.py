"""How things cross to other processes: a worker once, its large tensors in a file that all map; messages with raw buffers."""

from __future__ import annotations

import io
import mmap
import pickle
import socket
import struct
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

LARGE = 1 << 20
"""Bytes from which a tensor or an array of a worker lies in the file."""

RAW = 1 << 14
"""Bytes from which a tensor of a message is sent as it lies in memory, without a copy."""

Buffers = Sequence[bytes | bytearray | memoryview]
Reduced = tuple[Callable[..., Any], tuple[Any, ...]]


def serialize_worker(thing: Any, file: IO[bytes]) -> bytes:
    """The thing as bytes; its large tensors and arrays in the file, for processes that inherit it.

    Raises:
        Exception: whatever pickling raises when the thing cannot be pickled, and writing when the disk is full.
    """
    stream = io.BytesIO()
    _Packer(stream, file).dump(thing)
    file.flush()
    return stream.getvalue()


def deserialize_worker(content: bytes) -> Any:
    """What was packed. Its large tensors are the file's own memory, shared by all who unpack, copied where written to."""
    return pickle.loads(content)  # our own bytes, from our own parent


class MappedFile:
    """A file that was inherited; it is mapped once."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> Reduced:
        return MappedFile, (self.descriptor,)

    @cached_property
    def content(self) -> mmap.mmap:
        """The whole file, copied where written to."""
        return mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_COPY)


class _Packer(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, file: IO[bytes]) -> None:
        super().__init__(stream, protocol=5)
        self._file, self._shelf = file, MappedFile(file.fileno())

    def reducer_override(self, obj: Any) -> Reduced | Any:
        """Places in the file for large plain tensors and arrays; NotImplemented, which means the usual way, for all else."""
        if _is_plain(obj) and obj.numel() * obj.element_size() >= LARGE:
            plain = obj.contiguous()
            return _tensor, (self._shelf, self._put(_bytes(plain)), str(plain.dtype)[6:], tuple(plain.shape))
        if type(obj) is np.ndarray and obj.nbytes >= LARGE and not obj.dtype.hasobject:
            plain = np.ascontiguousarray(obj)
            return _array, (self._shelf, self._put(plain.reshape(-1).view(np.uint8)), plain.dtype, plain.shape)
        return NotImplemented

    def _put(self, array: np.ndarray) -> int:
        """Where it begins in the file."""
        begin = -(-self._file.tell() // 64) * 64
        self._file.seek(begin)
        self._file.write(array.data)
        return begin


def _tensor(shelf: MappedFile, begin: int, dtype: str, shape: tuple[int, ...]) -> Tensor:
    count = int(np.prod(shape))
    return torch.frombuffer(shelf.content, dtype=getattr(torch, dtype), count=count, offset=begin).view(shape)


def _array(shelf: MappedFile, begin: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(shelf.content, dtype, int(np.prod(shape)), begin).reshape(shape)


def _is_plain(obj: Any) -> bool:
    if type(obj) is not Tensor or obj.device.type != "cpu" or obj.layout != torch.strided or obj.requires_grad:
        return False
    return not (obj.is_quantized or obj.is_conj() or obj.is_neg())


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.reshape(-1).view(torch.uint8).numpy()


def encode_message(thing: Any) -> Buffers:
    """A message: the thing pickled, then its large tensors as they lie in memory, which must not change until it is sent."""
    stream, buffers = io.BytesIO(), []

    def apart(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes >= RAW:
            buffers.append(raw)
        return raw.nbytes < RAW  # which pickles it among the rest

    _Messenger(stream, protocol=5, buffer_callback=apart).dump(thing)
    return [stream.getvalue(), *buffers]


def decode_message(parts: Buffers) -> Any:
    """What was encoded. Its large tensors are the parts' own memory."""
    return pickle.loads(parts[0], buffers=parts[1:])  # our own bytes, from our own processes


class _Messenger(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Reduced | Any:
        """A buffer for a plain tensor: torch's own way copies it four times. Others keep how they lie in memory."""
        if _is_plain(obj) and obj.is_contiguous() and obj.numel():
            return _of_buffer, (pickle.PickleBuffer(_bytes(obj).data), str(obj.dtype)[6:], tuple(obj.shape))
        return NotImplemented


def _of_buffer(buffer: Any, dtype: str, shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(buffer, dtype=getattr(torch, dtype)).view(shape)


def send(line: socket.socket, parts: Buffers) -> None:
    """Sends a message.

    Raises:
        OSError: if nobody is at the other end.
    """
    sizes = [memoryview(part).nbytes for part in parts]
    line.sendall(struct.pack(f"!I{len(sizes)}Q", len(sizes), *sizes))
    for part in parts:
        line.sendall(part)


def receive(line: socket.socket) -> Buffers:
    """The next message, as `encode` made it.

    Raises:
        EOFError: if nobody is at the other end.
        OSError: if the other end went away in the middle.
    """
    (count,) = struct.unpack("!I", _read(line, 4))
    sizes = struct.unpack(f"!{count}Q", _read(line, 8 * count))
    return [_read(line, size) for size in sizes]


def _read(line: socket.socket, size: int) -> bytearray:
    content = bytearray(size)
    left = memoryview(content)
    while left:
        got = line.recv_into(left)
        if not got:
            raise EOFError
        left = left[got:]
    return content
