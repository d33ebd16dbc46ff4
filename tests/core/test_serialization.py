import hashlib
import pickle

import pytest
import torch

from fedlit.aggregation.packing import pack_update, unpack_update
from fedlit.core.messages import Model
from fedlit.core.serialization import (
    from_safetensors,
    named_paths,
    state_bytes,
    state_nbytes,
    state_sha256,
    to_safetensors,
)
from fedlit.core.tensors import Layout

GROUPS = {
    "parameters": {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor(5.0)},
    "buffers": {"n": torch.tensor(6)},
}


def test_a_message_holds_the_weight_and_four_bytes_a_number():
    message = pack_update(Layout.of(GROUPS), GROUPS, weight=2.5)
    vector, weight = unpack_update(message)
    assert len(message) == 8 + 4 * 6
    assert weight == 2.5
    assert vector.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert vector.dtype == torch.float32


def test_groups_come_back_under_their_names():
    layout = Layout.of(GROUPS)
    back = layout.groups(layout.vector(GROUPS).double())
    assert torch.equal(back["parameters"]["w"], GROUPS["parameters"]["w"].double())
    assert back["buffers"]["n"].shape == ()
    assert layout.size == 6


def test_tensors_that_lie_otherwise_in_memory_give_the_same_vector():
    groups = {"parameters": {"w": torch.arange(24.0).reshape(1, 2, 3, 4)}}
    other = {"parameters": {"w": groups["parameters"]["w"].contiguous(memory_format=torch.channels_last)}}
    assert torch.equal(Layout.of(groups).vector(groups), Layout.of(groups).vector(other))
    assert state_sha256({"model": Model(groups["parameters"], {})}) == state_sha256(
        {"model": Model(other["parameters"], {})}
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"parameters": {"w": torch.zeros(2, 2)}},
        {"parameters": {"w": torch.zeros(4), "b": torch.tensor(0.0)}, "buffers": {"n": torch.tensor(0)}},
    ],
)
def test_another_name_or_shape_is_refused_with_the_name(wrong):
    with pytest.raises(ValueError, match=r"parameters/w|buffers/n"):
        pack_update(Layout.of(GROUPS), wrong, 1.0)


def test_the_order_of_names_does_not_matter():
    other = {group: dict(reversed(tensors.items())) for group, tensors in reversed(GROUPS.items())}
    assert pack_update(Layout.of(GROUPS), other, 1.0) == pack_update(Layout.of(GROUPS), GROUPS, 1.0)


def test_an_update_of_nothing_is_eight_bytes():
    vector, weight = unpack_update(pack_update(Layout.of({}), {}, 1.0))
    assert (len(vector), weight) == (0, 1.0)


def test_paths_are_sorted_and_dump_names_them_with_dtype_and_shape():
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


def test_what_is_frozen_comes_back_in_its_order_and_dtype_also_where_names_share_memory():
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


def test_what_is_no_file_of_ours_is_told_and_not_executed():
    for content in (b"", b"rubbish", pickle.dumps({"w": 1})):
        with pytest.raises(ValueError, match="no safetensors file"):
            from_safetensors(content)


def test_the_length_of_a_state_is_that_of_its_bytes():
    mask, half = torch.tensor([True, False]), torch.zeros(2, 3, dtype=torch.bfloat16)
    model = Model({"w": torch.ones(3, 2)}, {"n": torch.tensor(6), "mask": mask, "none": torch.zeros(0)})
    tree = {"model": model, "control": {"w": half.t()}}
    assert state_nbytes(tree) == len(state_bytes(tree))
