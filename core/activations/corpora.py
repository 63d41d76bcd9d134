"""Corpora: any source of text as one numbered sequence of documents, read in the same order every time."""

from __future__ import annotations

import glob
import hashlib
import heapq
import itertools
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import datasets
import datasets.config
import huggingface_hub
from datasets import IterableDataset

from events.catalog import DatasetRegistered

from .hub import hub_failure, offline, one_line, unreachable
from .sources import SourceError, matching_files, require_hub_id

log = logging.getLogger(__name__)

# Otherwise the library reports every data set that is opened, local files too, to a counter on the network.
datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False

Split = Literal["train", "held-out"]

HELD_OUT = 0.05
"""Share of the documents that is held out."""

# From this many documents on, a hash holds out some for certain (all but 1 in 10^8 corpora); below, ranks are used.
_FEW = 400

_WHOLE_FILE = 1 << 20
_PIECE = 64 << 10
_SMALLEST_PIECE = 2 << 10
_WHOLE_HASH = 64 << 20


class CorpusError(Exception):
    """A corpus that cannot be read; the message is one sentence for a person."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text, its number in the corpus (from 0, both splits counted), and the key that decides its split."""

    index: int
    key: str
    text: str


class Corpus(ABC):
    """A numbered sequence of documents, divided into a train split and a held-out split of about 5 %.

    The split of a document follows from its key alone (a file's name, a row's number), so that it stays where it is
    when the corpus grows. `skipped` counts what is no usable text: files that are not UTF-8, rows whose text is
    missing or empty.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.skipped = 0
        self._looked_at = {"train": 0, "held-out": 0}

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest that changes when the documents change."""
        return self._identity()

    @abstractmethod
    def _identity(self) -> str: ...

    @abstractmethod
    def _read(self, start: int, wanted: Callable[[str], bool]) -> Iterator[tuple[int, str, str | None]]:
        """(number, key, text or None where it is no text) of the documents from `start` whose key is wanted."""

    @abstractmethod
    def _few_keys(self) -> list[str] | None:
        """All keys where there are fewer than _FEW, else None."""

    def documents(self, split: Split, start: int = 0) -> Iterator[Document]:
        """The documents of one split, in order, from the one numbered `start`; raises CorpusError."""
        before = self.skipped
        for index, key, text in self._read(start, lambda key: self.is_held_out(key) == (split == "held-out")):
            if text:
                yield Document(index, key, text)
            elif index >= self._looked_at[split]:
                self.skipped += 1
            self._looked_at[split] = max(self._looked_at[split], index + 1)
        if self.skipped > before:
            log.warning(
                "%s: %d documents are no usable text (not UTF-8, or empty) and were skipped",
                self.source,
                self.skipped - before,
            )

    def is_held_out(self, key: str) -> bool:
        """Whether the document of that key belongs to the held-out split."""
        chosen = self._chosen
        return key in chosen if chosen is not None else _rank(key) < HELD_OUT * 2**64

    @cached_property
    def _chosen(self) -> frozenset[str] | None:
        keys = self._few_keys()
        if keys is None:
            return None
        count = 0 if len(keys) < 2 else max(1, round(HELD_OUT * len(keys)))
        return frozenset(heapq.nsmallest(count, keys, key=_rank))


