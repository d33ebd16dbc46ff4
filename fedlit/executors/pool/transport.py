"""Transport to worker processes.

A worker crosses once; messages cross with raw buffers. The large tensors of a worker lie in a file that all worker
processes map.
"""

from __future__ import annotations

import io
import mmap
import pickle
import socket
import struct
from collections.abc import Sequence
from functools import cached_property
from typing import IO, Any, cast

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from fedlit.aggregation.secure.vault import NO_KEY, Vault
from fedlit.core.tensors import as_bytes
from fedlit.core.torch_internals import reduce_parametrized

LARGE = 1 << 20
"""Size in bytes from which a tensor or an array of a worker lies in the file."""

RAW = 1 << 14
"""Size in bytes from which a tensor of a message is sent as a raw buffer, without a copy."""

Buffers = Sequence[bytes | bytearray | memoryview]
Reduced = tuple[Any, ...]


def serialize_worker(worker: Any, file: IO[bytes]) -> bytes:
    """Pickle a worker; write its large tensors and arrays to a file.

    Modules with parametrizations can be part of the worker, and so can functions and classes that a worker process cannot
    import: lambdas, and classes of the main script.

    Args:
        worker: any object that cloudpickle can pickle.
        file: an open file that the worker processes inherit.

    Raises:
        Exception: any exception of an object that cannot be pickled, or an OSError if the disk is full.
    """
    stream = io.BytesIO()
    _WorkerPickler(stream, file).dump(worker)
    file.flush()
    return stream.getvalue()


def deserialize_worker(content: bytes, descriptor: int | None = None) -> Any:
    """Return the worker that `serialize_worker` pickled.

    All processes share its large tensors through the file; a write copies the page for the process that writes.

    Args:
        content: the pickled worker.
        descriptor: descriptor of a copy of the file; None if this process inherited the file itself.
    """
    if descriptor is None:
        return pickle.loads(content)  # these bytes come from our own parent process
    return _WorkerUnpickler(io.BytesIO(content), descriptor).load()


class MappedFile:
    """An inherited file that this process maps once.

    Args:
        descriptor: file descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> Reduced:
        return MappedFile, (self.descriptor,)

    @cached_property
    def content(self) -> mmap.mmap:
        """The whole file, with copy-on-write pages."""
        return mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_COPY)


class _WorkerUnpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, descriptor: int) -> None:
        super().__init__(stream)
        self._copy = MappedFile(descriptor)

    def find_class(self, module: str, name: str, /) -> Any:
        """Return a class or function; for the file, what returns its copy."""
        found = super().find_class(module, name)
        return (lambda _: self._copy) if found is MappedFile else found


class _WorkerPickler(cloudpickle.Pickler):
    def __init__(self, stream: io.BytesIO, file: IO[bytes]) -> None:
        super().__init__(stream, protocol=5)
        self._file, self._mapped = file, MappedFile(file.fileno())

    def reducer_override(self, obj: Any) -> Reduced | Any:
        """Return a reference into the file for a large tensor or array.

        Modules with parametrizations have a form of their own; cloudpickle decides about other objects.
        """
        if _is_plain(obj) and obj.numel() * obj.element_size() >= LARGE:
            plain = obj.contiguous()
            return _tensor, (self._mapped, self._write(_bytes(plain)), str(plain.dtype)[6:], tuple(plain.shape))
        if type(obj) is np.ndarray and obj.nbytes >= LARGE and not obj.dtype.hasobject:
            plain = np.ascontiguousarray(obj)
            return _array, (self._mapped, self._write(plain.reshape(-1).view(np.uint8)), plain.dtype, plain.shape)
        if isinstance(obj, Vault):  # a place in the file for a key that the processes draw
            return Vault, (self._mapped.descriptor, self._write(np.frombuffer(NO_KEY, np.uint8)))
        if isinstance(obj, nn.Module) and is_parametrized(obj):
            return reduce_parametrized(obj)
        return super().reducer_override(obj)

    def _write(self, array: np.ndarray) -> int:
        """Write an array at the next 64-byte boundary, and return its offset."""
        offset = -(-self._file.tell() // 64) * 64
        self._file.seek(offset)
        self._file.write(array.data)
        return offset


def _tensor(mapped: MappedFile, offset: int, dtype: str, shape: tuple[int, ...]) -> Tensor:
    count = int(np.prod(shape))
    return torch.frombuffer(mapped.content, dtype=getattr(torch, dtype), count=count, offset=offset).view(shape)


def _array(mapped: MappedFile, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(mapped.content, dtype, int(np.prod(shape)), offset).reshape(shape)


def _is_plain(obj: Any) -> bool:
    if type(obj) is not Tensor or obj.device.type != "cpu" or obj.layout != torch.strided or obj.requires_grad:
        return False
    return not (obj.is_quantized or obj.is_conj() or obj.is_neg())


def _bytes(tensor: Tensor) -> np.ndarray:
    return as_bytes(tensor).numpy()


def encode_message(content: Any) -> Buffers:
    """Return a message: pickled content, then its large tensors as raw buffers.

    The buffers are the tensors' own memory, which must not change until the message is sent.
    """
    stream, buffers = io.BytesIO(), []

    def pickle_in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes >= RAW:
            buffers.append(raw)
        return raw.nbytes < RAW

    _MessagePickler(stream, protocol=5, buffer_callback=pickle_in_band).dump(content)
    return [stream.getvalue(), *buffers]


def decode_message(parts: Buffers) -> Any:
    """Return the content of a message.

    The large tensors of the content use the memory of the parts.
    """
    return pickle.loads(parts[0], buffers=parts[1:])  # these bytes come from our own processes


class _MessagePickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Reduced | Any:
        """Return a buffer for a plain contiguous tensor; otherwise NotImplemented.

        torch's own pickling would copy the tensor four times. Other tensors keep their memory layout.
        """
        if _is_plain(obj) and obj.is_contiguous() and obj.numel():
            # of the array, not of a memoryview: CPython before 3.11.8 and 3.12.2 crashes if its garbage collector finds
            # a memoryview that another object uses (github.com/python/cpython/issues/77894)
            return _from_buffer, (pickle.PickleBuffer(cast(Any, _bytes(obj))), str(obj.dtype)[6:], tuple(obj.shape))
        return NotImplemented


def _from_buffer(buffer: Any, dtype: str, shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(buffer, dtype=getattr(torch, dtype)).view(shape)


def send(connection: socket.socket, parts: Buffers) -> None:
    """Send a message.

    Raises:
        OSError: if the other end is closed.
    """
    sizes = [memoryview(part).nbytes for part in parts]
    connection.sendall(struct.pack(f"!I{len(sizes)}Q", len(sizes), *sizes))
    for part in parts:
        connection.sendall(part)


def receive(connection: socket.socket) -> Buffers:
    """Return the next message, as `encode_message` made it.

    Raises:
        EOFError: if the other end is closed.
        OSError: if the other end closes within the message.
    """
    (count,) = struct.unpack("!I", _read(connection, 4))
    sizes = struct.unpack(f"!{count}Q", _read(connection, 8 * count))
    return [_read(connection, size) for size in sizes]


def _read(connection: socket.socket, size: int) -> bytearray:
    content = bytearray(size)
    remaining = memoryview(content)
    while remaining:
        received = connection.recv_into(remaining)
        if not received:
            raise EOFError
        remaining = remaining[received:]
    return content
