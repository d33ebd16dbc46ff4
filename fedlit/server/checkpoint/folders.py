"""The folders of checkpoints in a run's folder; no file is read."""

from __future__ import annotations

import re
from pathlib import Path

from fedlit.runs.layout import CHECKPOINTS


def round_dir(folder: Path, round: int) -> Path:
    """Folder of a round's checkpoint, in a run's folder."""
    return folder / CHECKPOINTS / f"round-{round:06d}"


def list_rounds(folder: Path, kind: str) -> dict[int, Path]:
    """Folders of checkpoints in a run's folder, by round.

    Args:
        folder: the run's folder.
        kind: `round` for whole checkpoints, `memories` for client states alone. Folders with other names are left out.
    """
    paths = ((re.fullmatch(rf"{kind}-(\d+)", path.name), path) for path in (folder / CHECKPOINTS).glob(f"{kind}-*"))
    return {int(match[1]): path for match, path in paths if match}


def list_partial(folder: Path) -> list[Path]:
    """Folders whose write or removal was interrupted, in a run's folder."""
    paths = sorted((folder / CHECKPOINTS).glob(".*"))
    return [path for path in paths if re.fullmatch(r"\.(round|memories)-\d+", path.name)]


def committed_rounds(folder: Path) -> list[int]:
    """Rounds with a checkpoint in a run's folder, valid or not, ascending."""
    return sorted(list_rounds(folder, "round"))