class TextFiles(Corpus):
    """Text files: each one is a document, in the order of their names.

    A file over 1 MiB, or one that is the whole corpus, is cut at line ends into pieces, each a document.
    """

    def __init__(self, source: str, pattern: str | None) -> None:
        super().__init__(source)
        self._folder, names = matching_files(source, pattern)
        self._pieces: list[tuple[str, int, int, int]] = []  # name, size, length of a piece, number of the piece
        for name in names:
            size = (self._folder / name).stat().st_size
            piece = size
            if len(names) == 1:
                piece = min(max(size // _FEW, _SMALLEST_PIECE), _PIECE)
            elif size > _WHOLE_FILE:
                piece = _PIECE
            self._pieces += [(name, size, piece, i) for i in range(-(-size // piece) if size else 1)]

    def __len__(self) -> int:
        return len(self._pieces)

    def _identity(self) -> str:
        return _fingerprint_of_files(self._folder, sorted({name for name, *_ in self._pieces}), "text")

    def _few_keys(self) -> list[str] | None:
        return [_key(*piece) for piece in self._pieces] if len(self._pieces) < _FEW else None

    def _read(self, start: int, wanted: Callable[[str], bool]) -> Iterator[tuple[int, str, str | None]]:
        for index in range(start, len(self._pieces)):
            key = _key(*self._pieces[index])
            if wanted(key):
                yield index, key, self._text(*self._pieces[index])

    def _text(self, name: str, size: int, piece: int, number: int) -> str | None:
        try:
            with (self._folder / name).open("rb") as file:
                begin = _next_cut(file, number * piece, size)
                end = _next_cut(file, (number + 1) * piece, size)
                file.seek(begin)
                text = file.read(end - begin).decode("utf-8-sig" if begin == 0 else "utf-8")
        except UnicodeDecodeError:
            return None
        except OSError as error:
            raise CorpusError(
                f"The file '{name}' of '{self.source}' cannot be read: {error.strerror or error}."
            ) from error
        return None if "\0" in text else text.replace("\r\n", "\n")


class Table(Corpus):
    """The rows of a column of text, streamed by the `datasets` library: JSON lines, Parquet, a data set of the hub.

    `column` is where the text is, `revision` the commit on the hub, `info` what the library knows of the whole.
    """

    def __init__(
        self,
        source: str,
        rows: IterableDataset,
        column: str | None,
        identity: str,
        revision: str | None = None,
    ) -> None:
        super().__init__(source)
        self.revision = revision
        self._rows_identity = identity
        with _Sentences(source):
            first = next(iter(rows), None)
        if first is None:
            raise CorpusError(f"'{source}' holds no rows.")
        self.column = _text_column(source, first, column)
        self._rows = rows.select_columns([self.column])
        self.info = rows.info

    def _identity(self) -> str:
        return hashlib.sha256(f"{self._rows_identity}\n{self.column}".encode()).hexdigest()

    def _few_keys(self) -> list[str] | None:
        with _Sentences(self.source):
            rows = sum(1 for _ in itertools.islice(self._rows, _FEW))
        return [str(row) for row in range(rows)] if rows < _FEW else None

    def _read(self, start: int, wanted: Callable[[str], bool]) -> Iterator[tuple[int, str, str | None]]:
        with _Sentences(self.source):
            rows = self._rows.skip(start) if start else self._rows
            for index, row in enumerate(rows, start):
                key = str(index)
                if wanted(key):
                    text = row[self.column]
                    yield index, key, text if isinstance(text, str) else None


def open_corpus(entry: DatasetRegistered) -> Corpus:
    """The corpus of a catalogue entry; raises CorpusError where there is none to read."""
    try:
        if entry.format == "text":
            return TextFiles(entry.source, entry.pattern)
        if entry.format == "hub":
            return _hub_corpus(entry)
        folder, names = matching_files(entry.source, entry.pattern)
    except SourceError as error:
        raise CorpusError(str(error)) from error
    reader = {"jsonl": "json", "parquet": "parquet"}[entry.format]
    # The library takes file names for patterns.
    files = [glob.escape(str(folder / name)) for name in names]
    return Table(
        entry.source,
        _load(entry.source, reader, data_files=files, split="train"),
        entry.text_column,
        _fingerprint_of_files(folder, names, entry.format),
    )


def _hub_corpus(entry: DatasetRegistered) -> Corpus:
    source, split = require_hub_id(entry.source), entry.split or "train"
    revision = entry.revision
    if offline():
        raise CorpusError(unreachable(source, "dataset"))
    with _Sentences(source):
        # The branch may move on while a training runs; the commit does not.
        revision = huggingface_hub.HfApi().dataset_info(source, revision=revision).sha
    return Table(
        source,
        _load(source, source, entry.configuration, split=split, revision=revision),
        entry.text_column,
        json.dumps(["hub", source, revision, entry.configuration, split]),
        revision,
    )


def _load(source: str, *args: Any, **kwargs: Any) -> IterableDataset:
    with _Sentences(source):
        return cast(IterableDataset, datasets.load_dataset(*args, streaming=True, **kwargs))


class _Sentences:
    """Turns whatever the `datasets` library raises inside it into one sentence."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, CorpusError):
            raise CorpusError(
                hub_failure(error, self.source, "dataset")
                or f"The dataset '{self.source}' cannot be read: {one_line(error)}."
            ) from error


def _text_column(source: str, row: dict[str, Any], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in row:
            raise CorpusError(f"'{source}' has no column '{wanted}'; it has {', '.join(row)}.")
        return wanted
    if "text" in row:
        return "text"
    for name, value in row.items():
        if isinstance(value, str):
            return name
    raise CorpusError(f"'{source}' has no column of text; it has {', '.join(row)}.")


def _rank(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _key(name: str, size: int, piece: int, number: int) -> str:
    return name if piece >= size else f"{name}#{number}"


def _next_cut(file: BinaryIO, position: int, size: int) -> int:
    """Where the piece that begins at about `position` really begins: after the next line end.

    Without one in reach it is the next space, and without that the next character.
    """
    if position <= 0 or position >= size:
        return min(max(position, 0), size)
    file.seek(position - 1)
    window = file.read(_PIECE)
    for separator in (b"\n", b" "):
        found = window.find(separator)
        if found >= 0:
            return position + found
    file.seek(position)
    return position + next((i for i, byte in enumerate(file.read(4)) if byte & 0xC0 != 0x80), 0)


def _fingerprint_of_files(folder: Path, names: list[str], kind: str) -> str:
    """Digest over the files' names, sizes and contents.

    Of a file over 64 MiB only both ends and its time of change are read: hashing it all would delay every start.
    """
    digest = hashlib.sha256(kind.encode())
    for name in names:
        path = folder / name
        with path.open("rb") as file:
            size = path.stat().st_size
            if size <= _WHOLE_HASH:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            else:
                ends = hashlib.sha256(file.read(1 << 20))
                file.seek(-(1 << 20), 2)
                ends.update(file.read())
                content = f"{ends.hexdigest()} {path.stat().st_mtime_ns}"
        digest.update(f"{name!r} {size} {content}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
