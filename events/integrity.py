"""What every log promises of itself, asked of the log's tables: `saestudio verify` begins with this."""

from __future__ import annotations

from .tables import Connection, present


def difference(con: Connection) -> str | None:
    """The first thing, by position, in which a log is not what a log is; None where it is whole.

    Positions are 1, 2, 3 … without a hole, and so are, along them, the versions of every stream. All columns are read,
    and with them DuckDB's checksums of their blocks; `duckdb.Error` is raised where one is wrong.
    """
    there = present(con)
    envelopes = " UNION ALL ".join(f"SELECT position, stream, version FROM {table}" for table in there)
    wrong = con.execute(
        "SELECT position, stream, version, before, previous FROM ("
        " SELECT position, stream, version, lag(position, 1, 0::UBIGINT) OVER (ORDER BY position) AS before,"
        " lag(version, 1, 0::UINTEGER) OVER (PARTITION BY stream ORDER BY position) AS previous"
        f" FROM ({envelopes})) WHERE position <> before + 1 OR version <> previous + 1 ORDER BY position LIMIT 1"
    ).fetchone()
    if wrong is not None:
        position, stream, version, before, previous = wrong
        if position != before + 1:
            return f"position {before + 1:,} was expected behind {before:,}, but {position:,} is there"
        return f"at position {position:,} stream {stream} has version {version:,} behind {previous:,}"
    for table in there:
        con.execute(f"SELECT sum(hash(each)) FROM {table} AS each").fetchone()
    return None
