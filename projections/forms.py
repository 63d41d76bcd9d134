"""An answer as a file that others read, written as its batches come."""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as _pyarrow  # pyright: ignore[reportMissingTypeStubs]

pa: Any = _pyarrow

Form = Literal["csv", "parquet"]

_GROUP_ROWS = 100_000
_GROUP_BYTES = 32 << 20


class Unfit(ValueError):
    """A form cannot hold an answer; the sentence names the column."""


def _lacks(form: Form, kind: Any) -> str | None:
    """What a form has not of a column's type; None where it can be written."""
    if pa.types.is_interval(kind):
        return "intervals"
    if pa.types.is_union(kind):
        return "values of several types"
    if isinstance(kind, pa.BaseExtensionType):
        return "such values"
    if form == "csv" and pa.types.is_nested(kind):
        return "lists or structs"
    if form == "csv" and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)):
        return "bytes"
    return None


def check(form: Form, schema: Any) -> None:
    """Raises `Unfit` where the form has no place for one of the columns."""
    for field in schema:
        if (lacking := _lacks(form, field.type)) is not None:
            raise Unfit(f"Column {field.name} has {lacking}, which {form.upper()} has not; cast it to VARCHAR.")


class Writer:
    """Writes batches of `schema` into `sink`, a file open for bytes; `close` completes it.

    Raises `Unfit` where the form has no place for one of the columns.
    """

    def __init__(self, form: Form, schema: Any, sink: Any) -> None:
        check(form, schema)
        from pyarrow import csv, parquet  # pyright: ignore[reportMissingTypeStubs]

        self._schema = schema.remove_metadata()
        as_csv: Any = csv
        as_parquet: Any = parquet
        self._file: Any = (
            as_csv.CSVWriter(sink, self._schema, write_options=as_csv.WriteOptions(quoting_style="needed"))
            if form == "csv"
            else as_parquet.ParquetWriter(sink, self._schema)
        )
        self._grouped = form == "parquet"
        self._batches: list[Any] = []
        self._rows = self._size = 0

    def write(self, batch: Any) -> None:
        """Add a batch. Parquet is written in groups of many rows: few make it large, and slow to read."""
        if not batch.num_rows:
            return
        self._batches.append(pa.RecordBatch.from_arrays(batch.columns, schema=self._schema))
        self._rows += batch.num_rows
        self._size += batch.nbytes
        if not self._grouped or self._rows >= _GROUP_ROWS or self._size >= _GROUP_BYTES:
            self._put()

    def close(self) -> None:
        """Write what is left, and the file's end."""
        if self._batches:
            self._put()
        self._file.close()

    def _put(self) -> None:
        self._file.write_table(pa.Table.from_batches(self._batches, self._schema))
        self._batches = []
        self._rows = self._size = 0
