"""Named paths, digests and safetensors bytes of server states, client states, models.

A state's path, dtype and shape stand in a header line before its numbers, which are little-endian in their own dtype.
Only this module and codecs know how named tensors become bytes.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedlit.core.messages import ServerState, Shared, StageState
from fedlit.core.model import Model
from fedlit.core.tensors import Groups, Tensors, as_bytes

if sys.byteorder != "little":
    raise ImportError("fedlit's wire format is little-endian, and this machine is not")

Tree = Mapping[str, Model | Tensors]
FlatTensors = Mapping[tuple[str, ...], Tensor]


def shared_tree(state: ServerState) -> Tree:
    """The tensors that each client receives, by path."""
    stages = {f"channel/{name}": part.shared for name, part in state.channel.items() if part.shared}
    return {"model": state.model, **state.shared.tensors, **stages}


def state_tree(state: ServerState) -> Tree:
    """All tensors of the server state by path, without the round's number."""
    return {f"{part}/{name}": value for part, tree in _parts_of(state).items() for name, value in tree.items()}


def _parts_of(state: ServerState) -> dict[str, dict[str, Model | Tensors]]:
    return {
        "shared": {"model": state.model, **state.shared.tensors},
        "private": dict(state.private),
        "channel.shared": {name: part.shared for name, part in state.channel.items()},
        "channel.private": {name: part.private for name, part in state.channel.items()},
    }


def named_paths(tree: Tree) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of a state with its path, sorted by path."""
    flat: dict[str, Tensor] = {}
    for key, value in tree.items():
        groups = (
            {f"{key}/{group}": tensors for group, tensors in value.groups().items()}
            if isinstance(value, Model)
            else {key: value}
        )
        flat |= {f"{path}/{name}": tensor for path, tensors in groups.items() for name, tensor in tensors.items()}
    yield from sorted(flat.items())


def state_bytes(tree: Tree) -> bytes:
    """Serialise a state: for each tensor a header line, then its numbers."""
    return b"".join(part for path, tensor in named_paths(tree) for part in _serialise(path, tensor))


def state_nbytes(tree: Tree) -> int:
    """Length of `state_bytes(tree)`, computed without making the bytes."""
    return sum(len(_header(path, tensor)) + tensor_nbytes(tensor) for path, tensor in named_paths(tree))


def tensor_nbytes(tensor: Tensor) -> int:
    """Bytes of a tensor's numbers."""
    return tensor.numel() * tensor.element_size()


def layout_sha256(tree: Tree) -> str:
    """SHA-256 of the paths, dtypes and shapes of a state."""
    return hashlib.sha256(b"".join(_header(path, tensor) for path, tensor in named_paths(tree))).hexdigest()


def state_sha256(tree: Tree) -> str:
    """SHA-256 of `state_bytes(tree)`."""
    digest = hashlib.sha256()
    for path, tensor in named_paths(tree):
        for part in _serialise(path, tensor):
            digest.update(part)
    return digest.hexdigest()


def _serialise(path: str, tensor: Tensor) -> tuple[bytes, bytes]:
    return _header(path, tensor), as_bytes(tensor.detach().cpu()).numpy().tobytes()


def _header(path: str, tensor: Tensor) -> bytes:
    return f"{path} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode()


def to_safetensors(tree: FlatTensors) -> bytes:
    """Serialise named tensors as a safetensors file, in their dtypes and order.

    A name is a path.
    """
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for place, (path, tensor) in enumerate(tree.items()):
        own = tensor.detach().cpu().contiguous()
        memory = own.untyped_storage().data_ptr()
        plain[json.dumps([place, *path])] = own.clone() if memory in seen else own  # two names may not share memory
        seen.add(memory)
    return save(plain)


def from_safetensors(content: bytes) -> dict[tuple[str, ...], Tensor]:
    """Read the result of `to_safetensors`. Nothing in the bytes is executed.

    Raises:
        ValueError: if the bytes are not such a file.
    """
    try:
        placed = sorted(
            ((json.loads(name), tensor) for name, tensor in load(content).items()), key=lambda pair: pair[0][0]
        )
        return {tuple(path): tensor for (_, *path), tensor in placed}
    except (SafetensorError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"not a safetensors file of fedlit: {error}") from error


def flatten_state(state: ServerState) -> dict[tuple[str, ...], Tensor]:
    """The tensors of a server state by path.

    The tensor at a path of length 2 tells whether the entry is a model.
    """
    flat: dict[tuple[str, ...], Tensor] = {}
    for part, tree in _parts_of(state).items():
        for key, value in tree.items():
            flat[part, key] = torch.tensor([isinstance(value, Model)])
            for group, tensors in value.groups().items() if isinstance(value, Model) else [("", value)]:
                flat |= {(part, key, group, name): tensor for name, tensor in tensors.items()}
    return flat


def unflatten_state(flat: FlatTensors, round: int) -> ServerState:
    """Rebuild the server state after `round` rounds.

    Raises:
        ValueError: if there is no global model.
    """
    tensors: dict[tuple[str, str, str], dict[str, Tensor]] = {}
    parts: dict[str, dict[str, Tensors]] = {}
    for path, tensor in flat.items():
        if len(path) == 4:
            tensors.setdefault((path[0], path[1], path[2]), {})[path[3]] = tensor
        elif len(path) == 2 and not bool(tensor):
            parts.setdefault(path[0], {})[path[1]] = {}
    for part, entries in parts.items():
        entries.update({key: tensors.get((part, key, ""), {}) for key in entries})
    if ("shared", "model") not in flat:
        raise ValueError("has no global model")
    groups = (tensors.get(("shared", "model", group), {}) for group in ("parameters", "buffers"))
    shared, private = parts.get("channel.shared", {}), parts.get("channel.private", {})
    channel = {name: StageState(part, private.get(name, {})) for name, part in shared.items()}
    return ServerState(round, Shared(Model(*groups), parts.get("shared", {})), parts.get("private", {}), channel)


def flatten_client_states(states: Mapping[int, Groups]) -> dict[tuple[str, ...], Tensor]:
    """The tensors of client states by path.

    A group without tensors has a path of its own.
    """
    flat: dict[tuple[str, ...], Tensor] = {}
    for client, groups in states.items():
        for group, tensors in groups.items():
            flat[str(client), group] = torch.zeros(0)
            flat |= {(str(client), group, name): tensor for name, tensor in tensors.items()}
    return flat


def unflatten_client_states(flat: FlatTensors) -> dict[int, dict[str, dict[str, Tensor]]]:
    """Rebuild the state of each client."""
    states: dict[int, dict[str, dict[str, Tensor]]] = {}
    for path, tensor in flat.items():
        group = states.setdefault(int(path[0]), {}).setdefault(path[1], {})
        if len(path) == 3:
            group[path[2]] = tensor
    return states


def groups_nbytes(groups: Groups) -> int:
    """Bytes of the numbers in groups of named tensors.

    A client's state is an example of such groups.
    """
    return sum(tensor_nbytes(tensor) for named in groups.values() for tensor in named.values())
