"""A round is kept as a whole or not at all, and is read back to the bit."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedlit.core import serialization as wire
from fedlit.core.errors import ConfigError
from fedlit.core.files import LocalFilesystem, to_json
from fedlit.core.messages import ClientFailure, ServerState, Shared
from fedlit.core.model import Model
from fedlit.runs.layout import CHECKPOINTS, JOURNAL
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Retention
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.checkpoint.format import CLIENT_STATES, MANIFEST, ROUND, STATE, file_digest, round_dir
from fedlit.server.client_store import ClientStateStore
from fedlit.simulation.server_crash import ServerCrash


def state(round=0):
    model = Model(
        {"z.weight": torch.full((2, 3), 0.1 + round), "a.bias": torch.zeros(0)}, {"steps": torch.tensor(round)}
    )
    odd = {"b": torch.tensor([True, False]), "h": torch.tensor([1.5], dtype=torch.bfloat16), "n": torch.arange(3)}
    return ServerState(round, Shared(model, {"none": {}}), {"odd": odd, "bare": Model({}, {})})


def record(number, lost=None):
    failures = (ClientFailure(3, "not_finite", "one of two"),)
    return RoundRecord(
        number, (1, 3), {"train/loss": 1 / 3, "val/loss": float("nan")}, failures, lost, f"{number:064d}", None
    )


def remembering(number):
    return {"momentum": {"w": torch.full((2,), float(number))}, "empty": {}}


def kept(folder, rounds, keeping=None, disk=None, remember=lambda number: [number % 3]):
    """Commits of so many rounds, in each of which some clients remember something new."""
    commits = DiskCheckpointer(folder, keeping or Retention(), disk or LocalFilesystem())
    saved = commits.load()
    store, first = (saved.client_states, saved.state.round) if saved else (ClientStateStore(), 0)
    for number in range(first + 1, rounds + 1):
        store.update(number, {client: remembering(number) for client in remember(number)})
        commits.commit(state(number), store, record(number))
    return commits


def names(folder):
    return sorted(path.name for path in (folder / CHECKPOINTS).iterdir())


class Noting(LocalFilesystem):
    """A disk that remembers its steps, and fails at one of them."""

    def __init__(self, fails="", error=errno.ENOSPC):
        self.steps, self.fails, self.error = [], fails, error

    def _note(self, step, path):
        self.steps.append(f"{step} {path.name}")
        if self.fails and self.fails in self.steps[-1]:
            raise OSError(self.error, os.strerror(self.error))

    def write(self, path, content):
        self._note("write", path)
        super().write(path, content)

    def sync(self, path):
        self._note("sync", path)
        super().sync(path)

    def append(self, path, content):
        self._note("append", path)
        super().append(path, content)

    def rename(self, old, new):
        self._note("rename", new)
        super().rename(old, new)


def test_what_was_committed_is_read_back_to_the_bit(tmp_path):
    kept(tmp_path, 3)
    saved = DiskCheckpointer(tmp_path).load()
    wanted = state(3)
    assert wire.state_sha256(saved.state.shared) == wire.state_sha256(wanted.shared)
    assert wire.state_sha256(saved.state.private) == wire.state_sha256(wanted.private)
    assert saved.state.round == 3
    assert saved.client_states.last_update == {1: 1, 2: 2, 0: 3}
    for client, number in saved.client_states.last_update.items():
        memory = saved.client_states.read([client])[client]
        assert memory["momentum"]["w"].equal(remembering(number)["momentum"]["w"])
        assert memory["empty"] == {}
    assert [json.dumps(line) for line in saved.records] == [to_json(record(n).to_dict()) for n in (1, 2, 3)]
    assert saved.last.failures == record(3).failures


def test_names_keep_their_order_and_tensors_their_dtypes_and_shapes():
    wanted = state(1)
    thawed = wire.unflatten_state(wire.from_safetensors(wire.to_safetensors(wire.flatten_state(wanted))), 1)
    assert list(thawed.model.parameters) == ["z.weight", "a.bias"]
    assert list(thawed.shared) == ["model", "none"]
    assert thawed.shared["none"] == {}
    assert isinstance(thawed.private["bare"], Model)
    for tree, other in (
        (wanted.model.state_dict(), thawed.model.state_dict()),
        (wanted.private["odd"], thawed.private["odd"]),
    ):
        assert [(n, t.dtype, t.shape) for n, t in tree.items()] == [(n, t.dtype, t.shape) for n, t in other.items()]
        assert all(tensor.equal(other[name]) for name, tensor in tree.items())


@pytest.mark.parametrize("name", ["a/b", 'quo"te', "nul\0", "ünï", "__metadata__", ""])
def test_any_name_of_a_tensor_survives(name):
    (path,) = wire.from_safetensors(wire.to_safetensors({("shared", "model", "parameters", name): torch.ones(1)}))
    assert path == ("shared", "model", "parameters", name)


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"{}", bytes(20), wire.to_safetensors({})[:-1]])
def test_other_bytes_are_no_state(content):
    with pytest.raises(ValueError, match="no safetensors file of ours"):
        wire.from_safetensors(content)


@pytest.mark.parametrize(
    ("keeping", "left"),
    [
        (Retention(), ["round-000006", "round-000007"]),
        (Retention(1), ["round-000007"]),
        (Retention(3), ["round-000005", "round-000006", "round-000007"]),
        (Retention(1, every=3), ["round-000003", "round-000006", "round-000007"]),
    ],
)
def test_so_many_are_kept_and_memories_as_long_as_they_are_needed(tmp_path, keeping, left):
    kept(tmp_path, 7, keeping, remember=lambda number: [number] if number < 3 else [9])
    assert [name for name in names(tmp_path) if name.startswith("round")] == left
    assert [name for name in names(tmp_path) if name.startswith("memories")] == ["memories-000001", "memories-000002"]
    assert names(tmp_path / CHECKPOINTS / "..") == names(tmp_path)
    assert [path.name for path in (tmp_path / CHECKPOINTS / "memories-000001").iterdir()] == [CLIENT_STATES]
    assert DiskCheckpointer(tmp_path).load().client_states.last_update == {1: 1, 2: 2, 9: 7}


def test_memories_that_nobody_has_any_more_are_removed(tmp_path):
    kept(tmp_path, 6, remember=lambda number: [1] if number in (1, 4) else [2])
    assert names(tmp_path) == ["memories-000004", "round-000005", "round-000006"]


def test_of_older_memories_no_more_is_known_than_is_needed(tmp_path):
    commits = kept(tmp_path, 9, remember=lambda number: [1] if number in (1, 5) else [2])
    assert sorted(commits._digests) == [5, 9]


def test_a_finished_run_keeps_its_last_round_and_those_of_every(tmp_path):
    kept(tmp_path, 7, Retention(3, every=4), remember=lambda number: [1]).finish()
    assert names(tmp_path) == ["round-000004", "round-000007"]
    assert DiskCheckpointer(tmp_path).load().state.round == 7


@pytest.mark.parametrize(("key", "value"), [("keep", 0), ("every", 0), ("every", -1)])
def test_what_is_kept_is_a_whole_number(key, value):
    with pytest.raises(ConfigError, match=f"{key}={value}"):
        Retention(**{key: value})


def test_all_is_synced_before_it_counts(tmp_path):
    disk = Noting()
    kept(tmp_path, 1, disk=disk)
    assert disk.steps == [
        f"sync {tmp_path.name}",
        *(f"{step} {name}" for name in (STATE, ROUND, CLIENT_STATES, MANIFEST) for step in ("write", "sync")),
        "sync .round-000001",
        "rename round-000001",
        "sync checkpoints",
        "append rounds.jsonl",
        "sync rounds.jsonl",
        f"sync {tmp_path.name}",  # the journal's name, the first time
    ]
    disk.steps.clear()
    kept(tmp_path, 2, disk=disk)
    assert disk.steps[-1] == "sync rounds.jsonl"


def test_rounds_jsonl_is_cut_to_what_it_was_and_written_again(tmp_path):
    kept(tmp_path, 3)
    whole = (tmp_path / JOURNAL).read_bytes()
    for spoilt in (whole[:-5], whole + b"more", whole + whole, b"".join(whole.splitlines(keepends=True)[:2])):
        (tmp_path / JOURNAL).write_bytes(spoilt)
        assert len(DiskCheckpointer(tmp_path).load().records) == 3
        assert (tmp_path / JOURNAL).read_bytes() == whole


def test_the_rounds_before_are_not_made_up(tmp_path):
    kept(tmp_path, 3)
    for spoilt in (b"", (tmp_path / JOURNAL).read_bytes().replace(b'"round": 1', b'"round": 2')):
        (tmp_path / JOURNAL).write_bytes(spoilt)
        with pytest.raises(ConfigError, match=r"rounds\.jsonl"):
            DiskCheckpointer(tmp_path).load()


def spoil(folder, name=STATE):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


def test_a_bad_one_is_set_aside_as_often_as_it_takes(tmp_path, caplog):
    for number in range(2):
        kept(tmp_path, 3, remember=lambda number: [1])
        spoil(round_dir(tmp_path, 3))
        assert DiskCheckpointer(tmp_path).load().state.round == 2
        assert "round-000003 does not hold and is set aside: state.safetensors is not" in caplog.messages[number]
    assert names(tmp_path) == ["bad-round-000003", "bad-round-000003~1", "round-000002"]


def test_a_round_that_is_gone_back_behind_takes_its_memories_with_it(tmp_path):
    keeping = Retention(1, every=2)
    kept(tmp_path, 5, keeping, remember=lambda number: [number])
    spoil(
        tmp_path / CHECKPOINTS / "memories-000003", CLIENT_STATES
    )  # so 4 and 5 are bad, and 2 is the newest that holds
    assert DiskCheckpointer(tmp_path, keeping).load().state.round == 2
    assert names(tmp_path) == [
        "bad-memories-000003", "bad-round-000004", "bad-round-000005", "memories-000001", "round-000002"
    ]  # fmt: skip
    kept(tmp_path, 6, keeping, remember=lambda number: [number])
    assert sorted(DiskCheckpointer(tmp_path, keeping).load().client_states.last_update) == [1, 2, 3, 4, 5, 6]


def test_an_old_commit_that_was_spoilt_does_not_end_the_run(tmp_path, caplog):
    kept(tmp_path, 3, Retention(4))
    (round_dir(tmp_path, 1) / MANIFEST).unlink()
    spoil(round_dir(tmp_path, 2), MANIFEST)
    kept(tmp_path, 4, Retention(4))
    assert [name for name in names(tmp_path) if name.startswith("round")] == ["round-000003", "round-000004"]
    assert len(caplog.messages) == 2
    assert DiskCheckpointer(tmp_path).load().state.round == 4


def test_folders_that_are_not_ours_are_left_alone(tmp_path):
    kept(tmp_path, 2)
    for name in ("round-000002 (copy)", "round-x", "notes", "memories-old"):
        (tmp_path / CHECKPOINTS / name).mkdir()
    kept(tmp_path, 4)
    assert {"round-000002 (copy)", "round-x", "notes", "memories-old"} < set(names(tmp_path))


def test_a_commit_under_another_rounds_name_is_bad(tmp_path, caplog):
    kept(tmp_path, 2)
    round_dir(tmp_path, 2).rename(round_dir(tmp_path, 5))
    assert DiskCheckpointer(tmp_path).load().state.round == 1
    assert "is of round 2" in caplog.text


@pytest.mark.parametrize(
    "manifest",
    [b"[]", b"{}", b'"x"', b"null", b'{"schema": 1}', b'{"schema": 1, "files": [], "memories": {}}', b"\x80\x04N."],
)
def test_whatever_stands_in_a_manifest_is_refused(tmp_path, manifest):
    kept(tmp_path, 1)
    (round_dir(tmp_path, 1) / MANIFEST).write_bytes(manifest)
    with pytest.raises(ConfigError, match="no round that holds: round-000001"):
        DiskCheckpointer(tmp_path).load()


def test_another_schema_is_refused_by_its_number(tmp_path):
    kept(tmp_path, 1)
    manifest = json.loads((round_dir(tmp_path, 1) / MANIFEST).read_bytes())
    (round_dir(tmp_path, 1) / MANIFEST).write_text(json.dumps({**manifest, "schema": 1}))
    with pytest.raises(ConfigError, match="is of schema 1, and this fedlit reads schema 2"):
        DiskCheckpointer(tmp_path).load()


def test_no_file_is_read_but_the_commits_own(tmp_path):
    kept(tmp_path, 1)
    manifest = json.loads((round_dir(tmp_path, 1) / MANIFEST).read_bytes())
    manifest["files"]["../../another"] = file_digest(b"")  # it is not there, nor looked for
    (round_dir(tmp_path, 1) / MANIFEST).write_text(json.dumps(manifest))
    assert DiskCheckpointer(tmp_path).load().state.round == 1


@pytest.mark.parametrize("fails", [f"write {STATE}", f"sync {MANIFEST}", "rename round-000003", "append rounds.jsonl"])
def test_when_a_commit_fails_the_round_before_is_whole(tmp_path, fails):
    kept(tmp_path, 2)
    with pytest.raises(OSError, match="No space"):
        kept(tmp_path, 3, disk=Noting(fails))
    assert DiskCheckpointer(tmp_path).load().state.round == (3 if "append" in fails else 2)
    kept(tmp_path, 3).finish()
    assert names(tmp_path) == ["memories-000001", "memories-000002", "round-000003"]


def test_a_disk_that_takes_no_repair_does_not_make_a_round_bad(tmp_path):
    kept(tmp_path, 3)
    whole = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(whole[:-9])
    with pytest.raises(OSError, match="No space"):
        DiskCheckpointer(tmp_path, filesystem=Noting("write rounds.jsonl")).load()
    assert names(tmp_path) == ["memories-000001", "round-000002", "round-000003"]
    assert DiskCheckpointer(tmp_path).load().state.round == 3
    assert (tmp_path / JOURNAL).read_bytes() == whole


def test_lost_rounds_in_a_row_are_counted_from_the_records(tmp_path):
    commits = DiskCheckpointer(tmp_path)
    for number, lost in enumerate([None, "no", None, "no", "no"], 1):
        commits.commit(replace(state(number)), ClientStateStore(), record(number, lost))
    assert commits.load().lost_in_a_row == 2


def test_nothing_kept_is_nothing_to_load(tmp_path):
    assert DiskCheckpointer(tmp_path).load() is None
    assert DiskCheckpointer(Path(tmp_path / "nowhere")).load() is None


@pytest.mark.parametrize("given", [{"round": 0}, {"round": 3, "step": "rnd"}])
def test_a_crash_is_at_a_step_that_there_is(given):
    with pytest.raises(ConfigError):
        ServerCrash(**given)


def test_looking_changes_nothing_and_finds_what_going_on_does(tmp_path):
    kept(tmp_path, 3)
    spoil(round_dir(tmp_path, 3))
    (tmp_path / CHECKPOINTS / ".round-000004").mkdir()
    before = names(tmp_path), (tmp_path / JOURNAL).read_bytes()
    assert DiskCheckpointer(tmp_path).peek({}).state.round == 2
    assert (names(tmp_path), (tmp_path / JOURNAL).read_bytes()) == before
    assert DiskCheckpointer(tmp_path).load().state.round == 2


def test_the_names_above_a_folder_are_synced_when_it_is_opened_as_far_as_they_can_be_made(tmp_path, monkeypatch):
    disk, access = Noting(), os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and path != tmp_path.parent)
    with DiskCheckpointer(tmp_path / "a" / "b", filesystem=disk).open({}):
        assert disk.steps == ["sync a", f"sync {tmp_path.name}"]


def test_a_folder_may_be_held_again_by_who_holds_it_and_by_nobody_else(tmp_path):
    commits = DiskCheckpointer(str(tmp_path / "run"))
    with commits.lock():
        with commits.lock():
            pass
        with pytest.raises(ConfigError, match="another process's"), DiskCheckpointer(tmp_path / "run").lock():
            pass
    with DiskCheckpointer(tmp_path / "run").lock():
        pass
