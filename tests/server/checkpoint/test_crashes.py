"""A commit that is stopped at any of its steps, or by a loss of power, leaves whole rounds alone."""

import shutil
from types import SimpleNamespace

import pytest
from durable import DurableFilesystem, Stopped
from test_disk import client_state, commit_rounds, names, record, state

from fedlit.core.errors import ConfigErrors
from fedlit.core.files import LocalFilesystem
from fedlit.runs.layout import CHECKPOINTS, JOURNAL
from fedlit.server.checkpoint import disk
from fedlit.server.checkpoint.checkpointer import Checkpoint, NoCheckpoints, Retention
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.checkpoint.folders import committed_rounds
from fedlit.server.checkpoint.format import read_checkpoint, read_journal
from fedlit.server.client_store import ClientStateStore

ROUNDS = 5
RETENTION = Retention(1)
CHANGED = {1: [1], 2: [9], 3: [3], 4: [9], 5: [], 6: [9], 7: [7]}
"""Clients whose state a round changes. Commit 5 keeps round 4's state of client 9 alone, commit 6 removes it, and round 5."""


class Unsynced(LocalFilesystem):
    """Files without the wait for the disk, for what a test does before and after the steps that it looks into."""

    def sync(self, path): ...


def commit_next(folder, filesystem):
    """Commit the round after the last one of the folder."""
    checkpoint = DiskCheckpointer(folder, RETENTION, Unsynced()).load()
    number, store = checkpoint.state.round + 1, checkpoint.client_states
    checkpointer = DiskCheckpointer(folder, RETENTION, filesystem)
    store.update({client: client_state(number) for client in CHANGED[number]})
    checkpointer.commit(state(number), store, record(number))


def content_of(folder):
    """All files of a folder but the lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run's folder by its number of rounds, as runs that nothing stops leave it."""
    root = tmp_path_factory.mktemp("runs")
    for rounds in range(1, ROUNDS + 3):
        (root / f"{rounds}").mkdir()
        commit_rounds(root / f"{rounds}", rounds, RETENTION, Unsynced(), CHANGED.get)
    return root


def assert_whole(folder, rounds, folders, until):
    """Every committed round is whole, and the run is resumed as if nothing had happened."""
    for number in committed_rounds(folder):
        note = read_checkpoint(folder, number)[2]
        read_journal(folder / JOURNAL, note)
    last = DiskCheckpointer(folder, RETENTION, Unsynced()).load().state.round
    assert last in rounds
    assert not [name for name in names(folder) if name.startswith((".", "bad-"))]
    commit_rounds(folder, until, RETENTION, Unsynced(), CHANGED.get)
    assert content_of(folder) == content_of(folders / f"{until}")


@pytest.mark.parametrize("before", [ROUNDS - 1, ROUNDS])
def test_commit_that_stops_at_any_step_leaves_whole_rounds(tmp_path, folders, before):
    for step in range(100):
        folder, trash = tmp_path / f"{step}", tmp_path / f"{step}-trash"
        shutil.copytree(folders / f"{before}", folder)
        trash.mkdir()
        filesystem = DurableFilesystem(folder, trash, step)
        is_done = True
        try:
            commit_next(folder, filesystem)
        except Stopped:
            is_done = False
        rounds = [before + 1] if is_done else [before, before + 1]
        for place in (filesystem.lose_power(tmp_path / f"{step}-off"), folder):
            assert_whole(place, rounds, folders, before + 2)
        if is_done:
            break
    assert 12 < step < 99
    assert sum(each.startswith("remove") for each in filesystem.steps) == (3 if before == 4 else 2)


def test_nothing_is_removed_before_the_journal_has_the_round(tmp_path, folders):
    shutil.copytree(folders / f"{ROUNDS}", tmp_path / "run")
    (tmp_path / "trash").mkdir()
    filesystem = DurableFilesystem(tmp_path / "run", tmp_path / "trash")
    commit_next(tmp_path / "run", filesystem)
    written = filesystem.steps.index(f"sync {JOURNAL}")
    removals = [i for i, step in enumerate(filesystem.steps) if step.startswith(("remove", f"rename {CHECKPOINTS}/."))]
    assert removals
    assert min(removals) > written


