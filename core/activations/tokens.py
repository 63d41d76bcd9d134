"""Rows of tokens: a corpus tokenised, packed into rows of one length, and kept on disk.

Documents are tokenised without special tokens and joined by EOS; the result is cut into rows. A model with a BOS token
of its own gets rows of BOS and context_size - 1 tokens, and none inside. A model whose BOS is its EOS (GPT-2, GPT-NeoX)
was not trained on rows that begin with one, and gets none.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from events.catalog import DatasetRegistered

from .corpora import Corpus, CorpusError, Document, Split, open_corpus
from .models import LanguageModel

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how much of it is done, and how much there is (None: unknown)."""

SHARD_TOKENS = 1 << 22
"""Rows are tokenised, stored and permuted in shards of about this many tokens."""

_LAYOUT = 1
_BATCH_CHARACTERS = 1 << 20
_BLOCK_ROWS = 1024
_HELD_OUT_SHARDS = 4


@dataclass(frozen=True)
class Packing:
    """How a model's text becomes rows, and which of their tokens are looked at.

    `bos` begins every row where it is not None, `separator` follows every document; the activations of
    `special_ids` and of the first `skip_first` positions (an attention sink where there is no BOS) are not used.
    """

    context_size: int
    vocab_size: int
    bos: int | None
    separator: int | None
    special_ids: frozenset[int]
    skip_first: int

    @classmethod
    def of(cls, lm: LanguageModel, context_size: int) -> Packing:
        bos, eos = lm.facts.bos_id, lm.facts.eos_id
        if bos == eos:
            bos = None
        added = getattr(lm.tokenizer, "added_tokens_decoder", {})
        special = {*lm.tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
        return cls(
            context_size=context_size,
            vocab_size=lm.facts.vocab_size,
            bos=bos,
            separator=eos,
            special_ids=frozenset(int(i) for i in special if i is not None),
            skip_first=1 if bos is None else 0,
        )

    @property
    def text_per_row(self) -> int:
        return self.context_size - (self.bos is not None)

    def rows(self, tokens: np.ndarray) -> np.ndarray:
        """Rows (R, context_size) of a stream of tokens; what does not fill a row is left out."""
        count = len(tokens) // self.text_per_row
        rows = tokens[: count * self.text_per_row].reshape(count, self.text_per_row)
        if self.bos is not None:
            rows = np.concatenate([np.full((count, 1), self.bos, rows.dtype), rows], axis=1)
        return rows

    @cached_property
    def _is_special(self) -> np.ndarray:
        table = np.zeros(max([self.vocab_size, *(i + 1 for i in self.special_ids)]), dtype=bool)
        table[list(self.special_ids)] = True
        return table

    def kept(self, rows: np.ndarray) -> np.ndarray:
        """Which tokens of rows (R, context_size) are looked at: decided by the token's id, not by its text."""
        kept = ~self._is_special[rows]
        kept[:, : self.skip_first] = False
        return kept


class TokenRows:
    """The rows of one split of one or several corpora, in an order that follows from `data_seed` alone.

    The training split has no end: after its last row it begins again, in another order. Its rows are permuted within
    each shard, and from the second epoch on the shards as well. The held-out split keeps the order of the text.
    Several corpora are interleaved by weight.
    """

    def __init__(
        self, sources: Sequence[_StoredRows], shares: Sequence[float], packing: Packing, data_seed: int, split: Split
    ) -> None:
        self.packing = packing
        self.context_size = packing.context_size
        self.split: Split = split
        self._all = sources
        self._shares = shares
        self._seed = data_seed
        self._order = lru_cache(maxsize=8)(self._order_of_block)

    @property
    def data_seed(self) -> int:
        """What their order follows from."""
        return self._seed

    @property
    def fingerprint(self) -> str:
        """Digest of the text, the tokeniser and the packing: the same rows have the same one."""
        parts = [self.split, _rows_per_block(self._shares), [source.key for source in self._all]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def rows(self, start: int, count: int) -> Tensor:
        """The rows numbered from `start` (from 0): int64 (count, context_size) on the CPU. Raises CorpusError."""
        sources, _ = self._mixture
        if len(sources) == 1:
            found = sources[0].take(range(start, start + count))
        else:
            found = np.empty((count, self.context_size), dtype=np.int64)
            for row in range(count):
                source, number = self._place(start + row)
                found[row] = sources[source].take(range(number, number + 1))[0]
        return torch.from_numpy(found.astype(np.int64, copy=False))

    def kept(self, rows: Tensor) -> Tensor:
        """Which tokens of CPU rows (R, context_size) are looked at: bool of the same shape."""
        return torch.from_numpy(self.packing.kept(rows.numpy()))

    def epoch(self, row: int) -> int:
        """How often the corpus had been read in full before that row (of several, the one read most often)."""
        sources, counts = self._mixture
        if len(sources) == 1:
            return sources[0].epoch(row)
        block = row // _BLOCK_ROWS
        return max(source.epoch(block * count) for source, count in zip(sources, counts, strict=True))

    def available(self, limit: int) -> int:
        """After how many rows, at most `limit`, every corpus has been read in full; 0 where there is no row at all."""
        sources, counts = self._mixture
        if len(sources) == 1:
            return sources[0].available(limit)
        blocks = max(-(-source.available(limit) // count) for source, count in zip(sources, counts, strict=True))
        return min(limit, blocks * _BLOCK_ROWS)

    @cached_property
    def _mixture(self) -> tuple[Sequence[_StoredRows], list[int]]:
        """The corpora that rows are taken from, and how many of a block's rows come from each."""
        chosen = list(zip(self._all, self._shares, strict=True))
        if self.split == "held-out" and len(chosen) > 1:
            # A corpus of a few short documents can be too small to hold anything out.
            chosen = [(source, share) for source, share in chosen if source.available(1)] or chosen[:1]
        return [source for source, _ in chosen], _rows_per_block([share for _, share in chosen])

    def _place(self, row: int) -> tuple[int, int]:
        """Which corpus a row comes from, and its number there."""
        block, position = divmod(row, _BLOCK_ROWS)
        corpus, rank = self._order(block)
        chosen = int(corpus[position])
        return chosen, block * self._mixture[1][chosen] + int(rank[position])

    def _order_of_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        _, counts = self._mixture
        corpus = np.repeat(np.arange(len(counts)), counts)
        corpus = np.random.default_rng([self._seed, 2, block]).permutation(corpus)
        rank = np.empty(len(corpus), dtype=np.int64)
        for number, count in enumerate(counts):
            rank[corpus == number] = np.arange(count)
        return corpus, rank


def open_rows(
    lm: LanguageModel,
    entries: Sequence[DatasetRegistered],
    *,
    split: Split,
    context_size: int,
    cache: Path,
    data_seed: int = 0,
    weights: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> TokenRows:
    """The rows that `lm` reads of the data sets `entries`; tokens are kept under the folder `cache`.

    Tokenises no more than is asked for, shard by shard. Raises CorpusError where a corpus cannot be read or is too
    small for one row, and ValueError for a context that the model does not have.
    """
    if not 2 <= context_size <= lm.facts.context_size:
        raise ValueError(
            f"The context size has to be between 2 and the model's {lm.facts.context_size} tokens, not {context_size}."
        )
    if weights is not None and len(weights) != len(entries):
        raise ValueError(f"There are {len(entries)} data sets but {len(weights)} weights.")
    packing = Packing.of(lm, context_size)
    sources = [
        _StoredRows(open_corpus(entry), lm.tokenizer, packing, split, cache, (data_seed, number), progress)
        for number, entry in enumerate(entries)
    ]
    return TokenRows(sources, weights or [1.0] * len(entries), packing, data_seed, split)


class _Shard(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside a shard's `.npy` file; a shard exists once this does."""

    rows: int
    next_document: int
    last: bool
    documents: int
    tokens: int


class _StoredRows:
    """One corpus' split as shards of rows on disk, built one after the other when they are needed.

    A shard holds whole documents (the rest of its last row is left out), so that each can be built knowing only where
    the one before ended, and files of another process that builds the same are the same.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerBase,
        packing: Packing,
        split: Split,
        cache: Path,
        seed: tuple[int, int],
        progress: Progress | None,
    ) -> None:
        self._corpus, self._tokenizer, self._packing = corpus, tokenizer, packing
        self._split: Split = split
        self._seed, self._progress = seed, progress
        self._shard_tokens = SHARD_TOKENS if split == "train" else SHARD_TOKENS // _HELD_OUT_SHARDS
        self.key = self._key()
        self._folder = cache / self.key[:32]
        self._shards: list[_Shard] = []
        self._ends: list[int] = []
        self._ahead: int | None = None
        self._building = threading.Lock()
        self._reader: tuple[int, Iterator[Document]] | None = None
        self._array = lru_cache(maxsize=4)(self._open_array)
        self._permutation = lru_cache(maxsize=4)(self._permutation_of)
        self._shard_order = lru_cache(maxsize=2)(self._shard_order_of)
        while (found := self._stored(len(self._shards))) is not None:
            self._append(found)

    def take(self, numbers: range) -> np.ndarray:
        """Rows by their numbers: (len(numbers), context_size)."""
        return np.stack([self._row(number) for number in numbers])

    def epoch(self, number: int) -> int:
        return number // self._ends[-1] if self._complete and number >= self._ends[-1] > 0 else 0

    def available(self, limit: int) -> int:
        self._build_until(limit)
        return min(limit, self._ends[-1])

    def _row(self, number: int) -> np.ndarray:
        self._build_until(number + 1)
        if not self._ends[-1]:
            raise CorpusError(
                f"'{self._corpus.source}' holds too little text in its {self._split} split for one row of "
                f"{self._packing.context_size} tokens."
            )
        epoch, position = divmod(number, self._ends[-1]) if self._complete else (0, number)
        if self._split == "held-out" or epoch == 0:
            shard = bisect_right(self._ends, position)
            inside = position - (self._ends[shard - 1] if shard else 0)
        else:
            order, ends = self._shard_order(epoch)
            place = bisect_right(ends, position)
            inside, shard = position - (ends[place - 1] if place else 0), order[place]
        if self._split == "train":
            self._build_ahead(shard + 1)
            inside = int(self._permutation(epoch, shard)[inside])
        return self._array(shard)[inside]

    @property
    def _complete(self) -> bool:
        return bool(self._shards) and self._shards[-1].last

    def _permutation_of(self, epoch: int, shard: int) -> np.ndarray:
        return np.random.default_rng([*self._seed, 0, epoch, shard]).permutation(self._shards[shard].rows)

    def _shard_order_of(self, epoch: int) -> tuple[list[int], list[int]]:
        order = np.random.default_rng([*self._seed, 1, epoch]).permutation(len(self._shards)).tolist()
        return order, np.cumsum([self._shards[shard].rows for shard in order]).tolist()

    def _key(self) -> str:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is not None:
            settings = json.loads(backend.to_str())
            # How the last call padded and cut is kept there too; it does not change the tokens.
            tokenizer = {name: value for name, value in settings.items() if name not in ("padding", "truncation")}
        else:
            tokenizer = {"class": type(self._tokenizer).__name__, "vocabulary": self._tokenizer.get_vocab()}
        packing = self._packing
        parts = [
            _LAYOUT,
            tokenizer,
            [packing.context_size, packing.bos, packing.separator, self._split, self._shard_tokens],
            self._corpus.fingerprint,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    # Building

    def _append(self, shard: _Shard) -> None:
        self._ends.append((self._ends[-1] if self._ends else 0) + shard.rows)
        self._shards.append(shard)

    def _build_until(self, rows: int) -> None:
        while not self._complete and (not self._ends or self._ends[-1] < rows):
            with self._building:
                number = len(self._shards)
                self._append(self._stored(number) or self._build(number))

    def _build_ahead(self, number: int) -> None:
        """Tokenise the next shard while this one is being read, so that training does not wait for it."""
        if self._complete or number < len(self._shards) or number == self._ahead:
            return
        self._ahead = number

        def build() -> None:
            with self._building:
                if len(self._shards) == number and self._stored(number) is None:
                    try:
                        self._build(number)
                    except CorpusError:
                        # Raised again, where somebody listens, by the reader who needs this shard.
                        self._reader = None

        threading.Thread(target=build, name="tokenise-ahead", daemon=True).start()

    def _paths(self, number: int) -> tuple[Path, Path]:
        return self._folder / f"shard-{number:05}.npy", self._folder / f"shard-{number:05}.json"

    def _stored(self, number: int) -> _Shard | None:
        array, manifest = self._paths(number)
        try:
            shard = msgspec.json.decode(manifest.read_bytes(), type=_Shard)
            stored = np.load(array, mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, msgspec.DecodeError, ValueError, EOFError):
            return None
        return shard if stored.shape == (shard.rows, self._packing.context_size) else None

    def _open_array(self, number: int) -> np.ndarray:
        return np.load(self._paths(number)[0], mmap_mode="r", allow_pickle=False)

    def _build(self, number: int) -> _Shard:
        start = self._shards[-1].next_document if self._shards else 0
        if self._reader is None or self._reader[0] != start:
            self._reader = start, self._corpus.documents(self._split, start)
        reader = self._reader[1]
        self._reader = None
        pieces: list[np.ndarray] = []
        documents = tokens = 0
        next_document, last = start, True
        for batch in _batches(reader, self._shard_tokens):
            if self._progress is not None:
                self._progress(f"Tokenising {self._corpus.source}", tokens, None)
            for document, ids in zip(batch, self._tokenize(batch), strict=True):
                pieces.append(ids)
                documents, tokens, next_document = documents + 1, tokens + len(ids), document.index + 1
            if tokens >= self._shard_tokens:
                last = False
                break
        stream = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
        if len(stream) and int(stream.max()) >= self._packing.vocab_size:
            raise CorpusError(
                f"The tokenizer yields token {int(stream.max())}, which the model does not have: it knows "
                f"{self._packing.vocab_size}."
            )
        dtype = np.uint16 if self._packing.vocab_size <= 1 << 16 else np.uint32
        rows = self._packing.rows(stream.astype(dtype))
        shard = _Shard(rows=len(rows), next_document=next_document, last=last, documents=documents, tokens=tokens)
        array, manifest = self._paths(number)
        self._folder.mkdir(parents=True, exist_ok=True)
        _write(array, lambda file: np.save(file, rows, allow_pickle=False))
        _write(manifest, lambda file: file.write(msgspec.json.encode(shard)))
        if not last:
            self._reader = next_document, reader
        if self._progress is not None:
            self._progress(f"Tokenising {self._corpus.source}", tokens, tokens)
        return shard

    def _tokenize(self, batch: list[Document]) -> Iterator[np.ndarray]:
        # A special token that is spelled out in a text is text, not a special token.
        encoded = self._tokenizer(
            [document.text for document in batch],
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        end = [] if self._packing.separator is None else [self._packing.separator]
        for ids in encoded:
            yield np.array([*ids, *end], dtype=np.int64)


def _batches(documents: Iterator[Document], most: int) -> Iterator[list[Document]]:
    """Documents in batches of about a megabyte, so that a shard ends soon after it is full."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= min(_BATCH_CHARACTERS, most):
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _rows_per_block(shares: Sequence[float]) -> list[int]:
    """How many of a block's rows each corpus gives: by largest remainder, at least one each."""
    if len(shares) > _BLOCK_ROWS:
        raise ValueError(f"At most {_BLOCK_ROWS} data sets can be mixed, not {len(shares)}.")
    exact = [share / sum(shares) * (_BLOCK_ROWS - len(shares)) for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: _BLOCK_ROWS - len(shares) - sum(counts)]:
        counts[i] += 1
    return [count + 1 for count in counts]


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that it is there whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
