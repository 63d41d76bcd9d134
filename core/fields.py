"""Plain data against a struct, field by field: all problems at once, each a sentence that says what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import inspect

from .figures import js_number


class Problem(msgspec.Struct, frozen=True):
    """One sentence about one field."""

    field: str
    message: str


def convert_fields(
    raw: Mapping[str, Any], struct: type[msgspec.Struct], *, what: str, strict: bool = True
) -> tuple[dict[str, Any], list[Problem]]:
    """The values of `raw` that are of their field's type and range in `struct`, and a problem for each that is not.

    `what` names the whole in sentences ("a configuration"). Not `strict`: text stands for numbers and booleans, as in
    a query string. Missing fields are a problem where they have no default.
    """
    known = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in raw.items():
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else "."
            problems.append(Problem(str(name), f"{name} is not a field of {what}{hint}"))
            continue
        kind = known[name].type
        try:
            values[name] = msgspec.convert(value, kind, strict=strict)
            sound = all(_is_storable(number) for number in _numbers(values[name]))
        except msgspec.ValidationError:
            sound = False
        if not sound:
            values.pop(name, None)
            allowed = describe(inspect.type_info(kind), _description(kind))
            problems.append(Problem(name, f"{name} must be {allowed}, not {_shown(value)}."))
    problems += [
        Problem(name, f"{name} is missing; it must be {describe(inspect.type_info(field.type))}.")
        for name, field in known.items()
        if field.required and name not in raw
    ]
    return values, problems


def describe(kind: inspect.Type, description: str = "") -> str:
    """What a type allows, in words: "a whole number from 8 to 1,048,576".

    `description` stands for a pattern, which nobody can read.
    """
    match kind:
        case inspect.Metadata(type=inner):
            return describe(inner, description)
        case inspect.UnionType(types=types):
            named = [describe(one, description) for one in types if not isinstance(one, inspect.NoneType)]
            return " or ".join(named) + (" (or nothing, for the default)" if len(named) < len(types) else "")
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{_limits(kind)}"
        case inspect.FloatType():
            return f"a number{_limits(kind)}"
        case inspect.StrType(pattern=str()) if description:
            return f"text ({description.rstrip('.')})"
        case inspect.StrType(min_length=low, max_length=high):
            if high is not None:
                return f"text of {low or 0} to {high:,} characters"
            return f"text of at least {low} characters" if low else "text"
        case inspect.LiteralType(values=allowed):
            return "one of " + ", ".join(str(value) for value in allowed)
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            return f"a list, each item {describe(item)}"
        case inspect.DictType():
            return "an object"
        case _:
            return "of another type"


def _description(kind: Any) -> str:
    """The annotation's description, where it has one."""
    metas = getattr(kind, "__metadata__", ())
    return next((meta.description for meta in metas if isinstance(meta, msgspec.Meta) and meta.description), "")


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)


def _is_storable(number: int | float) -> bool:
    """Whether every format and column of ours can hold it."""
    return math.isfinite(number) if isinstance(number, float) else -(2**63) <= number < 2**63


def _limits(kind: inspect.IntType | inspect.FloatType) -> str:
    low, high = _number(kind.ge, kind.gt), _number(kind.le, kind.lt)
    if low is not None and high is not None:
        return f" above {low}, at most {high}" if kind.gt is not None else f" from {low} to {high}"
    if low is not None:
        return f" above {low}" if kind.gt is not None else f" of at least {low}"
    return f" of at most {high}" if high is not None else ""


def _number(*values: float | None) -> str | None:
    value = next((one for one in values if one is not None), None)
    if value is None:
        return None
    return f"{value:,}" if isinstance(value, int) else js_number(value)


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
