"""The server's view: no update follows from the bytes that the server holds after each exchange."""

import pickle

import pytest
from secagg_runs import ProtocolRun, derivable_updates, leaked_secrets

LOST = (set(), {3}, {4}, set())


@pytest.fixture(scope="module")
def finished():
    run = ProtocolRun(7, length=4, lost=LOST)
    run.run()
    return run


@pytest.mark.slow
def test_the_server_learns_the_secrets_that_unmasking_reveals_and_no_update(finished):
    """All masked vectors are part of what the attacker sees, one by one."""
    for view in finished.views[:3]:
        assert leaked_secrets(view, finished.server) == set()
        assert derivable_updates(view, finished) == set()
    opened = pickle.dumps((finished.server, finished.masked, rebuilt_secrets(finished)))
    seeds = {("seed", client) for client in finished.server.alive}
    assert leaked_secrets(opened, finished.server) == seeds | {("mask_key", 4)}
    assert derivable_updates(opened, finished) == set()


def rebuilt_secrets(run):
    """The secrets that the server rebuilds of the shares after the last exchange."""
    return [run.server._rebuild(client, {}) for client in run.server._sealed]


def test_the_attack_finds_an_update_when_the_server_holds_a_secret_too_many(finished):
    run = ProtocolRun(7, length=4, lost=LOST)
    for _ in range(3):
        run.exchange()
    secrets = run.secrets[1]
    run.exchange()
    view = pickle.dumps(rebuilt_secrets(run))
    assert derivable_updates(view, run) == set()
    assert derivable_updates(view + secrets.mask_key, run) == {1}
    assert derivable_updates(secrets.seed + secrets.mask_key, run) == {1}
    assert derivable_updates(b".." + run.vectors[2].tobytes(), run) == {2}


def test_masked_vectors_of_equal_vectors_differ():
    """A mask is fresh in each run, so equal vectors give other masked vectors."""
    runs = [ProtocolRun(4, length=4) for _ in range(2)]
    for run in runs:
        run.run()
    assert all((runs[0].masked[client] != runs[1].masked[client]).any() for client in range(4))
    assert len({bytes(vector) for run in runs for vector in run.masked.values()}) == 8