def test_repair_of_rounds_jsonl_that_stops_at_any_step_leaves_whole_rounds(tmp_path, folders):
    whole = (folders / f"{ROUNDS}" / JOURNAL).read_bytes()
    for step in range(20):
        folder, trash = tmp_path / f"{step}", tmp_path / f"{step}-trash"
        shutil.copytree(folders / f"{ROUNDS}", folder)
        trash.mkdir()
        (folder / JOURNAL).write_bytes(whole + b"a line of a round that was lost")
        filesystem = DurableFilesystem(folder, trash, step)
        is_done = True
        try:
            DiskCheckpointer(folder, RETENTION, filesystem).load()
        except Stopped:
            is_done = False
        for place in (filesystem.lose_power(tmp_path / f"{step}-off"), folder):
            assert (place / JOURNAL).read_bytes().startswith(whole)
            assert not is_done or (place / JOURNAL).read_bytes() == whole
        if is_done:
            break
    assert 2 < step < 19


def test_journal_that_is_shorter_than_recorded_is_refused(tmp_path, folders):
    """Each earlier round is there once, but its record is not the one that was written."""
    shutil.copytree(folders / f"{ROUNDS}", tmp_path / "run")
    journal = tmp_path / "run" / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([b'{"round": 1}\n', *lines[1:-1]]))
    note = read_checkpoint(tmp_path / "run", ROUNDS)[2]
    with pytest.raises(ValueError, match=r"rounds\.jsonl is shorter than when the round was recorded"):
        read_journal(journal, note)


def test_leftovers_of_a_crash_are_removed_and_no_other_files(tmp_path, folders):
    shutil.copytree(folders / f"{ROUNDS}", tmp_path / "run")
    for name in (".round-000009", ".memories-000002"):
        (tmp_path / "run" / CHECKPOINTS / name).mkdir()
    others = [".nfs0001", ".round-x", "notes.txt"]
    for name in others:
        (tmp_path / "run" / CHECKPOINTS / name).touch()
    before = names(folders / f"{ROUNDS}")
    DiskCheckpointer(tmp_path / "run", RETENTION).load()
    assert names(tmp_path / "run") == sorted([*before, *others])


def test_commit_replaces_what_an_interrupted_one_left(tmp_path):
    partial = tmp_path / CHECKPOINTS / ".round-000001"
    partial.mkdir(parents=True)
    (partial / "state.safetensors").write_bytes(b"half of it")
    DiskCheckpointer(tmp_path, RETENTION, Unsynced()).commit(state(1), ClientStateStore(), record(1))
    assert names(tmp_path) == ["round-000001"]
    assert DiskCheckpointer(tmp_path, RETENTION).load().state.round == 1


def test_lock_makes_the_folder_with_its_parents_before_it_is_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(
        disk, "FileLock", lambda path, timeout: SimpleNamespace(acquire=path.touch, release=path.unlink)
    )
    with DiskCheckpointer(tmp_path / "a" / "b").lock():
        assert (tmp_path / "a" / "b" / "lock").exists()
    assert not (tmp_path / "a" / "b" / "lock").exists()


def test_rounds_of_another_experiment_are_refused_with_each_difference(tmp_path):
    checkpointer = DiskCheckpointer(tmp_path, RETENTION, Unsynced())
    with checkpointer.open({"seed": 1, "rate": 0.1, "old": 1}):
        checkpointer.commit(state(1), ClientStateStore(), record(1))
    again = DiskCheckpointer(tmp_path)
    with again.open({"seed": 1, "rate": 0.1, "new": 2}):  # `old` and `new` are keys of one side alone
        assert again.load().state.round == 1
    with again.open({"seed": 2, "rate": 0.2}):
        with pytest.raises(ConfigErrors) as errors:
            again.load()
        with pytest.raises(ConfigErrors):
            again.peek({"seed": 3})
    assert [(error.key, error.value) for error in errors.value.errors] == [("seed", 2), ("rate", 0.2)]
    assert names(tmp_path) == ["round-000001"]


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([], 0),
        (["no", "no"], 2),
        ([None, "no"], 1),
        (["no", None], 0),
        ([None, "empty", "no", "empty"], 1),
        ([None, "no", None, "no", "no"], 2),
    ],
)
def test_lost_rounds_at_the_end_are_counted_without_those_that_had_no_client(rounds, expected):
    records = []
    for number, lost in enumerate(rounds, 1):
        one = record(number, lost).to_dict()
        records.append({**one, "cohort": [], "failures": []} if lost == "empty" else one)
    checkpoint = Checkpoint(state(1), ClientStateStore(), tuple(records))
    assert checkpoint.lost_in_a_row == expected
    assert (checkpoint.last and checkpoint.last.number) == (len(rounds) or None)


def test_storage_in_memory_keeps_nothing():
    storage = NoCheckpoints()
    with storage.open({"seed": 1}):
        storage.commit(state(1), ClientStateStore(), record(1))
        storage.finish()
        assert storage.load() is None
