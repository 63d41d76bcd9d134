"""Conditions on trainings as people write them: `k>=32; architecture_type=topk; model~gpt2`."""

from __future__ import annotations

import re

import msgspec
from msgspec import inspect

from events.training import TrainingConfig

from .projection import QueryRefused, one_of

_CONDITION = re.compile(r"\s*(\w+)\s*(!=|<=|>=|=|<|>|~)\s*(.*?)\s*", re.DOTALL)
_NONE = ("none", "null", "")
_TRUTHS = {"on": "true", "yes": "true", "off": "false", "no": "false"}

MOST = 20
"""Conditions in one query."""


def _kinds() -> dict[str, str]:
    found: dict[str, str] = {}
    for field in msgspec.structs.fields(TrainingConfig):
        found[field.name] = _kind(inspect.type_info(field.type))
    return found


def _kind(info: inspect.Type) -> str:
    match info:
        case inspect.Metadata(type=inner):
            return _kind(inner)
        case inspect.UnionType(types=types):
            return _kind(next(one for one in types if not isinstance(one, inspect.NoneType)))
        case inspect.VarTupleType():
            return "list"
        case inspect.IntType() | inspect.FloatType():
            return "number"
        case inspect.BoolType():
            return "truth"
        case _:
            return "text"


KINDS = _kinds()
"""The fields of a configuration: each holds a `number`, a `text`, a `truth` or a `list`."""


def where(said: str | None) -> tuple[str, list[object]]:
    """SQL that ends in all the conditions in `said`, each after AND, and its parameters. Raises `QueryRefused`."""
    parts = [part for part in (said or "").split(";") if part.strip()]
    if len(parts) > MOST:
        raise QueryRefused("where", f"{len(parts)} conditions are too many; at most {MOST} are allowed.")
    sql, parameters = "", list[object]()
    for part in parts:
        condition, values = _condition(part)
        sql += f" AND {condition}"
        parameters += values
    return sql, parameters


def _condition(part: str) -> tuple[str, list[object]]:
    found = _CONDITION.fullmatch(part)
    if found is None:
        raise QueryRefused(
            "where", f"{part.strip()!r} is not FIELD, one of =, !=, <, <=, >, >=, ~ (contains), and a value."
        )
    name, sign, value = found.groups()
    kind = KINDS[one_of("where", name, tuple(KINDS))]
    text = f"(config->>'$.{name}')"
    if value.lower() in _NONE:
        if sign not in ("=", "!="):
            raise QueryRefused("where", f"{part.strip()!r}: only = and != can be asked of none.")
        # A configuration is stored whole: what is not set may be an empty text or list there.
        return f"coalesce({text}, '') {'NOT ' if sign == '!=' else ''}IN ('', '[]')", []
    if sign == "~":
        return f"contains(lower({text}), ?)", [value.lower()]
    if kind == "list":
        if sign not in ("=", "!="):
            raise QueryRefused("where", f"{part.strip()!r}: {name} is a list; allowed: =, !=, ~.")
        has = f"list_contains(coalesce(TRY_CAST(config->'$.{name}' AS VARCHAR[]), []), ?)"
        return f"{'NOT ' if sign == '!=' else ''}{has}", [value]
    if kind == "number":
        try:
            number = float(value.replace(",", ""))
        except ValueError as error:
            raise QueryRefused("where", f"{part.strip()!r}: {name} is a number, {value!r} is not.") from error
        sql_sign = "IS DISTINCT FROM" if sign == "!=" else sign
        return f"TRY_CAST({text} AS DOUBLE) {sql_sign} ?", [number]
    if sign not in ("=", "!="):
        raise QueryRefused("where", f"{part.strip()!r}: {name} is not a number; allowed: =, !=, ~.")
    wanted = value.lower()
    wanted = _TRUTHS.get(wanted, wanted) if kind == "truth" else wanted
    return f"lower({text}) {'IS DISTINCT FROM' if sign == '!=' else '='} ?", [wanted]


def tags(said: str | None) -> tuple[str, ...]:
    """Tags that were written with commas between, each once."""
    return tuple(dict.fromkeys(tag.strip() for tag in (said or "").split(",") if tag.strip()))


def group_key(group: str) -> str:
    """SQL for what a row is grouped by: `status`, `tag` (its first), or a field. Raises `QueryRefused`."""
    if group == "status":
        return "status"
    if group == "tag":
        return "tags[1]"
    return f"(config->>'$.{one_of('group', group, ('status', 'tag', *KINDS))}')"
