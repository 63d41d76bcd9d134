"""Metrics: a view over the steps, less what a resume has preempted, and the metrics of other people's trainers.

Steps are never copied. `TrainingResumed(step=s)` at position P says that rows with a step beyond s and a position
before P no longer count; the few such pairs of a training are all that is kept here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import pyarrow as _pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.compute as _compute  # pyright: ignore[reportMissingTypeStubs]
from duckdb import DuckDBPyConnection

from events.batch import FIELDS, Batch
from events.event import Recorded
from events.streams import TRAINING
from events.tables import table_of
from events.training import MetricsLogged, TrainingResumed

from .projection import Projection, QueryRefused, at_least, int64, one_of, training_of
from .table import Table, first

pa: Any = _pyarrow
pc: Any = _compute

STEPS = table_of("StepTrained")
_TAIL = 4_096
"""Positions before the end of a stream in which its last steps are looked for first."""
_ROWS = 8
"""Positions that are looked at for each step that is asked for: SAEs, and what lies between."""
_FEW = 10_000
_FARTHEST = 1_000_000

_NAMES = {"l0_fraction": "l0_sparsity"}
METRICS: dict[str, str] = {
    _NAMES.get(column.name, column.name): column.name
    for column in FIELDS["StepTrained"]
    if column.name not in ("step", "sae")
}
"""The metrics of a step as they are shown, and their columns in the step table."""


class Preempted(msgspec.Struct, frozen=True):
    """A row of the table `preempted`: of this stream, what lies beyond `step` and before `position` does not count."""

    stream: str
    step: int
    position: int


class LoggedMetric(msgspec.Struct, frozen=True):
    """A row of the table `logged_metrics`: one value of a `MetricsLogged`; `occurred_at` in µs since 1970 (UTC)."""

    training: str
    position: int
    occurred_at: int
    step: int
    name: str
    value: float | None


PREEMPTED = Table("preempted", Preempted, ("stream", "step", "position"))
LOGGED = Table("logged_metrics", LoggedMetric, ("training", "position", "step", "name"))


class Metrics(Projection):
    """What resumes have preempted, and the values of `MetricsLogged`; the view `metrics` is for people's queries."""

    name = "metrics"
    types = frozenset({"TrainingResumed", "MetricsLogged"})
    schema = (PREEMPTED, LOGGED)
    views = (
        f"CREATE OR REPLACE VIEW metrics AS SELECT substr(stream, {len(TRAINING) + 1}) AS training, step, sae, "
        + ", ".join(f"{column} AS {name}" for name, column in METRICS.items())
        + f", occurred_at AS timestamp, position FROM {STEPS} AS steps WHERE NOT EXISTS (SELECT 1 FROM {PREEMPTED.name}"
        " AS later WHERE later.stream = steps.stream AND steps.step > later.step AND steps.position < later.position)",
    )

    def fold(self, con: DuckDBPyConnection, batch: Batch) -> None:
        preempted: list[Preempted] = []
        logged: list[LoggedMetric] = []

        def take(recorded: Recorded) -> None:
            if recorded.type == "TrainingResumed":
                step = cast(TrainingResumed, recorded.data).step
                preempted.append(Preempted(recorded.stream, step, recorded.position))
                return
            event = cast(MetricsLogged, recorded.data)
            training = training_of(recorded.stream)
            logged.extend(
                LoggedMetric(training, recorded.position, recorded.occurred_at, event.step, name, value)
                for name, value in event.values.items()
            )

        self.each(batch, take)
        self.tables[0].insert(con, preempted, self.skip)
        self.tables[1].insert(con, logged, self.skip)


def counted(resumes: Iterable[tuple[int, int]]) -> str:
    """The SQL condition that leaves the rows that still count after resumes, given as pairs (step, position)."""
    conditions: list[str] = []
    least: int | None = None
    for step, position in sorted(resumes, key=lambda pair: pair[1], reverse=True):
        # What a later resume from the same or an earlier step leaves, this one leaves too.
        if least is None or step < least:
            conditions.append(f"NOT (step > {int(step)} AND position < {int(position)})")
            least = step
    return " AND ".join(conditions) or "true"


class _Source(msgspec.Struct, frozen=True):
    """Rows that count: `sql` has the columns step, sae, timestamp and m0, m1, …, which are shown as `names`."""

    sql: str
    names: Sequence[str]
    parameters: Sequence[object]

    @property
    def columns(self) -> list[str]:
        return ["step", "sae", *(f"m{index}" for index in range(len(self.names))), "timestamp"]


