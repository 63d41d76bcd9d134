"""A folder of activations that somebody has kept: `*.safetensors` files with `x` (rows, n) and, for transcoders, `t`
(rows, m), in float32 or bfloat16. Imports no machine learning library.

The files follow one another in the order of their names, numbers in these by their value. The last rows are held out:
no training reads them.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from .sources import Dtype, StoredActivations

_DTYPES: dict[str, tuple[Dtype, type[np.generic]]] = {"F32": ("float32", np.float32), "BF16": ("bfloat16", np.uint16)}
_LONGEST_HEADER = 100 << 20
_SAMPLED_FILES = 64
_SAMPLED_ROWS = 16
_BLOCK = 4_096
_BLOCKS = 16


class ActivationsError(ValueError):
    """A folder that cannot be trained on; the message is one sentence for a person."""


@dataclass(frozen=True)
class Array:
    """One array (rows, width) of one file; bfloat16 is read as the 16-bit integers that it is made of."""

    path: Path
    dtype: Dtype
    rows: int
    width: int
    offset: int

    def read(self, start: int, count: int) -> np.ndarray:
        """Rows `start` to `start + count`. Raises `ActivationsError` where the file is gone or became shorter."""
        kind = np.float32 if self.dtype == "float32" else np.uint16
        place = self.offset + start * self.width * kind().itemsize
        try:
            # Read, not mapped: a mapped file that becomes shorter kills the process that looks at it.
            values = np.fromfile(self.path, dtype=kind, count=count * self.width, offset=place)
        except OSError as error:
            raise ActivationsError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        if len(values) < count * self.width:
            raise ActivationsError(f"{self.path} is shorter than it was; it was changed while it was read.")
        return values.reshape(count, self.width)


@dataclass(frozen=True)
class _File:
    """One file, with what its header says."""

    path: Path
    size: int
    header: bytes
    x: Array
    t: Array | None


class StoredRows:
    """The rows of an opened folder."""

    def __init__(self, folder: Path, files: Sequence[_File]) -> None:
        first = files[0]
        self.facts = StoredActivations(
            source=str(folder),
            width=first.x.width,
            target_width=first.t.width if first.t is not None else None,
            dtype=first.x.dtype,
            rows=sum(file.x.rows for file in files),
            files=len(files),
            size=sum(file.size for file in files),
        )
        self._files = files
        self._ends = list(accumulate(file.x.rows for file in files))

    def read(self, start: int, count: int, *, target: bool = False) -> np.ndarray:
        """Rows `start` to `start + count` of `x`, or of `t`, from 0. Raises `ActivationsError`."""
        parts: list[np.ndarray] = []
        end = start + count
        index = bisect_right(self._ends, start)
        while start < end:
            file = self._files[index]
            array = file.t if target else file.x
            assert array is not None
            inside = start - (self._ends[index] - file.x.rows)
            some = min(end - start, file.x.rows - inside)
            if some > 0:
                parts.append(array.read(inside, some))
            start += some
            index += 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of every file's name, size and header and of samples of its bytes; not of all bytes, of which there
        may be terabytes."""
        found = hashlib.sha256(b"saestudio stored activations 1")
        for file in self._files:
            found.update(json.dumps([file.path.name, file.size]).encode())
            found.update(hashlib.sha256(file.header).digest())
            found.update(_sample(file))
        return found.hexdigest()


def open_folder(folder: Path) -> StoredRows:
    """The activations in `folder`. Raises `ActivationsError` for what cannot be trained on, and says which file."""
    if not folder.is_dir():
        raise ActivationsError(f"There is no folder '{folder}'.")
    paths = sorted((path for path in folder.glob("*.safetensors") if path.is_file()), key=_in_order)
    if not paths:
        raise ActivationsError(f"The folder '{folder}' holds no .safetensors files.")
    files = [_opened(path) for path in paths]
    first = files[0]
    for file in files[1:]:
        _require_alike(first, file)
    rows = StoredRows(folder, files)
    if rows.facts.rows < 2:
        raise ActivationsError(f"The folder '{folder}' holds {rows.facts.rows} rows; at least 2 are needed.")
    _require_finite(files)
    return rows


def as_float32(values: np.ndarray) -> np.ndarray:
    """Values that `Array.read` gave, as float32."""
    return values if values.dtype == np.float32 else (values.astype(np.uint32) << 16).view(np.float32)


