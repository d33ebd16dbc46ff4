"""A checkpoint is stored as a whole or not at all, and is read back bit-identical."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from fedlit.core.errors import ConfigError
from fedlit.core.files import LocalFilesystem, to_json
from fedlit.core.messages import ClientFailure, ServerState, Shared, StageState
from fedlit.core.model import Model
from fedlit.core.serialization import (
    flatten_state,
    from_safetensors,
    state_sha256,
    state_tree,
    to_safetensors,
    unflatten_state,
)
from fedlit.runs.layout import CHECKPOINTS, JOURNAL
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Retention
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.checkpoint.folders import round_dir
from fedlit.server.checkpoint.format import MANIFEST, ROUND, STATE, file_digest
from fedlit.server.checkpoint.segments import CLIENT_STATES, LEDGER
from fedlit.server.client_store import ClientStateStore
from fedlit.simulation.server_crash import ServerCrash


def state(round=0):
    model = Model(
        {"z.weight": torch.full((2, 3), 0.1 + round), "a.bias": torch.zeros(0)}, {"steps": torch.tensor(round)}
    )
    dtypes = {"b": torch.tensor([True, False]), "h": torch.tensor([1.5], dtype=torch.bfloat16), "n": torch.arange(3)}
    channel = {"stage": StageState({"by": torch.ones(2)}, {"rounds": torch.tensor(round)})}
    return ServerState(
        round, Shared(model, {"empty": {}, "control": {"w": torch.ones(2)}}), {"dtypes": dtypes}, channel
    )


def record(number, lost=None):
    failures = (ClientFailure(3, "not_finite", "one of two"),)
    return RoundRecord(
        number=number,
        cohort=(1, 3),
        metrics={"train/loss": 1 / 3, "val/loss": float("nan")},
        failures=failures,
        lost=lost,
        sha256=f"{number:064d}",
    )


def client_state(number):
    return {"momentum": {"w": torch.full((2,), float(number))}, "empty": {}}


def commit_rounds(folder, rounds, retention=None, filesystem=None, changed=lambda number: [number % 3]):
    """Commit checkpoints up to a round, and return the checkpointer.

    Args:
        folder: the run's folder.
        rounds: the last round.
        retention: checkpoints that are kept.
        filesystem: writes the files.
        changed: returns the clients whose state a round changes.
    """
    checkpointer = DiskCheckpointer(folder, retention or Retention(), filesystem or LocalFilesystem())
    start = checkpointer.load()
    store, before = (start.client_states, start.state.round) if start else (ClientStateStore(), 0)
    for number in range(before + 1, rounds + 1):
        store.update({client: client_state(number) for client in changed(number)})
        checkpointer.commit(state(number), store, record(number))
    return checkpointer


def names(folder):
    """The folders of checkpoints; the ledger beside them is left out."""
    return sorted(path.name for path in (folder / CHECKPOINTS).iterdir() if path.name != LEDGER)


class RecordingFilesystem(LocalFilesystem):
    """A filesystem that records its steps, and fails at one of them."""

    def __init__(self, failure=""):
        self.steps, self.failure = [], failure

    def _record(self, step, path):
        self.steps.append(f"{step} {path.name}")
        if self.failure and self.failure in self.steps[-1]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, path, content):
        self._record("write", path)
        super().write(path, content)

    def sync(self, path):
        self._record("sync", path)
        super().sync(path)

    def append(self, path, content):
        self._record("append", path)
        super().append(path, content)

    def rename(self, old, new):
        self._record("rename", new)
        super().rename(old, new)


def test_a_checkpoint_is_read_back_bit_identical(tmp_path):
    commit_rounds(tmp_path, 3)
    checkpoint = DiskCheckpointer(tmp_path).load()
    assert state_sha256(state_tree(checkpoint.state)) == state_sha256(state_tree(state(3)))
    assert checkpoint.state.round == 3
    assert checkpoint.client_states.last_update == {1: 1, 2: 2, 0: 3}
    for client, number in checkpoint.client_states.last_update.items():
        groups = checkpoint.client_states.read([client])[client]
        assert groups["momentum"]["w"].equal(client_state(number)["momentum"]["w"])
        assert groups["empty"] == {}
    assert [json.dumps(line) for line in checkpoint.records] == [to_json(record(n).to_dict()) for n in (1, 2, 3)]
    assert checkpoint.last.failures == record(3).failures


def test_names_keep_their_order_and_tensors_their_dtypes_and_shapes():
    before = state(1)
    after = unflatten_state(from_safetensors(to_safetensors(flatten_state(before))), 1)
    assert list(after.model.parameters) == ["z.weight", "a.bias"]
    assert list(after.shared.tensors) == ["empty", "control"]
    assert after.shared["empty"] == {}
    for tree, other in (
        (before.model.state_dict(), after.model.state_dict()),
        (before.shared["control"], after.shared["control"]),
        (before.private["dtypes"], after.private["dtypes"]),
        (before.channel["stage"].shared, after.channel["stage"].shared),
        (before.channel["stage"].private, after.channel["stage"].private),
    ):
        assert [(n, t.dtype, t.shape) for n, t in tree.items()] == [(n, t.dtype, t.shape) for n, t in other.items()]
        assert all(tensor.equal(other[name]) for name, tensor in tree.items())


@pytest.mark.parametrize("name", ["a/b", 'quo"te', "nul\0", "ünï", "__metadata__", ""])
def test_any_name_of_a_tensor_survives(name):
    (path,) = from_safetensors(to_safetensors({("shared", "model", "parameters", name): torch.ones(1)}))
    assert path == ("shared", "model", "parameters", name)


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"{}", bytes(20), to_safetensors({})[:-1]])
def test_other_bytes_are_refused(content):
    with pytest.raises(ValueError, match="not a safetensors file of fedlit"):
        from_safetensors(content)


def test_a_state_without_a_global_model_is_refused():
    with pytest.raises(ValueError, match="has no global model"):
        unflatten_state({("private", "momentum"): torch.tensor([False])}, 1)


@pytest.mark.parametrize(
    ("retention", "expected"),
    [
        (Retention(), ["round-000006", "round-000007"]),
        (Retention(1), ["round-000007"]),
        (Retention(3), ["round-000005", "round-000006", "round-000007"]),
        (Retention(1, every=3), ["round-000003", "round-000006", "round-000007"]),
    ],
)
def test_old_checkpoints_are_removed_and_their_client_states_stay_while_needed(tmp_path, retention, expected):
    commit_rounds(tmp_path, 7, retention, changed=lambda number: [number] if number < 3 else [9])
    assert [name for name in names(tmp_path) if name.startswith("round")] == expected
    assert [name for name in names(tmp_path) if name.startswith("memories")] == ["memories-000001", "memories-000002"]
    assert names(tmp_path / CHECKPOINTS / "..") == names(tmp_path)
    assert [path.name for path in (tmp_path / CHECKPOINTS / "memories-000001").iterdir()] == [CLIENT_STATES]
    assert DiskCheckpointer(tmp_path).load().client_states.last_update == {1: 1, 2: 2, 9: 7}


def test_client_states_that_no_client_has_are_removed(tmp_path):
    commit_rounds(tmp_path, 6, changed=lambda number: [1] if number in (1, 4) else [2])
    assert names(tmp_path) == ["memories-000004", "round-000005", "round-000006"]


@pytest.mark.parametrize(("every", "unused"), [(None, {8: 9}), (2, {}), (3, {8: 9})])
def test_a_long_run_remembers_only_segments_that_it_may_have_to_remove(tmp_path, every, unused):
    """With every=2 the checkpoint of round 8 is never removed, and neither is its segment."""
    retention = Retention(every=every)
    checkpointer = commit_rounds(tmp_path, 9, retention, changed=lambda number: [1] if number in (1, 5) else [2])
    ledger, folders = checkpointer._stored
    assert sorted(ledger.segments) == [5, 9]
    assert ledger.unused == unused
    assert folders._rounds == sorted(retention.select_rounds([*range(1, 10)]))


def test_states_that_are_stored_are_not_in_memory(tmp_path):
    store, checkpointer = ClientStateStore(), DiskCheckpointer(tmp_path)
    for number in (1, 2):
        store.update({number: client_state(number), 5: client_state(number)})
        assert sorted(store.changed) == [number, 5]
        checkpointer.commit(state(number), store, record(number))
        assert not store.changed
    assert len(store) == 3
    read = store.read([5, 7, 1])
    assert [(client, float(groups["momentum"]["w"][0])) for client, groups in read.items()] == [(5, 2.0), (1, 1.0)]


def test_a_removed_state_stays_removed(tmp_path):
    store, checkpointer = ClientStateStore(), DiskCheckpointer(tmp_path)
    for number, changed in enumerate(({1: client_state(1), 2: client_state(2)}, {1: {}, 3: {}}, {}), 1):
        store.update(changed)
        checkpointer.commit(state(number), store, record(number))
        assert (len(store), 1 in store) == ((2, True) if number == 1 else (1, False))
    for client_states in (store, DiskCheckpointer(tmp_path).load().client_states):
        assert client_states.last_update == {2: 1}
        assert sorted(client_states.read([1, 2, 3])) == [2]
    store.update({1: client_state(4)})
    assert (len(store), sorted(store.read([1, 2]))) == (2, [1, 2])
    store.update({2: {}})
    store.update({2: client_state(4)})  # removed and new before the next checkpoint
    assert (len(store), [*store.removed], sorted(store.read([1, 2]))) == (2, [], [1, 2])
    store.update({2: {}})
    checkpointer.commit(state(4), store, record(4))
    assert DiskCheckpointer(tmp_path).load().client_states.last_update == {1: 4}
    assert names(tmp_path) == ["memories-000001", "round-000003", "round-000004"]  # round 3 needs client 2's state


def test_a_run_without_client_states_has_no_ledger(tmp_path):
    store = ClientStateStore()
    store.update({1: {}})
    DiskCheckpointer(tmp_path).commit(state(1), store, record(1))
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["round-000001"]
    assert len(DiskCheckpointer(tmp_path).load().client_states) == 0


def list_folders(monkeypatch):
    """Return the names of the folders whose content will be listed, in a list that fills itself."""
    listed, iterdir = [], Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: listed.append(path.name) or iterdir(path))
    return listed


def test_a_commit_does_not_touch_what_the_round_did_not_change(tmp_path, monkeypatch):
    """The files of a round with many client states on the disk are as long as those of one with few, and none is listed."""
    lengths = {}
    for clients in (10, 5000):
        folder = tmp_path / f"{clients}"
        folder.mkdir()
        checkpointer = commit_rounds(folder, 3, changed=lambda number, n=clients: range(n) if number == 1 else [number])
        checkpoint = checkpointer.load()
        checkpointer.commit(state(4), checkpoint.client_states, record(4))
        listed = list_folders(monkeypatch)
        monkeypatch.setattr(Path, "glob", None)
        checkpoint.client_states.update({7: client_state(5)})
        checkpointer.commit(state(5), checkpoint.client_states, record(5))
        monkeypatch.undo()
        assert listed == ["memories-000003"]  # whose other files go
        lengths[clients] = {path.name: path.stat().st_size for path in round_dir(folder, 5).iterdir()}
        note = json.loads((round_dir(folder, 5) / ROUND).read_bytes())
        lengths[clients][ROUND] -= len(str(note["clients"]["offset"]))
    assert lengths[10].keys() == {STATE, ROUND, MANIFEST, CLIENT_STATES}
    assert lengths[10] == lengths[5000]


def test_a_damaged_ledger_is_refused_and_a_longer_or_torn_one_is_repaired(tmp_path):
    commit_rounds(tmp_path, 3)
    ledger = tmp_path / CHECKPOINTS / LEDGER
    whole = ledger.read_bytes()
    for damaged in (whole[:-5], whole + b"more", b"".join(whole.splitlines(keepends=True)[:2])):
        ledger.write_bytes(damaged)
        DiskCheckpointer(tmp_path).load()
        assert ledger.read_bytes() == whole
    for damaged in (b"", whole.replace(b'"clients": [1]', b'"clients": [7]')):
        ledger.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"clients\.jsonl is not as it was when the round was recorded"):
            DiskCheckpointer(tmp_path).load()


def test_a_checkpoint_with_the_client_states_of_another_run_is_damaged(tmp_path, caplog):
    """Each of its files agrees with the manifest."""
    for name, changed in (("run", [1]), ("other", [2])):
        (tmp_path / name).mkdir()
        commit_rounds(tmp_path / name, 2, changed=lambda number, changed=changed: changed)
    for name in (CLIENT_STATES, MANIFEST):
        content = (round_dir(tmp_path / "other", 2) / name).read_bytes()
        (round_dir(tmp_path / "run", 2) / name).write_bytes(content)
    manifest = json.loads((round_dir(tmp_path / "run", 2) / MANIFEST).read_bytes())
    manifest["files"][ROUND] = file_digest((round_dir(tmp_path / "run", 2) / ROUND).read_bytes())
    (round_dir(tmp_path / "run", 2) / MANIFEST).write_text(json.dumps(manifest))
    assert DiskCheckpointer(tmp_path / "run").load().state.round == 1
    assert "memories.safetensors differs from the ledger" in caplog.text


def test_a_finished_run_keeps_its_last_round_and_those_of_every(tmp_path):
    commit_rounds(tmp_path, 7, Retention(3, every=4), changed=lambda number: [1]).finish()
    assert names(tmp_path) == ["round-000004", "round-000007"]
    assert DiskCheckpointer(tmp_path).load().state.round == 7


@pytest.mark.parametrize(("key", "value"), [("keep", 0), ("every", 0), ("every", -1)])
def test_an_invalid_retention_is_an_error(key, value):
    with pytest.raises(ConfigError, match=f"{key}={value}"):
        Retention(**{key: value})


def test_files_and_folders_are_synced_before_the_round_counts(tmp_path):
    filesystem = RecordingFilesystem()
    commit_rounds(tmp_path, 1, filesystem=filesystem)
    assert filesystem.steps == [
        f"sync {tmp_path.name}",
        *(f"{step} {name}" for step in ("write", "sync") for name in (STATE, ROUND, CLIENT_STATES, MANIFEST)),
        "sync .round-000001",
        "rename round-000001",
        "sync checkpoints",
        "append rounds.jsonl",
        f"append {LEDGER}",
        "sync rounds.jsonl",
        f"sync {LEDGER}",
        f"sync {tmp_path.name}",  # the first time, for the name of rounds.jsonl
        "sync checkpoints",  # the first time, for the name of the ledger
    ]
    filesystem.steps.clear()
    commit_rounds(tmp_path, 2, filesystem=filesystem)
    assert filesystem.steps[-4:] == [
        "append rounds.jsonl",
        f"append {LEDGER}",
        "sync rounds.jsonl",
        f"sync {LEDGER}",
    ]


def test_rounds_jsonl_is_repaired_on_resume(tmp_path):
    commit_rounds(tmp_path, 3)
    whole = (tmp_path / JOURNAL).read_bytes()
    for damaged in (whole[:-5], whole + b"more", whole + whole, b"".join(whole.splitlines(keepends=True)[:2])):
        (tmp_path / JOURNAL).write_bytes(damaged)
        assert len(DiskCheckpointer(tmp_path).load().records) == 3
        assert (tmp_path / JOURNAL).read_bytes() == whole


def test_missing_records_of_earlier_rounds_are_refused(tmp_path):
    commit_rounds(tmp_path, 3)
    for damaged in (b"", (tmp_path / JOURNAL).read_bytes().replace(b'"round": 1', b'"round": 2')):
        (tmp_path / JOURNAL).write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"rounds\.jsonl"):
            DiskCheckpointer(tmp_path).load()


def damage(folder, name=STATE):
    """Change the last byte of a file."""
    *content, last = (folder / name).read_bytes()
    (folder / name).write_bytes(bytes([*content, last ^ 1]))


def test_a_damaged_checkpoint_is_quarantined_each_time(tmp_path, caplog):
    for number in range(2):
        commit_rounds(tmp_path, 3, changed=lambda number: [1])
        damage(round_dir(tmp_path, 3))
        assert DiskCheckpointer(tmp_path).load().state.round == 2
        assert "round-000003 is not valid and is quarantined: state.safetensors differs" in caplog.messages[number]
    assert names(tmp_path) == ["bad-round-000003", "bad-round-000003~1", "round-000002"]


def test_client_states_after_the_last_valid_round_are_quarantined(tmp_path):
    retention = Retention(1, every=2)
    commit_rounds(tmp_path, 5, retention, changed=lambda number: [number])
    damage(tmp_path / CHECKPOINTS / "memories-000003", CLIENT_STATES)  # so 2 is the newest valid round
    assert DiskCheckpointer(tmp_path, retention).load().state.round == 2
    assert names(tmp_path) == [
        "bad-memories-000003", "bad-round-000004", "bad-round-000005", "memories-000001", "round-000002"
    ]  # fmt: skip
    commit_rounds(tmp_path, 6, retention, changed=lambda number: [number])
    assert sorted(DiskCheckpointer(tmp_path, retention).load().client_states.last_update) == [1, 2, 3, 4, 5, 6]


def test_a_damaged_old_checkpoint_does_not_end_the_run(tmp_path, caplog):
    commit_rounds(tmp_path, 3, Retention(4))
    (round_dir(tmp_path, 1) / MANIFEST).unlink()
    damage(round_dir(tmp_path, 2), MANIFEST)
    commit_rounds(tmp_path, 4, Retention(4))
    assert [name for name in names(tmp_path) if name.startswith("round")] == ["round-000003", "round-000004"]
    assert len(caplog.messages) == 2
    assert DiskCheckpointer(tmp_path).load().state.round == 4


def test_other_folders_stay_unchanged(tmp_path):
    commit_rounds(tmp_path, 2)
    for name in ("round-000002 (copy)", "round-x", "notes", "memories-old"):
        (tmp_path / CHECKPOINTS / name).mkdir()
    commit_rounds(tmp_path, 4)
    assert {"round-000002 (copy)", "round-x", "notes", "memories-old"} < set(names(tmp_path))


def test_a_checkpoint_under_the_name_of_another_round_is_damaged(tmp_path, caplog):
    commit_rounds(tmp_path, 2)
    round_dir(tmp_path, 2).rename(round_dir(tmp_path, 5))
    assert DiskCheckpointer(tmp_path).load().state.round == 1
    assert "is of round 2" in caplog.text


@pytest.mark.parametrize(
    "manifest",
    [b"[]", b"{}", b'"x"', b"null", b'{"schema": 1}', b'{"schema": 1, "files": [], "memories": {}}', b"\x80\x04N."],
)
def test_an_invalid_manifest_is_refused(tmp_path, manifest):
    commit_rounds(tmp_path, 1)
    (round_dir(tmp_path, 1) / MANIFEST).write_bytes(manifest)
    with pytest.raises(ConfigError, match="has no valid round: round-000001"):
        DiskCheckpointer(tmp_path).load()


@pytest.mark.parametrize("removed", ["", JOURNAL, f"{CHECKPOINTS}/{LEDGER}"])
def test_records_without_a_checkpoint_are_refused(tmp_path, removed):
    commit_rounds(tmp_path, 2)
    for number in (1, 2):
        shutil.rmtree(round_dir(tmp_path, number))
    if removed:
        (tmp_path / removed).unlink()
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    names = [name for name in (JOURNAL, f"{CHECKPOINTS}/{LEDGER}") if name != removed]
    with pytest.raises(ConfigError, match=f"no checkpoint, but records of finished rounds in {' and '.join(names)}"):
        commit_rounds(tmp_path, 1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_a_folder_whose_first_commit_failed_starts_anew(tmp_path):
    with pytest.raises(OSError, match="No space"):
        commit_rounds(tmp_path, 1, filesystem=RecordingFilesystem("rename round-000001"))
    (tmp_path / JOURNAL).touch()
    commit_rounds(tmp_path, 1)
    assert DiskCheckpointer(tmp_path).load().state.round == 1


def test_another_schema_is_refused_with_its_number(tmp_path):
    commit_rounds(tmp_path, 1)
    manifest = json.loads((round_dir(tmp_path, 1) / MANIFEST).read_bytes())
    (round_dir(tmp_path, 1) / MANIFEST).write_text(json.dumps({**manifest, "schema": 1}))
    with pytest.raises(ConfigError, match="has schema 1, and this fedlit reads schema 3"):
        DiskCheckpointer(tmp_path).load()


def test_only_the_files_of_the_checkpoint_are_read(tmp_path):
    commit_rounds(tmp_path, 1)
    manifest = json.loads((round_dir(tmp_path, 1) / MANIFEST).read_bytes())
    manifest["files"]["../../another"] = file_digest(b"")  # a missing file
    (round_dir(tmp_path, 1) / MANIFEST).write_text(json.dumps(manifest))
    assert DiskCheckpointer(tmp_path).load().state.round == 1


@pytest.mark.parametrize(
    "failure", [f"write {STATE}", f"sync {MANIFEST}", "rename round-000003", "append rounds.jsonl"]
)
def test_the_last_round_stays_valid_when_a_commit_fails(tmp_path, failure):
    commit_rounds(tmp_path, 2)
    with pytest.raises(OSError, match="No space"):
        commit_rounds(tmp_path, 3, filesystem=RecordingFilesystem(failure))
    assert DiskCheckpointer(tmp_path).load().state.round == (3 if "append" in failure else 2)
    commit_rounds(tmp_path, 3).finish()
    assert names(tmp_path) == ["memories-000001", "memories-000002", "round-000003"]


def test_a_failed_repair_does_not_damage_a_checkpoint(tmp_path):
    commit_rounds(tmp_path, 3)
    whole = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(whole[:-9])
    with pytest.raises(OSError, match="No space"):
        DiskCheckpointer(tmp_path, filesystem=RecordingFilesystem("write rounds.jsonl")).load()
    assert names(tmp_path) == ["memories-000001", "round-000002", "round-000003"]
    assert DiskCheckpointer(tmp_path).load().state.round == 3
    assert (tmp_path / JOURNAL).read_bytes() == whole


def test_lost_rounds_in_a_row_are_counted_from_the_records(tmp_path):
    checkpointer = DiskCheckpointer(tmp_path)
    for number, lost in enumerate([None, "no", None, "no", "no"], 1):
        checkpointer.commit(state(number), ClientStateStore(), record(number, lost))
    assert checkpointer.load().lost_in_a_row == 2


def test_load_returns_none_without_a_checkpoint(tmp_path):
    assert DiskCheckpointer(tmp_path).load() is None
    assert DiskCheckpointer(Path(tmp_path / "nowhere")).load() is None


@pytest.mark.parametrize("arguments", [{"round": 0}, {"round": 3, "step": "rnd"}])
def test_a_crash_of_the_server_needs_an_existing_round_and_step(arguments):
    with pytest.raises(ConfigError):
        ServerCrash(**arguments)


def test_peek_changes_nothing_and_returns_the_same_round_as_load(tmp_path):
    commit_rounds(tmp_path, 3)
    damage(round_dir(tmp_path, 3))
    (tmp_path / CHECKPOINTS / ".round-000004").mkdir()
    before = names(tmp_path), (tmp_path / JOURNAL).read_bytes()
    assert DiskCheckpointer(tmp_path).peek({}).state.round == 2
    assert (names(tmp_path), (tmp_path / JOURNAL).read_bytes()) == before
    assert DiskCheckpointer(tmp_path).load().state.round == 2


def test_open_syncs_the_parents_of_the_folder_that_it_may_write(tmp_path, monkeypatch):
    filesystem, access = RecordingFilesystem(), os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and path != tmp_path.parent)
    with DiskCheckpointer(tmp_path / "a" / "b", filesystem=filesystem).open({}):
        assert filesystem.steps == ["sync a", f"sync {tmp_path.name}"]


def test_a_lock_can_be_nested_and_keeps_other_processes_out(tmp_path):
    checkpointer = DiskCheckpointer(str(tmp_path / "run"))
    with checkpointer.lock():
        with checkpointer.lock():
            pass
        with (
            pytest.raises(ConfigError, match="is in use by another process"),
            DiskCheckpointer(tmp_path / "run").lock(),
        ):
            pass
    with DiskCheckpointer(tmp_path / "run").lock():
        pass
