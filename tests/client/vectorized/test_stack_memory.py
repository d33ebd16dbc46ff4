"""Memory of stacked weights: no client sees the weights of a later stack."""

import pickle

import torch

from fedlit.client.vectorized.memory import StackMemory


def test_memory_is_used_again_as_soon_as_no_client_has_a_part_of_it():
    memory, like = StackMemory(), torch.zeros(3)
    rows = memory.take("weight", like, 4).unbind()
    address = rows[0].data_ptr()
    kept = rows[2].detach()
    del rows
    kept.fill_(1)
    memory.take("weight", like, 4).fill_(2)
    assert kept.tolist() == [1, 1, 1]
    del kept
    again = memory.take("weight", like, 4).data_ptr()
    assert memory.take("weight", like, 4).data_ptr() == again != address


def test_fewer_clients_use_the_first_rows_of_the_same_memory():
    memory, like = StackMemory(), torch.zeros(3)
    address = memory.take("weight", like, 4).data_ptr()
    few = memory.take("weight", like, 2)
    assert (few.data_ptr(), few.shape) == (address, (2, 3))
    others = memory.take("weight", like, 4)  # the first two rows are in use
    assert others.data_ptr() != address
    del few
    assert memory.take("weight", like, 5).shape == (5, 3)


def test_other_shapes_and_types_have_memory_of_their_own():
    memory = StackMemory()
    for like, count in ((torch.zeros(3), 4), (torch.zeros(3), 2), (torch.zeros(2, 2), 2), (torch.zeros(3).double(), 2)):
        taken = memory.take("weight", like, count)
        assert (taken.shape, taken.dtype) == ((count, *like.shape), like.dtype)
    assert len(pickle.dumps(memory)) < 200  # another process has memory of its own
