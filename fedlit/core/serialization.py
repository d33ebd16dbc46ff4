"""How named tensors become one flat vector, and bytes. The only place that knows.

An update is a flat float32 vector: its bytes are those numbers, little-endian, behind a float64 weight. The global state
is sent in the dtypes that it has.
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

from fedlit.core.messages import Model, ServerState
from fedlit.core.tensors import Groups, Tensors

if sys.byteorder != "little":
    raise ImportError("fedlit's wire format is little-endian, and this machine is not")

Tree = Mapping[str, "Model | Tensors"]


def named_paths(tree: Tree) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a state with its path, sorted by path."""
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
    """A state as bytes: for every tensor a line with path, dtype and shape, then its numbers."""
    return b"".join(part for path, tensor in named_paths(tree) for part in _parts(path, tensor))


def state_nbytes(tree: Tree) -> int:
    """Bytes that `dump` gives, without making them."""
    return sum(
        len(_header(path, tensor)) + tensor.numel() * tensor.element_size() for path, tensor in named_paths(tree)
    )


def state_tree(state: ServerState) -> Tree:
    """All that the server knows but the round's number, as one tree."""
    return {
        f"{part}/{name}": value
        for part, tree in (("shared", state.shared), ("private", state.private))
        for name, value in tree.items()
    }


def layout_sha256(tree: Tree) -> str:
    """Digest of what a state's tensors are called, and of their dtypes and shapes."""
    return hashlib.sha256(b"".join(_header(path, tensor) for path, tensor in named_paths(tree))).hexdigest()


def state_sha256(tree: Tree) -> str:
    """Digest of a state: of the bytes that `dump` gives."""
    digest = hashlib.sha256()
    for path, tensor in named_paths(tree):
        for part in _parts(path, tensor):
            digest.update(part)
    return digest.hexdigest()


def _parts(path: str, tensor: Tensor) -> tuple[bytes, bytes]:
    return _header(path, tensor), tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _header(path: str, tensor: Tensor) -> bytes:
    return f"{path} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode()


def to_safetensors(tree: Mapping[tuple[str, ...], Tensor]) -> bytes:
    """Named tensors as the bytes of a safetensors file, in the dtypes and the order that they have; a name is a path."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for place, (path, tensor) in enumerate(tree.items()):
        own = tensor.detach().cpu().contiguous()
        memory = own.untyped_storage().data_ptr()
        plain[json.dumps([place, *path])] = own.clone() if memory in seen else own  # two names may not share memory
        seen.add(memory)
    return save(plain)


def from_safetensors(content: bytes) -> dict[tuple[str, ...], Tensor]:
    """What was frozen. Nothing in the bytes is executed.

    Raises:
        ValueError: if the bytes are no such file.
    """
    try:
        placed = sorted(
            ((json.loads(name), tensor) for name, tensor in load(content).items()), key=lambda pair: pair[0][0]
        )
        return {tuple(path): tensor for (_, *path), tensor in placed}
    except (SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f"no safetensors file of ours: {error}") from error


def flatten_state(state: ServerState) -> dict[tuple[str, ...], Tensor]:
    """All that the server knows but the round's number, as named tensors; an entry's own path says whether it is a model."""
    flat: dict[tuple[str, ...], Tensor] = {}
    for part, tree in (("shared", state.shared), ("private", state.private)):
        for key, value in tree.items():
            flat[part, key] = torch.tensor([isinstance(value, Model)])
            for group, tensors in value.groups().items() if isinstance(value, Model) else [("", value)]:
                flat |= {(part, key, group, name): tensor for name, tensor in tensors.items()}
    return flat


def unflatten_state(flat: Mapping[tuple[str, ...], Tensor], round: int) -> ServerState:
    """The state after so many rounds."""
    trees: dict[str, dict[str, Model | Tensors]] = {"shared": {}, "private": {}}
    groups: dict[tuple[str, str, str], dict[str, Tensor]] = {}
    for path, tensor in flat.items():
        if len(path) == 4:
            groups.setdefault((path[0], path[1], path[2]), {})[path[3]] = tensor
    for path, tensor in flat.items():
        if len(path) == 2:
            part, key = path
            if bool(tensor):
                value = Model(groups.get((part, key, "parameters"), {}), groups.get((part, key, "buffers"), {}))
                trees[part][key] = value
            else:
                trees[part][key] = groups.get((part, key, ""), {})
    return ServerState(round, trees["shared"], trees["private"])


def flatten_client_states(memories: Mapping[int, Groups]) -> dict[tuple[str, ...], Tensor]:
    """What clients remember, as named tensors; a group without tensors has a path of its own."""
    flat: dict[tuple[str, ...], Tensor] = {}
    for client, groups in memories.items():
        for group, tensors in groups.items():
            flat[str(client), group] = torch.zeros(0)
            flat |= {(str(client), group, name): tensor for name, tensor in tensors.items()}
    return flat


def unflatten_client_states(flat: Mapping[tuple[str, ...], Tensor]) -> dict[int, dict[str, dict[str, Tensor]]]:
    """The memories by client."""
    memories: dict[int, dict[str, dict[str, Tensor]]] = {}
    for path, tensor in flat.items():
        group = memories.setdefault(int(path[0]), {}).setdefault(path[1], {})
        if len(path) == 3:
            group[path[2]] = tensor
    return memories
