"""A run that this user made is remembered outside its folder, until it is copied or changed."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from fedlit.runs import origin
from fedlit.runs.origin import find_link, is_own_run, remember_run


@pytest.fixture
def state(tmp_path, monkeypatch):
    """The state folder of this test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "fedlit" / "runs"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 1")
    (folder / "command.json").write_text("{}")
    return folder


def test_a_run_is_own_after_it_is_remembered_also_if_it_is_renamed(state, run, tmp_path):
    assert not is_own_run(run)
    assert not state.exists()
    assert remember_run(run)
    assert is_own_run(run)
    (entry,) = state.iterdir()
    assert entry.read_text() == f"{run}\n"
    assert is_own_run(run.rename(tmp_path / "renamed"))


def test_without_a_home_folder_no_run_is_own(run, monkeypatch):
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)  # a user of a container, without an entry in /etc/passwd
    assert not remember_run(run)
    assert not is_own_run(run)


def test_a_copied_run_is_not_own(state, run, tmp_path):
    remember_run(run)
    assert not is_own_run(shutil.copytree(run, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["config.yaml", "command.json"])
def test_a_run_with_a_changed_or_missing_file_is_not_own(state, run, name):
    remember_run(run)
    content = (run / name).read_text()
    (run / name).write_text(content + " ")
    assert not is_own_run(run)
    (run / name).write_text(content)
    assert is_own_run(run)
    (run / name).unlink()
    assert not is_own_run(run)
    assert not remember_run(run)


def test_the_state_folder_and_its_entries_are_private(state, run):
    remember_run(run)
    (entry,) = state.iterdir()
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    for path in (state, entry):
        mode = stat.S_IMODE(path.stat().st_mode)
        for writable in (0o020, 0o002):
            path.chmod(mode | writable)
            assert not is_own_run(run)  # others could have written the entry
        path.chmod(mode)
    assert is_own_run(run)


def test_an_entry_that_is_a_link_does_not_count_and_is_not_followed(state, run, tmp_path):
    remember_run(run)
    (entry,) = state.iterdir()
    entry.unlink()
    (tmp_path / "victim").write_text("alive")
    entry.symlink_to(tmp_path / "victim")
    assert not is_own_run(run)
    assert not remember_run(run)
    assert (tmp_path / "victim").read_text() == "alive"


def test_above_a_number_the_oldest_entries_of_removed_runs_are_removed(state, tmp_path, monkeypatch):
    def make(name, seed):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"seed: {seed}")
        (tmp_path / name / "command.json").write_text("{}")
        return tmp_path / name

    names = ("kept", "gone", "replaced", "moved", "odd\udcff\n", "newest")
    runs, entries = {name: make(name, seed) for seed, name in enumerate(names)}, {}
    for age, name in enumerate(names):
        before = {*state.glob("*")}
        assert remember_run(runs[name])
        (entries[name],) = {*state.iterdir()} - before
        os.utime(entries[name], (age, age))
    shutil.rmtree(runs["gone"])
    shutil.rmtree(runs["replaced"])
    make("replaced", 7)
    moved = runs["moved"].rename(tmp_path / "elsewhere")

    monkeypatch.setattr(origin, "MAX_ENTRIES", 2)
    monkeypatch.setattr(origin, "MAX_CHECKED", 3)
    remember_run(runs["newest"])  # six entries: the three oldest are checked
    assert {*state.iterdir()} == {entries[name] for name in ("kept", "moved", "odd\udcff\n", "newest")}
    assert is_own_run(moved)
    assert entries["kept"].stat().st_mtime > len(names)  # it is the newest one, so others are checked next
    remember_run(runs["newest"])  # four entries: `moved` and `odd` are checked, the others are newer
    assert {*state.iterdir()} == {entries[name] for name in ("kept", "odd\udcff\n", "newest")}
    remember_run(moved)  # as a resumed run is; the entry has the new path
    remember_run(runs["newest"])
    remember_run(runs["newest"])
    assert all(is_own_run(run) for run in (runs["kept"], moved, runs["odd\udcff\n"], runs["newest"]))


@pytest.mark.parametrize("blocker", ["state", "state/fedlit", "state/fedlit/runs"])
def test_a_state_folder_that_cannot_be_written_is_no_error(state, run, tmp_path, blocker):
    path = tmp_path / blocker
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert not remember_run(run)
    assert not is_own_run(run)


def test_without_an_absolute_state_home_the_usual_one_is_used(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("relative", ""):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert remember_run(run)
        assert len([*(tmp_path / "home/.local/state/fedlit/runs").iterdir()]) == 1


def test_links_and_special_files_are_found_at_any_depth(run):
    (run / "a" / "b").mkdir(parents=True)
    (run / "a" / "b" / "file").touch()
    assert find_link(run) is None
    for make in (lambda path: path.symlink_to(run / "a"), lambda path: path.symlink_to("nowhere"), os.mkfifo):
        path = run / "a" / "b" / "link"
        make(path)
        assert find_link(run) == path
        path.unlink()
    assert isinstance(run, Path)
