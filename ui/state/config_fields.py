"""The fields of a configuration as people meet them, from what `TrainingConfig` says of itself."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import inspect

from events.training import TrainingConfig

Kind = Literal["text", "number", "switch", "choice", "choices", "numbers", "names", "json"]
"""How a field is entered: `switch` is a boolean, `choice` one of its options, `choices` some of them, `numbers` and
`names` lists of any length, `json` whatever else there is."""

GROUPS = {
    "data": "Data",
    "architecture": "Autoencoder",
    "sparsity": "Sparsity",
    "training": "Training",
    "run": "Run",
}
"""The groups that fields name, in the order in which they are shown, each with its title."""


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field. `default` says in words what is taken where it is empty, `only` which architectures it is for,
    `reading` which source of activations (`text` or `folder`; None: either)."""

    name: str
    label: str
    help: str
    unit: str
    default: str
    group: str
    advanced: bool
    kind: Kind
    only: tuple[str, ...] | None
    reading: str | None = None
    options: tuple[str, ...] = ()
    whole: bool = False
    """Whether its numbers are whole."""

    def applies_to(self, architecture: str, reading: str) -> bool:
        """Whether an SAE of this architecture, on activations from there, has any use for the field."""
        return (self.only is None or architecture in self.only) and self.reading in (None, reading)


def label(name: str) -> str:
    """A field's name as a label: `learning_rate` → Learning rate, `target_l0` → Target L0."""
    words = re.sub(r"\bl(\d)\b", r"L\1", name.replace("_", " "))
    return words if len(words) == 1 else words[0].upper() + words[1:]


def plain(config: TrainingConfig) -> dict[str, Any]:
    """The fields that a configuration sets, as JSON holds them."""
    values = msgspec.json.decode(msgspec.json.encode(config))
    return {name: value for name, value in values.items() if value not in (None, "", [])}


def number(value: float) -> str:
    """A number as it can be typed, without loss: 50000, 0.00027, 1e-7."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return str(int(value))
    return f"{Decimal(repr(value)):f}" if abs(value) >= 1e-6 else repr(value).replace("e-0", "e-")


def words(value: Any) -> str:
    """A field's value as it is read: on, 4,096, 0.00027, one, other."""
    match value:
        case bool():
            return "on" if value else "off"
        case int():
            return f"{value:,}"
        case float():
            return number(value)
        case tuple() | list():
            return ", ".join(map(words, value)) or "none"
        case dict():
            return "{" + ", ".join(f"{name}: {words(one)}" for name, one in value.items()) + "}"
        case _:
            return str(value)


def _field(field: msgspec.structs.FieldInfo) -> Field:
    about = next(one for one in get_args(field.type)[1:] if isinstance(one, msgspec.Meta) and one.description)
    extra = about.extra or {}
    kind, options, whole = _kind(inspect.type_info(field.type))
    # The inspection sorts what a Literal allows; its own order says which come first.
    options = tuple(one for one in _literals(field.type) if one in options) or options
    default = extra.get("default") or ""
    if not default and field.default not in (msgspec.NODEFAULT, None, "", ()):
        default = ("on" if field.default else "off") if isinstance(field.default, bool) else str(field.default)
    return Field(
        name=field.name,
        label=label(field.name),
        help=about.description or "",
        unit=extra.get("unit") or "",
        default=default,
        group=extra["group"],
        advanced=extra["advanced"],
        kind=kind,
        only=extra.get("only"),
        reading=extra.get("reading"),
        options=options,
        whole=whole,
    )


def _literals(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(one for part in get_args(annotation) for one in _literals(part))


def _kind(info: inspect.Type) -> tuple[Kind, tuple[str, ...], bool]:
    match info:
        case inspect.Metadata(type=inner):
            return _kind(inner)
        case inspect.UnionType(types=types):
            kind, options, whole = _kind(next(one for one in types if not isinstance(one, inspect.NoneType)))
            # A boolean with a third state, the default, is a choice.
            return ("choice", ("true", "false"), False) if kind == "switch" else (kind, options, whole)
        case inspect.BoolType():
            return "switch", (), False
        case inspect.LiteralType(values=values):
            return "choice", tuple(map(str, values)), False
        case inspect.IntType():
            return "number", (), True
        case inspect.FloatType():
            return "number", (), False
        case inspect.VarTupleType(item_type=inspect.DictType()):
            return "json", (), False
        case inspect.VarTupleType(item_type=item):
            kind, options, whole = _kind(item)
            if kind == "choice":
                return "choices", options, False
            return ("numbers" if kind == "number" else "names"), (), whole
        case _:
            return "text", (), False


FIELDS: tuple[Field, ...] = tuple(map(_field, msgspec.structs.fields(TrainingConfig)))
"""Every field, in the configuration's own order."""

BY_NAME: dict[str, Field] = {field.name: field for field in FIELDS}
