"""The files of trainings: removing them, and what a download is called."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import quote

from core.run import CHECKPOINTS

_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\u200e\u200f\u202a-\u202e\u2066-\u2069]')


def remove_checkpoints(folder: Path) -> tuple[tuple[str, ...], int]:
    """Remove all checkpoints of a run folder; the removed paths and their size in bytes."""
    checkpoints = folder / CHECKPOINTS
    if not checkpoints.is_dir():
        return (), 0
    found = sorted(checkpoints.iterdir())
    freed = sum(remove_tree(path) for path in found)
    checkpoints.rmdir()
    return tuple(str(path) for path in found), freed


def own_checkpoint(folder: Path, path: str) -> Path | None:
    """Where a run folder's checkpoint lies; None where `path` is not in the folder.

    The path was reported by a trainer, perhaps by one of another machine.
    """
    wanted = Path(path).resolve()
    return wanted if wanted.parent == (folder / CHECKPOINTS).resolve() else None


def remove_checkpoint(folder: Path, path: str) -> bool:
    """Remove one checkpoint of a run folder; False, and nothing removed, where `path` does not lie in it."""
    wanted = own_checkpoint(folder, path)
    if wanted is None:
        return False
    remove_tree(wanted)
    return True


def remove_tree(path: Path) -> int:
    """Remove a file or folder; its size in bytes. What is gone already is no error."""
    try:
        if path.is_symlink() or path.is_file():
            size = path.lstat().st_size
            path.unlink()
            return size
        size = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
        shutil.rmtree(path)
    except FileNotFoundError:
        return 0
    return size


def attachment(name: str) -> dict[str, str]:
    """The header that lets a browser keep an answer as a file of this name (RFC 6266).

    Whatever the name holds, the file's name has no path, no control character, and at most 200 bytes before its
    ending; clients that know only ASCII get underscores for the rest.
    """
    stem, _, ending = _UNSAFE.sub("_", name).rpartition(".")
    stem = stem.encode()[:200].decode(errors="ignore").strip(" .") or "file"
    plain = re.sub(r"[^ -~]|[%']", "_", f"{stem}.{ending}")
    exact = quote(f"{stem}.{ending}", safe="")
    return {"Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}"}
