"""The files of trainings: removing them, and what a download is called."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import quote

from core.run import CHECKPOINTS


def remove_checkpoints(folder: Path) -> tuple[tuple[str, ...], int]:
    """Remove all checkpoints of a run folder; the removed paths and their size in bytes."""
    checkpoints = folder / CHECKPOINTS
    if not checkpoints.is_dir():
        return (), 0
    found = sorted(checkpoints.iterdir())
    freed = sum(remove_tree(path) for path in found)
    checkpoints.rmdir()
    return tuple(str(path) for path in found), freed


def remove_checkpoint(folder: Path, path: str) -> bool:
    """Remove one checkpoint of a run folder; False, and nothing removed, where `path` does not lie in it.

    The path was reported by a trainer, perhaps by one of another machine.
    """
    wanted = Path(path).resolve()
    if wanted.parent != (folder / CHECKPOINTS).resolve():
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

    Whatever the name holds, the file's name has no path, no control character, and at most 150 characters before its
    ending; clients that know only ASCII get underscores for the rest.
    """
    stem, dot, ending = re.sub(
        r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\u200e\u200f\u202a-\u202e\u2066-\u2069]', "_", name
    ).rpartition(".")
    safe = (stem.strip(" .")[:150] or "file") + dot + ending
    ascii = re.sub(r"[^ -~]|[%']", "_", safe)
    return {"Content-Disposition": f"attachment; filename=\"{ascii}\"; filename*=UTF-8''{quote(safe, safe='')}"}
