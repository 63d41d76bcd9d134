"""One question asked of a replica: checked, answered at one position, within limits, and given up when told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import duckdb
import msgspec
from duckdb import DuckDBPyConnection

from .replica import Replica
from .statements import StatementRefused, check, planned, refusal

ROWS_AT_ONCE = 2_048
"""Few, for a row can have a megabyte of text."""

GRACE = 3.0
"""Seconds after which a question that was told to end, and goes on, has overrun."""


class DatabaseFallen(Exception):
    """The replica's database does not work any more in this process."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one question may use: `rows` and `size` (bytes) of its answer, and `seconds` of DuckDB's time."""

    rows: int
    size: int
    seconds: float


class Question:
    """One question. `begin` once, then `batches` to their end or not; `close` always.

    Not for several threads at once, except for `give_up`. `overrun` is called, from a thread of its own, when DuckDB
    goes on for `GRACE` seconds after it was told to end: some of its functions do not listen.
    """

    def __init__(
        self,
        replica: Replica,
        statement: str,
        parameters: Sequence[Any] | Mapping[str, Any],
        limits: Limits,
        overrun: Callable[[], None],
    ) -> None:
        self._replica = replica
        self._statement = statement
        self._parameters = parameters
        self._limits = limits
        self._overrun = overrun
        self._open = ExitStack()
        self._con: DuckDBPyConnection
        self._left = limits.seconds
        self._ended: str | None = None
        self._step = 0
        self._changed = threading.Condition()
        self._reader: Any = None
        self._first: Any = None
        self.position = 0
        """The position that the answer is true at."""
        self.columns: list[tuple[str, str]] = []
        """The answer's columns and DuckDB's types of them."""
        self.rows = 0
        """Rows that `batches` has given so far."""
        self.cut: str | None = None
        """Why rows were left out; None: all are there."""

    def begin(self) -> None:
        """Checks the statement and computes the first rows. Raises `StatementRefused`."""
        self._con, self.position = self._open.enter_context(self._replica.snapshot())
        with self._timed():
            check(self._con, self._statement)
            relation = self._relation()
            if relation is None:
                raise StatementRefused("This statement has no answer.")
            self.columns = [(name, str(kind)) for name, kind in zip(relation.columns, relation.types, strict=True)]
            self._reader = relation.to_arrow_reader(ROWS_AT_ONCE)
            self._first = next(self._reader, None)

    def _relation(self) -> Any:
        try:
            return self._con.sql(self._statement, params=self._parameters or None)
        except (duckdb.BinderException, duckdb.CatalogException):
            if not self._parameters:
                planned(self._con, self._statement)
            raise

    @property
    def schema(self) -> Any:
        """The answer's `pyarrow.Schema`."""
        return self._reader.schema

    def batches(self) -> Iterator[Any]:
        """The answer as `pyarrow.RecordBatch`es, cut at the limits. Raises `StatementRefused`."""
        batch, self._first = self._first, None
        size = 0
        while batch is not None:
            if self.rows + batch.num_rows > self._limits.rows:
                self.cut = f"Only the first {self._limits.rows:,} rows are here; LIMIT and GROUP BY make it fewer."
                batch = batch.slice(0, self._limits.rows - self.rows)
            size += batch.nbytes
            if size > self._limits.size:
                self.cut = f"Only the first {self.rows:,} rows are here: more than {self._limits.size:,} bytes."
                return
            self.rows += batch.num_rows
            yield batch
            if self.cut:
                return
            with self._timed():
                batch = next(self._reader, None)

    def give_up(self) -> None:
        """Ends the question now, whatever it does: nobody waits for its answer any more."""
        with self._changed:
            self._ended = self._ended or "The question was given up."
            self._changed.notify_all()

    def close(self) -> None:
        """Lets go of what it holds."""
        self._reader = self._first = None
        self._open.close()

    @contextmanager
    def _timed(self) -> Generator[None]:
        """Runs DuckDB for at most the time that is left, and says what went wrong in a sentence."""
        with self._changed:
            if self._ended is not None:
                raise StatementRefused(self._ended)
            step = self._step
        threading.Thread(target=self._guard, args=[step, self._left], daemon=True).start()
        began = time.monotonic()
        try:
            yield
        except (duckdb.Error, OSError, MemoryError) as error:
            raise self._said(error) from error
        finally:
            self._left -= time.monotonic() - began
            with self._changed:
                self._step += 1
                self._changed.notify_all()

    def _said(self, error: Exception) -> Exception:
        """What went wrong, in a sentence. Of any batch but the first DuckDB's error comes through Arrow, as text."""
        text = str(error).partition("\n")[0]
        if isinstance(error, duckdb.InterruptException) or "INTERRUPT Error" in text:
            return StatementRefused(self._ended or "The question was ended.")
        if isinstance(error, (duckdb.OutOfMemoryException, MemoryError)) or "Out of Memory Error" in text:
            return StatementRefused(f"This needs more memory or temporary space than there is for it: {text}.")
        if isinstance(error, duckdb.FatalException) or "FATAL Error" in text:
            return DatabaseFallen(text)
        return refusal(error, self._statement)

    def _guard(self, step: int, left: float) -> None:
        """In a thread of its own: ends the step when its time is over or nobody wants it any more."""
        late = f"This took longer than the {self._limits.seconds:g} s that a question may take."
        with self._changed:
            self._changed.wait_for(lambda: self._step != step or self._ended is not None, max(0.0, left))
            if self._step != step:
                return
            self._ended = self._ended or late
        end = time.monotonic() + GRACE
        while time.monotonic() < end:
            # Again and again: one that comes before the statement has begun is forgotten.
            self._con.interrupt()
            with self._changed:
                if self._changed.wait_for(lambda: self._step != step, 0.1):
                    return
        self._overrun()
