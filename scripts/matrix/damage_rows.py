"""Damaged checkpoints of a run."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedlit.core.errors import ConfigError
from fedlit.runs.layout import CHECKPOINTS, JOURNAL
from fedlit.server.checkpoint.folders import round_dir
from fedlit.server.checkpoint.format import MANIFEST, ROUND, STATE, file_digest
from fedlit.server.checkpoint.segments import CLIENT_STATES, LEDGER
from matrix.checkpoint_rows import flip, reference_run, run_until
from matrix.lab import Broken, Rows, expect, expect_same, run

ROWS = Rows()


def _expect_repair(folder: Path, damage: Callable[[Path], Any]) -> str:
    for name in (STATE, CLIENT_STATES, ROUND, MANIFEST):
        here = run_until(folder / name, 3)
        damage(round_dir(here, 3) / name)
        expect_same(run(here), reference_run(), name)
        expect((here / CHECKPOINTS / "bad-round-000003").is_dir(), f"{name}: the bad round is not quarantined")
    return "each of 4 files"


@ROWS("truncated file in the newest checkpoint", "the round before, same bits")
def truncated(folder: Path) -> str:
    return _expect_repair(folder, lambda path: os.truncate(path, path.stat().st_size - 5))


@ROWS("bit-flipped file in the newest checkpoint", "the round before, same bits")
def flipped(folder: Path) -> str:
    return _expect_repair(folder, flip)


@ROWS("missing file in the newest checkpoint", "the round before, same bits")
def missing(folder: Path) -> str:
    return _expect_repair(folder, Path.unlink)


@ROWS("all checkpoints bad", "refused with reasons, no file changed")
def all_bad(folder: Path) -> str:
    here = run_until(folder / "run", 3)
    for round in (2, 3):
        flip(round_dir(here, round) / STATE)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    try:
        run(here)
    except ConfigError as error:
        expect("round-000003" in str(error) and "round-000002" in str(error), f"message: {error}")
    else:
        raise Broken("no error was raised")
    expect({path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before, "files were changed")
    return ""


@ROWS("rounds.jsonl or clients.jsonl longer or torn", "repaired, same bits")
def journal(folder: Path) -> str:
    for file in (JOURNAL, f"{CHECKPOINTS}/{LEDGER}"):
        for name, damage in {
            "longer": lambda path: path.write_bytes(path.read_bytes() + b'{"round": 3}\n{"rou'),
            "torn": lambda path: os.truncate(path, path.stat().st_size - 9),
        }.items():
            here = run_until(folder / f"{name}-{Path(file).name}", 2)
            damage(here / file)
            expect_same(run(here), reference_run(), f"{file} {name}")
    return "each of 2 files"


class _Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {_Malicious.mark}",)

    mark = ""


@ROWS("a pickle instead of a checkpoint", "refused, never executed")
def pickled(folder: Path) -> str:
    _Malicious.mark = str(folder / "executed")
    for name in (STATE, CLIENT_STATES, ROUND, MANIFEST):
        here = run_until(folder / name, 3)
        (round_dir(here, 3) / name).write_bytes(pickle.dumps(_Malicious()))
        if name != MANIFEST:
            manifest = json.loads((round_dir(here, 3) / MANIFEST).read_bytes())
            manifest["files"][name] = file_digest(pickle.dumps(_Malicious()))
            (round_dir(here, 3) / MANIFEST).write_text(json.dumps(manifest))
        expect_same(run(here), reference_run(), name)
        expect(not (folder / "executed").exists(), f"{name} was executed")
    return "with a matching manifest"


@ROWS("a checkpoint of another schema", "refused with its number")
def schema(folder: Path) -> str:
    here = run_until(folder / "run", 1)
    manifest = json.loads((round_dir(here, 1) / MANIFEST).read_bytes())
    (round_dir(here, 1) / MANIFEST).write_text(json.dumps({**manifest, "schema": 99}))
    try:
        run(here)
    except ConfigError as error:
        expect("schema 99" in str(error), f"message: {error}")
        return ""
    raise Broken("no error was raised")
