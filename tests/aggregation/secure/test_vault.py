"""The vault: what it seals, and where its key is."""

import pickle
import subprocess
import sys
from copy import deepcopy

import pytest

from fedlit.aggregation.secure.vault import Vault
from fedlit.executors.pool.transport import deserialize_worker, serialize_worker

PROGRAM = """
import sys
from fedlit.aggregation.secure.vault import Vault
sys.stdout.write(Vault(int(sys.argv[1])).unseal(bytes.fromhex(sys.argv[2]), b"client 3").decode())
"""


def test_sealed_bytes_open_for_the_same_owner_alone():
    vault = Vault()
    sealed = vault.seal(b"secret", b"client 3")
    assert vault.unseal(sealed, b"client 3") == b"secret"
    assert b"secret" not in sealed
    assert sealed != vault.seal(b"secret", b"client 3")
    for content, owner in ((sealed, b"client 4"), (sealed[:-1] + bytes([sealed[-1] ^ 1]), b"client 3")):
        with pytest.raises(ValueError, match="changed, or is meant for someone else"):
            vault.unseal(content, owner)


def test_another_vault_has_another_key():
    with pytest.raises(ValueError, match="meant for someone else"):
        Vault().unseal(Vault().seal(b"secret", b""), b"")


def test_a_pickle_of_a_vault_holds_no_key_and_a_copy_in_this_process_is_the_same_vault():
    vault = Vault()
    sealed, content = vault.seal(b"secret", b""), pickle.dumps(vault)
    assert vault._key not in content
    assert len(vault._key) == 32
    with pytest.raises(ValueError, match="meant for someone else"):
        pickle.loads(content).unseal(sealed, b"")
    assert deepcopy(vault).unseal(sealed, b"") == b"secret"


def test_worker_processes_have_one_key_that_the_parent_does_not_draw(tmp_path):
    """The file of the worker has a place for the key, which is empty until a copy in a worker process needs it."""
    with open(tmp_path / "file", "w+b") as file:
        content = serialize_worker({"vault": Vault()}, file)
        before = (tmp_path / "file").read_bytes()
        first, second = (deserialize_worker(content)["vault"] for _ in range(2))
        assert before == bytes(32)
        assert second.unseal(first.seal(b"secret", b"client 3"), b"client 3") == b"secret"
        assert (tmp_path / "file").read_bytes() == first._key != bytes(32)


@pytest.mark.slow
def test_a_process_that_inherits_the_file_opens_what_this_one_sealed(tmp_path):
    with open(tmp_path / "file", "w+b") as file:
        file.write(bytes(32))
        file.flush()
        sealed = Vault(file.fileno()).seal(b"secret", b"client 3")
        command = [sys.executable, "-c", PROGRAM, str(file.fileno()), sealed.hex()]
        found = subprocess.run(command, pass_fds=[file.fileno()], check=True, capture_output=True, text=True)
        assert found.stdout == "secret"
