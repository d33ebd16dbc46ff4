import hashlib
import pickle

import pytest
import torch

from fedlit.core.messages import ServerState, Shared, StageState
from fedlit.core.model import Model
from fedlit.core.serialization import (
    flatten_client_states,
    flatten_state,
    from_safetensors,
    named_paths,
    shared_tree,
    state_bytes,
    state_nbytes,
    state_sha256,
    state_tree,
    to_safetensors,
    unflatten_client_states,
    unflatten_state,
)
from fedlit.core.tensors import Layout

GROUPS = {
    "parameters": {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor(5.0)},
    "buffers": {"n": torch.tensor(6)},
}


def test_groups_come_back_under_their_names():
    layout = Layout.of(GROUPS)
    back = layout.groups(layout.vector(GROUPS).double())
    assert torch.equal(back["parameters"]["w"], GROUPS["parameters"]["w"].double())
    assert back["buffers"]["n"].shape == ()
    assert layout.size == 6


def test_the_order_of_numbers_in_memory_does_not_change_the_vector():
    groups = {"parameters": {"w": torch.arange(24.0).reshape(1, 2, 3, 4)}}
    other = {"parameters": {"w": groups["parameters"]["w"].contiguous(memory_format=torch.channels_last)}}
    assert torch.equal(Layout.of(groups).vector(groups), Layout.of(groups).vector(other))
    assert state_sha256({"model": Model(groups["parameters"], {})}) == state_sha256(
        {"model": Model(other["parameters"], {})}
    )


def test_paths_are_sorted_and_the_bytes_name_them_with_dtype_and_shape():
    tree = {"model": Model({"w": torch.zeros(2)}, {"n": torch.tensor(1)}), "control": {"w": torch.ones(2)}}
    assert [path for path, _ in named_paths(tree)] == ["control/w", "model/buffers/n", "model/parameters/w"]
    assert state_bytes(tree).startswith(b"control/w float32 [2]\n")
    assert b"model/buffers/n int64 []\n" in state_bytes(tree)
    assert state_sha256(tree) == hashlib.sha256(state_bytes(tree)).hexdigest()


def test_the_digest_sees_values_dtypes_shapes_and_names():
    trees = [
        {"a": {"w": torch.zeros(2)}},
        {"a": {"w": torch.ones(2)}},
        {"a": {"w": torch.zeros(2).double()}},
        {"a": {"w": torch.zeros(1, 2)}},
        {"a": {"v": torch.zeros(2)}},
    ]
    assert len({state_sha256(tree) for tree in trees}) == len(trees)


def test_tensors_come_back_in_their_order_and_dtype_also_if_names_share_memory():
    flat = torch.arange(6.0)
    tree = {
        ("z", "first"): flat[:4].view(2, 2),
        ("a",): flat,
        ("same",): flat,
        ("count",): torch.tensor(7),
        ("none",): torch.zeros(0, dtype=torch.bfloat16),
        ("mask", "x.y"): torch.tensor([True, False]),
    }
    back = from_safetensors(to_safetensors(tree))
    assert list(back) == list(tree)
    for path, tensor in tree.items():
        assert back[path].dtype == tensor.dtype
        assert torch.equal(back[path], tensor)


def test_a_file_of_another_kind_is_refused_and_not_executed():
    for content in (b"", b"rubbish", pickle.dumps({"w": 1})):
        with pytest.raises(ValueError, match="not a safetensors file"):
            from_safetensors(content)


def test_the_length_of_a_state_is_that_of_its_bytes():
    mask, half = torch.tensor([True, False]), torch.zeros(2, 3, dtype=torch.bfloat16)
    model = Model({"w": torch.ones(3, 2)}, {"n": torch.tensor(6), "mask": mask, "none": torch.zeros(0)})
    tree = {"model": model, "control": {"w": half.t()}}
    assert state_nbytes(tree) == len(state_bytes(tree))


def test_a_server_state_with_stages_comes_back():
    shared = Shared(Model({"w": torch.ones(2)}, {}), {"control": {"w": torch.zeros(2)}})
    stages = {"clip": StageState({"norm": torch.tensor(1.0)}, {"seen": torch.tensor(3)}), "empty": StageState()}
    state = ServerState(4, shared, {"velocity": {"w": torch.ones(2)}}, stages)
    back = unflatten_state(from_safetensors(to_safetensors(flatten_state(state))), 4)
    assert state_sha256(state_tree(back)) == state_sha256(state_tree(state))
    assert (back.round, list(back.channel), list(back.private)) == (4, ["clip", "empty"], ["velocity"])
    assert list(shared_tree(state)) == ["model", "control", "channel/clip"]


def test_a_state_without_a_stage_has_the_paths_of_its_parts_alone():
    state = ServerState(0, Shared(Model({"w": torch.ones(2)}, {"n": torch.tensor(1)})))
    assert [path for path, _ in named_paths(state_tree(state))] == [
        "shared/model/buffers/n",
        "shared/model/parameters/w",
    ]
    with pytest.raises(ValueError, match="no global model"):
        unflatten_state({}, 0)


def test_client_states_come_back_also_groups_without_tensors():
    states = {3: {"mine": {"a": torch.ones(2), "b": torch.zeros(1)}, "empty": {}}, 12: {"mine": {"a": torch.tensor(4)}}}
    back = unflatten_client_states(flatten_client_states(states))
    assert {client: {group: set(tensors) for group, tensors in groups.items()} for client, groups in back.items()} == {
        3: {"mine": {"a", "b"}, "empty": set()},
        12: {"mine": {"a"}},
    }
    assert back[3]["mine"]["a"].equal(torch.ones(2))
    assert back[12]["mine"]["a"].equal(torch.tensor(4))


def test_the_span_of_a_group_is_its_part_of_the_vector():
    groups = {"parameters": {"w": torch.ones(2, 3), "v": torch.ones(1)}, "buffers": {"m": torch.zeros(4)}}
    layout = Layout.of(groups)
    assert layout.span("parameters") == slice(0, 7)
    assert layout.span("buffers") == slice(7, 11)
    assert layout.span("other") == slice(0, 0)
    assert layout.vector(groups)[layout.span("parameters")].sum() == 7
