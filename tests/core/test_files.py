import errno
import io
import json
import os

import pytest
from durable import DurableFilesystem, Stopped

from fedlit.core import files
from fedlit.core.files import (
    LocalFilesystem,
    flatten,
    read_json_lines,
    to_json,
    unreadable_reason,
    unwritable_reason,
    write_atomic,
)


def test_nan_and_infinity_become_null_at_any_depth():
    text = to_json({"a": float("nan"), "b": [1.5, (float("inf"),)], "c": {"d": -float("inf"), "e": True}})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [1.5, [None]], "c": {"d": None, "e": True}}


def test_other_values_are_written_as_json_writes_them():
    value = {"round": 1, "loss": 0.1, "lost": False, "names": ["a"], "none": None}
    assert to_json(value) == json.dumps(value)
    assert to_json(value, indent=2) == json.dumps(value, indent=2)


def test_json_lines_are_read_without_a_truncated_last_line(tmp_path):
    path = tmp_path / "rounds.jsonl"
    path.write_text('{"round": 1}\n{"round": 2}\n')
    assert read_json_lines(path) == ([{"round": 1}, {"round": 2}], False)
    path.write_text('{"round": 1}\n{"rou')
    assert read_json_lines(path) == ([{"round": 1}], True)
    path.write_text('{"rou\n{"round": 2}\n')
    with pytest.raises(ValueError, match="line 1"):
        read_json_lines(path)


@pytest.mark.parametrize("error", [None, OSError("no disk")])
def test_sync_waits_for_the_file_or_folder_and_closes_it(tmp_path, monkeypatch, error):
    synced, closed, close = [], [], os.close

    def fsync(descriptor):
        synced.append((descriptor, os.fstat(descriptor).st_ino))
        if error is not None:
            raise error

    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "close", lambda descriptor: (closed.append(descriptor), close(descriptor)))
    for path in (tmp_path / "file", tmp_path):
        if error is None:
            LocalFilesystem().sync(path)
        else:
            with pytest.raises(OSError, match="no disk"):
                LocalFilesystem().sync(path)
    assert [inode for _, inode in synced] == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]
    assert closed == [descriptor for descriptor, _ in synced]


def test_rename_replaces_in_one_step(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "replace", lambda old, new: calls.append((old, new)))
    LocalFilesystem().rename(tmp_path / "old", tmp_path / "new")
    assert calls == [(tmp_path / "old", tmp_path / "new")]


@pytest.mark.parametrize("old", [None, b"old content"])
def test_atomic_write_that_stops_leaves_the_old_or_the_new_content(tmp_path, old):
    """Stopped at each step, with and without a loss of power; after the last step the new content stays."""
    for step in range(100):
        folder, trash = tmp_path / f"{step}", tmp_path / f"{step}-trash"
        folder.mkdir()
        trash.mkdir()
        if old is not None:
            (folder / "file").write_bytes(old)
        filesystem = DurableFilesystem(folder, trash, step)
        is_done = True
        try:
            write_atomic(folder / "file", b"new content", filesystem)
        except Stopped:
            is_done = False
        for place in (folder, filesystem.lose_power(tmp_path / f"{step}-off")):
            content = (place / "file").read_bytes() if (place / "file").exists() else None
            assert content in ([b"new content"] if is_done else [old, b"new content"])
        if is_done:
            break
    assert filesystem.steps == ["write file.tmp", "sync file.tmp", "rename file", "sync ."]


def test_link_is_not_written_through(tmp_path):
    (tmp_path / "other").write_bytes(b"of the user")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    for write in (LocalFilesystem().write, LocalFilesystem().append):
        with pytest.raises(OSError, match="link"):
            write(tmp_path / "link", b"content")
    write_atomic(tmp_path / "link", b"content")
    assert (tmp_path / "link").read_bytes() == b"content"
    assert (tmp_path / "other").read_bytes() == b"of the user"


def test_nested_mappings_become_dotted_keys():
    values = {"a": {"b": {"c": 1}, "d": {}}, "e": [{"f": 2}], "": {"g": None}}
    assert flatten(values) == {"a.b.c": 1, "a.d": {}, "e": [{"f": 2}], ".g": None}
    assert flatten({"a": 1}, "x.") == {"x.a": 1}


def test_reason_of_a_folder_that_is_not_writable_is_that_of_the_nearest_one_above(tmp_path):
    assert unwritable_reason(tmp_path / "a" / "b") == ""
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "file").touch()
    assert unwritable_reason(tmp_path / "file" / "b") == "Not a directory"
    assert unwritable_reason(tmp_path / "a" / ("x" * 300) / "b") == "File name too long"


def test_a_folder_on_a_full_disk_is_not_writable(tmp_path, monkeypatch):
    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", lambda **_: io.FileIO("/dev/full", "w"))
    assert unwritable_reason(tmp_path) == "No space left on device"


def test_only_a_path_that_cannot_be_read_has_a_reason(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for name in ("", "file", "missing", "missing/below", "file/below"):
        assert unreadable_reason(tmp_path / name) == ""
    assert unreadable_reason(tmp_path / ("x" * 300)) == "File name too long"
    (tmp_path / "loop").symlink_to("loop")
    assert "symbolic links" in unreadable_reason(tmp_path / "loop")

    def refuse(path):
        raise PermissionError(errno.EACCES, "")

    monkeypatch.setattr(os, "scandir", refuse)
    assert unreadable_reason(tmp_path) == "Permission denied"