def _in_order(path: Path) -> list[Any]:
    """Sorts `part-2` before `part-10`."""
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path.name)]


def _opened(path: Path) -> _File:
    try:
        size = path.stat().st_size
        with path.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            if size < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise ActivationsError(f"{path} is no safetensors file, or is cut off.")
            header = content.read(length)
        described: Any = json.loads(header)
    except OSError as error:
        raise ActivationsError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ActivationsError:
        raise
    except ValueError as error:
        raise ActivationsError(f"{path} is no safetensors file: its header is no JSON.") from error
    if not isinstance(described, dict) or "x" not in described:
        found = ", ".join(sorted(map(str, described)))[:80] if isinstance(described, dict) else ""
        raise ActivationsError(f"{path} holds no 'x' of shape (rows, n); it holds {found or 'nothing'}.")
    x = _array(path, "x", described["x"], 8 + length, size)
    t = _array(path, "t", described["t"], 8 + length, size) if "t" in described else None
    if t is not None and t.rows != x.rows:
        raise ActivationsError(f"{path} holds {x.rows:,} rows of 'x' and {t.rows:,} of 't'; they must be as many.")
    if t is not None and t.dtype != x.dtype:
        raise ActivationsError(f"{path} holds 'x' in {x.dtype} and 't' in {t.dtype}; both must be of one type.")
    return _File(path, size, header, x, t)


def _array(path: Path, name: str, described: Any, begin: int, size: int) -> Array:
    try:
        kind, shape = described["dtype"], [int(one) for one in described["shape"]]
        first, last = (int(one) for one in described["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise ActivationsError(f"{path} says nothing sound of its '{name}'.") from error
    if len(shape) != 2 or shape[1] < 1:
        raise ActivationsError(f"{path} holds '{name}' of shape {tuple(shape)}; it must be (rows, dimensions).")
    if kind not in _DTYPES:
        raise ActivationsError(f"{path} holds '{name}' in {kind}; F32 and BF16 can be read.")
    dtype, number = _DTYPES[kind]
    if first < 0 or last - first != shape[0] * shape[1] * number().itemsize or begin + last > size:
        raise ActivationsError(f"{path} is cut off: its '{name}' should be {shape[0]:,} rows of {shape[1]:,}.")
    return Array(path, dtype, shape[0], shape[1], begin + first)


def _require_alike(first: _File, file: _File) -> None:
    for name, ours, theirs in (("x", file.x, first.x), ("t", file.t, first.t)):
        if (ours is None) != (theirs is None):
            has, lacks = (first, file) if ours is None else (file, first)
            raise ActivationsError(f"{has.path.name} holds a '{name}' and {lacks.path} holds none; all files must.")
        if ours is None or theirs is None:
            continue
        if ours.width != theirs.width:
            raise ActivationsError(
                f"{file.path} holds '{name}' of {ours.width:,} dimensions and {first.path.name} of {theirs.width:,};"
                " all files must be of one width."
            )
        if ours.dtype != theirs.dtype:
            raise ActivationsError(
                f"{file.path} holds '{name}' in {ours.dtype} and {first.path.name} in {theirs.dtype}; all files must be"
                " of one type."
            )


def _require_finite(files: Sequence[_File]) -> None:
    """Looks at some rows of some files, both spread evenly."""
    for file in files[:: -(-len(files) // _SAMPLED_FILES)]:
        for name, array in (("x", file.x), ("t", file.t)):
            if array is None or not array.rows:
                continue
            for row in range(0, array.rows, max(1, array.rows // _SAMPLED_ROWS)):
                if not np.isfinite(as_float32(array.read(row, 1))).all():
                    raise ActivationsError(f"{file.path} holds '{name}' that is not finite in row {row:,}.")


def _sample(file: _File) -> bytes:
    found = hashlib.sha256()
    begin = 8 + len(file.header)
    stride = max(_BLOCK, (file.size - begin - _BLOCK) // (_BLOCKS - 1))
    try:
        with file.path.open("rb") as content:
            for place in [*range(begin, file.size, stride), max(begin, file.size - _BLOCK)]:
                content.seek(place)
                found.update(content.read(_BLOCK))
    except OSError as error:
        raise ActivationsError(f"{file.path} cannot be read: {error.strerror or error}.") from error
    return found.digest()