def history(
    con: DuckDBPyConnection,
    id: str,
    *,
    sae: int | None = None,
    from_step: int | None = None,
    to_step: int | None = None,
    points: int | None = None,
    limit: int = 1000,
    order: str = "asc",
    fields: Sequence[str] | None = None,
) -> Any:
    """The training's metrics as a `pyarrow.Table`: step, sae, the metrics, timestamp (`occurred_at`, µs since 1970).

    `limit` counts steps: the first ones (`order` asc) or the last (desc, newest first) of those asked for; every SAE's
    row of a step counts as one. `from_step` and `to_step` are inclusive. `fields` names the metrics that are wanted;
    `l0_sparsity` is the event's `l0_fraction`.

    With `points` (at most so many rows an SAE; `limit` is not used) steps are put in `points // 2` buckets of equal
    width, and each bucket becomes two rows, at its first and its last step: every column has its own minimum in one
    and its own maximum in the other, so that no spike of any metric is lost. The first row has whichever of the two
    lies nearer to the value at the bucket's first step, so that a falling line falls. A bucket of one step becomes one
    row, and a range of no more than `points` steps comes as it is. NaN counts as larger than everything.

    Raises `QueryRefused`.
    """
    names = list(METRICS)
    if fields is not None:
        names = list(dict.fromkeys(_NAMES.get(field, field) for field in fields))
        for name in names:
            if name not in METRICS and name not in ("step", "sae", "timestamp"):
                raise QueryRefused("fields", f"{name!r} is not a metric; allowed: {', '.join(METRICS)}.")
        names = [name for name in METRICS if name in names]
    stream = TRAINING + id
    columns = "".join(f", {METRICS[name]} AS m{index}" for index, name in enumerate(names))
    extent = _extent(con, stream)
    conditions = ["stream = ?", extent.begins, extent.counted, *_range(from_step, to_step)]
    if sae is not None:
        conditions.append(f"sae = {int64(sae)}")
    sql = f"SELECT step, sae, occurred_at AS timestamp{columns} FROM {STEPS} WHERE {' AND '.join(conditions)}"
    source = _Source(sql, names, [stream])
    if points is None and order == "desc" and from_step is None and to_step is None and 1 <= limit <= _FEW:
        latest = _latest(con, source, extent, limit)
        if latest is not None:
            return latest
    return _read(con, source, points, limit, order)


def logged(
    con: DuckDBPyConnection,
    id: str,
    *,
    from_step: int | None = None,
    to_step: int | None = None,
    points: int | None = None,
    limit: int = 1000,
    order: str = "asc",
    fields: Sequence[str] | None = None,
) -> Any:
    """As `history`, of what a trainer that is not ours has logged by name: step, one column a name, timestamp.

    Where a name was logged twice at a step, the later value counts. A metric called step or timestamp is shown as
    `logged.step` or `logged.timestamp`. Unknown `fields` are left out.
    """
    found = con.execute(f"SELECT DISTINCT name FROM {LOGGED.name} WHERE training = ? ORDER BY name", [id]).fetchall()
    names = [row[0] for row in found if fields is None or row[0] in fields]
    conditions = ["training = ?", _counted(con, TRAINING + id), *_range(from_step, to_step)]
    columns = "".join(f", arg_max(value, position) FILTER (name = ?) AS m{index}" for index in range(len(names)))
    sql = (
        f"SELECT step, 0 AS sae, max(occurred_at) AS timestamp{columns} FROM {LOGGED.name}"
        f" WHERE {' AND '.join(conditions)} GROUP BY step"
    )
    shown = [f"logged.{name}" if name in ("step", "timestamp") else name for name in names]
    table = _read(con, _Source(sql, shown, [*names, id]), points, limit, order)
    return table.select([index for index, name in enumerate(table.column_names) if index != 1 or name != "sae"])


class _Extent(NamedTuple):
    """Where in the log a stream lies, and the condition on what counts of it."""

    first: int
    last: int
    counted: str

    @property
    def begins(self) -> str:
        """DuckDB then reads nothing of the step table before that."""
        return f"position >= {self.first}"


def _extent(con: DuckDBPyConnection, stream: str) -> _Extent:
    # One statement for three facts: each costs as much as reading a thousand steps.
    found = first(
        con,
        "SELECT first_position, last_position, resumes FROM (SELECT list(struct_pack(step, position)) AS resumes"
        f" FROM {PREEMPTED.name} WHERE stream = $1) LEFT JOIN streams ON stream = $1",
        [stream],
    )
    assert found is not None
    begins, ends, resumes = found
    # What is younger than the log's last checkpoint has no extent yet.
    return _Extent(begins or 0, ends or 0, counted((pair["step"], pair["position"]) for pair in resumes or ()))


def _latest(con: DuckDBPyConnection, source: _Source, extent: _Extent, limit: int) -> Any:
    """The last `limit` steps, the newest first, where they lie near the end of the stream; None where they do not."""
    window = max(_TAIL, _ROWS * limit)
    # Steps that count ascend with their positions.
    while window < _FARTHEST and extent.last - window > extent.first:
        sql = f"SELECT {', '.join(source.columns)} FROM ({source.sql} AND position > {extent.last - window})"
        found = con.sql(sql, params=list(source.parameters)).to_arrow_table()
        steps = np.unique(found["step"].to_numpy())
        # One more than asked for: of the first, some SAEs' rows may lie before.
        if len(steps) > limit:
            kept = found.filter(pc.greater_equal(found["step"], int(steps[-limit])))
            return _named(kept.sort_by([("step", "descending"), ("sae", "ascending")]), source)
        window *= 8
    return None


