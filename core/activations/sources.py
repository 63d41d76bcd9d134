"""What a source of a model, data set or stored activations is: a path, a hub id, or nothing; and what such activations
are. Imports no machine learning library."""

import os
import re
from pathlib import Path
from typing import Literal

import msgspec

Dtype = Literal["float32", "bfloat16"]
Format = Literal["text", "jsonl", "parquet", "hub"]

# In the order in which a folder without a pattern is searched.
_SUFFIXES: dict[Format, tuple[str, ...]] = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".jsonl.gz", ".ndjson", ".json"),
    "text": (".txt", ".md", ".text"),
}
_HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)


HELD_OUT = 20
"""One row of stored activations of so many is held out, at the end."""
_MOST_HELD_OUT = 1 << 20

BUFFER_BYTES = 2 << 30
"""What the shuffle buffer of stored activations takes at most, in bytes, where two batches need no more."""


class StoredActivations(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder of activations holds.

    `source` is the folder, `width` the dimensions of `x`, `target_width` those of `t` where there is one; `rows` and
    `size` (bytes) are of all its `files`.
    """

    source: str
    width: int
    target_width: int | None = None
    dtype: Dtype
    rows: int
    files: int
    size: int

    @property
    def held_out(self) -> int:
        """How many rows at the end are held out."""
        return min(max(1, self.rows // HELD_OUT), _MOST_HELD_OUT)

    @property
    def training_rows(self) -> int:
        """How many rows can be trained on."""
        return self.rows - self.held_out

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, of `x` and `t` together."""
        return (self.width + (self.target_width or 0)) * (4 if self.dtype == "float32" else 2)


class SourceError(ValueError):
    """A source that is nothing; the message is one sentence for a person."""


def local_path(source: str) -> Path | None:
    """The existing file or folder that `source` names, absolute; None where it can only be a hub id."""
    path = Path(source).expanduser()
    return path.absolute() if source and path.exists() else None


def require_hub_id(source: str) -> str:
    """`source`, which is no existing path, if it can be a hub id; raises SourceError otherwise."""
    if source.startswith((".", "/", "~", "\\")):
        raise SourceError(f"There is no file or folder '{source}'.")
    if not _HUB_ID.fullmatch(source):
        raise SourceError(f"'{source}' is neither an existing path nor a hub id of the form 'owner/name'.")
    return source


def format_of(source: str, pattern: str | None = None) -> tuple[Format, str | None]:
    """The format of a data set's source, and the pattern that selects its files where it is a folder.

    A file's format is told by its suffix, and text where that says nothing; a folder's by the first suffix that the
    pattern names, or by the files in it. Raises SourceError for what is neither a path nor a hub id, and for a folder
    without such files.
    """
    path = local_path(source)
    if path is None:
        require_hub_id(source)
        return "hub", None
    if path.is_file():
        return _format_of_name(path.name), None
    if pattern is not None:
        return _format_of_name(pattern.split(",")[0]), pattern
    for kind, suffixes in _SUFFIXES.items():
        for suffix in suffixes:
            found = f"**/*{suffix}"
            if next(path.glob(found), None) is not None:
                return kind, found
    raise SourceError(
        f"The folder '{source}' holds no .parquet, .jsonl, .txt or .md files; name the files by a pattern such as "
        "'**/*.py'."
    )


def matching_files(source: str, pattern: str | None) -> tuple[Path, list[str]]:
    """The folder of a local source and the names of its files in it, POSIX style and sorted.

    `pattern` is a list of globs, separated by commas; one that begins with `!` takes files out again
    (`**/*.py,!**/tests/**/*`). Raises SourceError where nothing is left.
    """
    path = local_path(source)
    if path is None:
        raise SourceError(f"There is no file or folder '{source}'.")
    if path.is_file():
        return path.parent, [path.name]
    globs = [part.strip() for part in (pattern or "**/*").split(",") if part.strip()]
    taken = [_regex(glob) for glob in globs if not glob.startswith("!")]
    left = [_regex(glob[1:]) for glob in globs if glob.startswith("!")]
    # Folders that are left out whole are not entered: an interpreter's site-packages can hold a hundred thousand files.
    closed = [_regex(glob[1:].removesuffix("/**/*")) for glob in globs if re.fullmatch(r"!.*/\*\*/\*", glob)]
    chosen: list[str] = []
    for folder, folders, files in os.walk(path):
        inside = Path(folder).relative_to(path)
        names = [(inside / name).as_posix() for name in files]
        chosen += [name for name in names if _any(taken, name) and not _any(left, name) and (path / name).is_file()]
        folders[:] = [name for name in folders if not _any(closed, (inside / name).as_posix())]
    if not chosen:
        raise SourceError(f"The folder '{source}' holds no file that matches '{pattern}'.")
    return path, sorted(chosen)


def _any(patterns: list[re.Pattern[str]], name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern in patterns)


def _regex(glob: str) -> re.Pattern[str]:
    """A glob over relative paths as an expression; `**/` stands for any number of folders, also none."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]]+\])", glob)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile(
        "".join(
            meaning.get(part)
            or (part.replace("[!", "[^", 1) if part.startswith("[") and part.endswith("]") else re.escape(part))
            for part in parts
        ),
        re.DOTALL,
    )


def _format_of_name(name: str) -> Format:
    for kind, suffixes in _SUFFIXES.items():
        if name.strip().lower().endswith(suffixes):
            return kind
    return "text"
