"""An answer in SQL as a chart: what can be drawn of its columns, what is drawn to begin with, and what is left out."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import quote, unquote

import msgspec

from ..answers import SqlAnswer, SqlColumn

MOST_LINES = 24
"""Lines that can be told apart by colour and dash."""

MOST_BARS = 60
"""Places on an axis of names."""

ROW = ""
"""In place of a column: the rows in their order."""

_NUMBERS = {
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL"),
    *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"),
}
_TIMES = {"DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"}
_NAMES = {"VARCHAR", "BOOLEAN", "UUID"}

Mark = Literal["line", "points", "bars"]
MARKS: tuple[Mark, ...] = ("line", "points", "bars")


def kind(column: SqlColumn) -> Literal["number", "time", "name", "other"]:
    """What a column's values are to a chart. ENUM counts as names."""
    bare = column.type.partition("(")[0]
    if column.type.endswith("]"):
        return "other"
    if bare in _NUMBERS:
        return "number"
    if bare in _TIMES:
        return "time"
    return "name" if bare in _NAMES or bare == "ENUM" else "other"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer is drawn: which column goes along (`ROW`: their order), which are drawn, which names the lines."""

    mark: Mark = "line"
    x: str = ROW
    y: tuple[str, ...] = ()
    series: str = ""

    def route(self) -> dict[str, str]:
        """The part of an address that asks for this."""
        return {"chart": self.mark, "x": self.x, "y": ",".join(quote(name, safe="") for name in self.y)} | (
            {"by": self.series} if self.series else {}
        )


def asked(route: dict[str, str]) -> Choice | None:
    """What an address asks for; None where it leaves that to the answer."""
    mark = route.get("chart", "")
    if mark not in MARKS:
        return None
    names = tuple(unquote(name) for name in route.get("y", "").split(",") if name)
    return Choice(mark=mark, x=route.get("x", ROW), y=names, series=route.get("by", ""))


def options(columns: Sequence[SqlColumn]) -> dict[str, list[str]]:
    """The columns that may go along, be drawn, and name the lines. Of two with one name the first is meant."""
    kinds: dict[str, str] = {}
    for column in columns:
        kinds.setdefault(column.name, kind(column))
    return {
        "x": [ROW, *(name for name, is_ in kinds.items() if is_ != "other")],
        "y": [name for name, is_ in kinds.items() if is_ == "number"],
        "series": [name for name, is_ in kinds.items() if is_ in ("name", "number")],
    }


def choice(answer: SqlAnswer, wanted: Choice | None = None) -> Choice | None:
    """How an answer is drawn: as `wanted` where it has these columns, else as its types suggest; None: not at all."""
    can = options(answer.columns)
    if not can["y"] or not answer.data:
        return None
    if wanted is not None:
        y = tuple(name for name in wanted.y if name in can["y"])
        series = wanted.series if wanted.series in can["series"] else ""
        if y and wanted.x in can["x"]:
            return msgspec.structs.replace(wanted, y=y, series=series)
    return _suggested(answer, can)


def _suggested(answer: SqlAnswer, can: dict[str, list[str]]) -> Choice:
    kinds = {column.name: kind(column) for column in reversed(answer.columns)}
    numbers = can["y"]
    names = [column.name for column in answer.columns if kinds[column.name] == "name"]
    times = [column.name for column in answer.columns if kinds[column.name] == "time"]
    # A column of names that tells the rows apart has a bar for each; one that does not tells lines apart.
    alone = next((name for name in names if _distinct(answer, name) == len(answer.data) <= MOST_BARS), None)
    series = next((name for name in names if 1 < _distinct(answer, name) <= MOST_LINES), "")
    if times and alone is None:
        return Choice(x=times[0], y=(numbers[0],), series=series)
    if alone is not None and (not times or len(answer.data) == 1):
        return Choice(mark="bars", x=alone, y=(numbers[0],))
    if len(numbers) == 1:
        return Choice(mark="line", x=times[0] if times else ROW, y=(numbers[0],), series=series)
    along = times[0] if times else numbers[0]
    drawn = tuple(name for name in numbers if name != along)[:1]
    return Choice(mark="line" if _rises(answer, along, series) else "points", x=along, y=drawn, series=series)


def _values(answer: SqlAnswer, name: str) -> list[Any]:
    index = next(index for index, column in enumerate(answer.columns) if column.name == name)
    return [row[index] for row in answer.data]


def _distinct(answer: SqlAnswer, name: str) -> int:
    return len(set(map(str, _values(answer, name))))


def _rises(answer: SqlAnswer, name: str, series: str) -> bool:
    """Whether a column never falls within a series: then a line through the points has a meaning."""
    last: dict[str, Any] = {}
    groups = _values(answer, series) if series else [""] * len(answer.data)
    for group, value in zip(map(str, groups), _values(answer, name), strict=True):
        if value is None:
            continue
        if group in last and value < last[group]:
            return False
        last[group] = value
    return True


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """One line, set of points or set of bars."""

    label: str
    x: list[Any]
    y: list[float]


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """What a chart shows: `along` says what is on its axis, `factors` are the names there; `left_out` is a sentence."""

    mark: Mark
    along: Literal["number", "time", "name"]
    x_label: str
    y_label: str
    lines: list[Drawn]
    factors: list[str]
    left_out: str = ""


def picture(answer: SqlAnswer, chosen: Choice) -> Picture:
    """The lines of an answer. Values that are no finite number have no place on a chart and are left out."""
    kinds = {column.name: kind(column) for column in reversed(answer.columns)}
    along: Any = "number" if chosen.x == ROW else kinds[chosen.x]
    places: list[Any] = list(range(1, len(answer.data) + 1)) if chosen.x == ROW else _values(answer, chosen.x)
    if chosen.mark == "bars" and along != "name":
        # Bars stand beside each other, whatever they stand for.
        places, along = [None if place is None else _said(place) for place in places], "name"
    read = {"number": _number, "time": _milliseconds, "name": lambda value: "NULL" if value is None else _said(value)}
    xs = [read[along](place) for place in places]
    groups = [_said(value) for value in _values(answer, chosen.series)] if chosen.series else [""] * len(xs)
    said: list[str] = []
    factors: list[str] = []
    if along == "name":
        every = list(dict.fromkeys(xs))
        factors = every[:MOST_BARS]
        if len(every) > MOST_BARS:
            said.append(f"{MOST_BARS} of {len(every):,} places are shown.")
    lines: dict[str, Drawn] = {}
    left, over = 0, 0
    within = set(factors)
    for name in chosen.y:
        for group, x, value in zip(groups, xs, _values(answer, name), strict=True):
            y = _number(value)
            if x is None or y is None:
                left += 1
                continue
            if along == "name" and x not in within:
                continue
            label = " · ".join(part for part in ((name if len(chosen.y) > 1 else ""), group) if part) or name
            if label not in lines:
                if len(lines) == MOST_LINES:
                    over += 1
                    continue
                lines[label] = Drawn(label=label, x=[], y=[])
            lines[label].x.append(x)
            lines[label].y.append(y)
    if over:
        said.append(f"Only the first {MOST_LINES} lines are drawn.")
    if left:
        said.append(f"{left:,} value{'' if left == 1 else 's'} without a number left out.")
    if answer.cut:
        said.append(f"This is drawn from the first {answer.rows:,} rows; GROUP BY makes fewer of them.")
    return Picture(
        mark=chosen.mark,
        along=along,
        x_label=chosen.x or "row",
        y_label=", ".join(chosen.y),
        lines=list(lines.values()),
        factors=factors,
        left_out=" ".join(said),
    )


def _said(value: Any) -> str:
    if value is None:
        return "NULL"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _milliseconds(value: Any) -> float | None:
    """A time as the API writes it, in ms since 1970."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.datetime.fromisoformat(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp() * 1000
