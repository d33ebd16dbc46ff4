"""The server's broadcast: its shared state, packed by a codec.

Floating-point tensors are packed. Buffers, integers, and the tensors of the channel's stages are sent as they are.
"""

from __future__ import annotations

from dataclasses import replace

from fedlit.aggregation.channel.codec import Codec
from fedlit.aggregation.channel.tickets import Ticket
from fedlit.core.messages import ServerState, Shared
from fedlit.core.model import Model
from fedlit.core.serialization import shared_tree, state_nbytes, tensor_nbytes
from fedlit.core.streams import Purpose
from fedlit.core.tensors import Groups, Layout, Tensors

MODEL = "model/"


def broadcast(codec: Codec | None, state: ServerState, seed: int) -> ServerState:
    """The state as the clients of its round receive it.

    Args:
        codec: codec of the downlink; None sends the exact numbers.
        state: the server state, which is not changed.
        seed: the experiment's seed.
    """
    if codec is None:
        return state
    groups = _floating(state)
    layout = Layout.of(groups)
    facts = {"round": state.round, "client": 0, "seed": seed, "weight": 1.0, "purpose": Purpose.BROADCAST}
    ticket = Ticket(**facts, stage=codec.name, layout=layout)
    content = codec.pack(layout.vector(groups), ticket)
    received = layout.groups(codec.unpack(memoryview(bytearray(content)), layout))
    parts = {name: _replaced(tensors, received.get(MODEL + name, {})) for name, tensors in state.model.groups().items()}
    others = {name: _replaced(tensors, received.get(name, {})) for name, tensors in state.shared.tensors.items()}
    return replace(state, shared=Shared(Model(**parts), others))


def broadcast_nbytes(codec: Codec | None, state: ServerState) -> int:
    """Bytes that one client receives."""
    exact = state_nbytes(shared_tree(state))
    if codec is None:
        return exact
    groups = _floating(state)
    unpacked = sum(tensor_nbytes(tensor) for tensors in groups.values() for tensor in tensors.values())
    return exact - unpacked + codec.nbytes(Layout.of(groups))


def _floating(state: ServerState) -> Groups:
    groups = {f"{MODEL}parameters": state.model.parameters} | dict(state.shared.tensors)
    return {
        group: {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
        for group, tensors in groups.items()
    }


def _replaced(tensors: Tensors, received: Tensors) -> Tensors:
    return {
        name: received[name].to(tensor.device, tensor.dtype) if name in received else tensor
        for name, tensor in tensors.items()
    }