def _counted(con: DuckDBPyConnection, stream: str) -> str:
    return counted(con.execute(f"SELECT step, position FROM {PREEMPTED.name} WHERE stream = ?", [stream]).fetchall())


def _range(from_step: int | None, to_step: int | None) -> list[str]:
    bounds = (("step >=", from_step), ("step <=", to_step))
    return [f"{comparison} {int64(step)}" for comparison, step in bounds if step is not None]


def _read(con: DuckDBPyConnection, source: _Source, points: int | None, limit: int, order: str) -> Any:
    one_of("order", order, ("asc", "desc"))
    limit = at_least("limit", limit, 1)
    if points is not None:
        at_least("points", points, 2)
    bounds = first(con, f"SELECT min(step), max(step) FROM ({source.sql})", source.parameters)
    assert bounds is not None
    lowest, highest = bounds
    columns = source.columns
    if lowest is None:
        sql = f"SELECT {', '.join(columns)} FROM ({source.sql}) WHERE false"
    elif points is None:
        window = _window(con, source, lowest, highest, limit, order)
        sql = f"SELECT {', '.join(columns)} FROM ({source.sql}) WHERE {window} ORDER BY step {order}, sae"
    elif highest - lowest < points:
        sql = f"SELECT {', '.join(columns)} FROM ({source.sql}) ORDER BY step {order}, sae"
    else:
        sql = _buckets(source, columns[2:], lowest, highest, points // 2)
        buckets = con.sql(sql, params=list(source.parameters)).to_arrow_table()
        by = [("step", "ascending" if order == "asc" else "descending"), ("sae", "ascending")]
        return _named(_rows_of_buckets(buckets, columns[2:]).sort_by(by), source)
    return _named(con.sql(sql, params=list(source.parameters)).to_arrow_table(), source)


def _named(table: Any, source: _Source) -> Any:
    return table.rename_columns(["step", "sae", *source.names, "timestamp"])


def _window(con: DuckDBPyConnection, source: _Source, lowest: int, highest: int, limit: int, order: str) -> str:
    """The condition that leaves the first or last `limit` steps."""
    if highest - lowest < limit:
        return "true"
    comparison, edge = ("<=", lowest + limit - 1) if order == "asc" else (">=", highest - limit + 1)
    steps = f"SELECT DISTINCT step FROM ({source.sql})"
    dense = first(con, f"SELECT count(*) FROM ({steps} WHERE step {comparison} {edge})", source.parameters)
    assert dense is not None
    if dense[0] < limit:
        # Not every step was reported: the edge lies farther off.
        wanted = f"{steps} ORDER BY step {order} LIMIT {limit}"
        sparse = first(con, f"SELECT {'max' if order == 'asc' else 'min'}(step) FROM ({wanted})", source.parameters)
        assert sparse is not None
        edge = sparse[0]
    return f"step {comparison} {edge}"


def _buckets(source: _Source, columns: Sequence[str], lowest: int, highest: int, count: int) -> str:
    # Cast before multiplying: 32-bit steps overflow, and DuckDB raises where they do.
    bucket = f"(step::BIGINT - {lowest}) * {count} // {highest - lowest + 1}"
    extremes = ", ".join(f"min({column}) AS low_{column}, max({column}) AS high_{column}" for column in columns)
    return (
        f"SELECT {bucket} AS bucket, sae, min(step) AS first_step, max(step) AS last_step,"
        f" arg_min(each, step) AS start, {extremes} FROM ({source.sql}) AS each GROUP BY bucket, sae"
    )


def _rows_of_buckets(buckets: Any, columns: Sequence[str]) -> Any:
    """Two rows a bucket, at its first and its last step; one where that is the same step.

    In Arrow rather than in SQL: planning an expression for each end of each column took as long as the reading.
    """
    start = buckets["start"].combine_chunks()
    ends: dict[str, list[Any]] = {"step": [buckets["first_step"], buckets["last_step"]], "sae": [buckets["sae"]] * 2}
    for column in columns:
        low, high = buckets[f"low_{column}"], buckets[f"high_{column}"]
        at = pc.struct_field(start, column)
        rises = pc.less_equal(pc.subtract(at, low), pc.subtract(high, at))
        if pa.types.is_floating(low.type):
            # NaN counts as larger than everything: it is the far end of whatever begins below it.
            rises = pc.or_kleene(rises, pc.is_nan(pc.subtract(high, at)))
        # Without a metric at the first step its order is not known.
        rises = pc.fill_null(rises, False)
        ends[column] = [pc.if_else(rises, low, high), pc.if_else(rises, high, low)]
    first, last = (pa.table({name: values[end] for name, values in ends.items()}) for end in (0, 1))
    return pa.concat_tables([first, last.filter(pc.greater(buckets["last_step"], buckets["first_step"]))])
