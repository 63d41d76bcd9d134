"""What an answer's columns may be in a file."""

from __future__ import annotations

import io

import duckdb
import pytest

from projections.forms import Form, Unfit, Writer


@pytest.mark.parametrize(
    ("form", "value", "has"),
    [
        ("csv", "[1]", "lists or structs"),
        ("csv", "INTERVAL 1 DAY", "intervals"),
        ("parquet", "INTERVAL 1 DAY", "intervals"),
        ("csv", r"'\xFF'::BLOB", "bytes"),
        ("csv", "'101'::BIT", "bytes"),
        ("parquet", "union_value(a := 1)", "values of several types"),
    ],
)
def test_a_column_that_a_form_has_no_place_for_is_named(form: Form, value: str, has: str) -> None:
    reader = duckdb.connect().sql(f"SELECT 1 AS n, {value} AS odd").to_arrow_reader()
    with pytest.raises(Unfit, match=f"Column odd has {has}, which {form.upper()} has not; cast it to VARCHAR."):
        Writer(form, reader.schema, io.BytesIO())


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_every_other_column_is_written(form: Form) -> None:
    columns = (
        "1 AS n, 1::HUGEINT AS h, 1.5 AS d, 1.25::DECIMAL(9, 2) AS e, true AS b, 'é' AS s, NULL AS nothing,"
        " DATE '2026-01-02' AS day, TIME '01:02:03' AS t, TIMESTAMP '2026-01-02 03:04:05' AS at,"
        " TIMESTAMPTZ '2026-01-02 03:04:05+00' AS zoned, 'a'::ENUM ('a', 'b') AS choice"
    )
    reader = duckdb.connect().sql(f"SELECT {columns}").to_arrow_reader()
    sink = io.BytesIO()
    writer = Writer(form, reader.schema, sink)
    for batch in reader:
        writer.write(batch)
    writer.close()
    assert sink.getvalue()
