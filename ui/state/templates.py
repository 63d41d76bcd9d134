"""The list of templates: what it is asked to show, its rows, and what they can be filtered by."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from events.training import TrainingConfig

from .. import text
from ..answers import Template
from .activity import who
from .trainings import ARCHITECTURES, last_part, read_from

SORTS = {
    "": "Favourites first",
    "name": "Name",
    "-name": "Name, from Z to A",
    "-updated": "Changed last",
    "-created": "Newest",
    "created": "Oldest",
}
"""What the list can be sorted by, with the words for it."""

EXPORT = "api/v1/templates/export"
"""Where the browser gets the document of all templates, or of those that `ids` names."""

_ALL = {"architecture": "All architectures", "model": "All models", "dataset": "All data sets"}


class TemplatesView(msgspec.Struct, frozen=True, kw_only=True):
    """What the list is asked to show, as its address says it; empty stands for everything."""

    q: str = ""
    sort: str = ""
    architecture: str = ""
    model: str = ""
    dataset: str = ""

    @classmethod
    def of(cls, route: dict[str, str]) -> TemplatesView:
        """What an address says; an order that there is not is the usual one."""
        sort = route.get("sort", "")
        wanted = {name: route.get(name, "") for name in ("q", *_ALL)}
        return cls(sort=sort if sort in SORTS else "", **wanted)

    def route(self) -> dict[str, str]:
        """The address that asks for this."""
        return {"page": "templates", **msgspec.to_builtins(self)}

    @property
    def searching(self) -> bool:
        """Whether anything may be left out."""
        return bool(self.q or self.architecture or self.model or self.dataset)

    def finds(self, template: Template) -> bool:
        """Whether the filters let it through."""
        tags = _tags(template.config)
        return all(not (wanted := getattr(self, kind)) or (kind, wanted) in tags for kind in _ALL)


def _tags(config: TrainingConfig) -> list[tuple[str, str]]:
    """What a template can be found by, each with its kind."""
    tags = [("architecture", config.architecture_type)]
    if place := read_from(config):
        tags.append(("model", place))
    return tags + [("dataset", one) for one in config.datasets]


def _label(kind: str, key: str) -> str:
    return ARCHITECTURES.get(key, key) if kind == "architecture" else last_part(key)


def template_row(template: Template, now: float | None = None, *, selected: bool = False) -> dict[str, Any]:
    """A line of the list, everything in it ready to be shown."""
    now = time.time() if now is None else now
    changed = f"Changed {text.duration(max(0.0, now - template.updated_at / 1e6))} ago"
    if template.updated_by:
        changed += f" by {who(template.updated_by)}"
    return {
        "id": template.id,
        "name": template.name,
        "description": template.description,
        "favourite": template.favourite,
        "tags": [{"kind": kind, "key": key, "label": _label(kind, key)} for kind, key in _tags(template.config)],
        "changed": changed,
        "selected": selected,
    }


def templates_page(
    view: TemplatesView, templates: Sequence[Template], now: float | None = None, *, selected: Collection[str] = ()
) -> dict[str, Any]:
    """The whole list; `templates` are those that the search finds, the filters choose among them."""
    shown = [template for template in templates if view.finds(template)]
    return {
        "rows": [template_row(template, now, selected=template.id in selected) for template in shown],
        "q": view.q,
        "sort": view.sort,
        "sorts": list(SORTS.items()),
        "filters": [_filter(kind, view, templates) for kind in _ALL],
        "searching": view.searching,
        "selection": _selection([template.id for template in shown if template.id in selected]),
    }


def _filter(kind: str, view: TemplatesView, templates: Sequence[Template]) -> dict[str, Any]:
    """A choice among the tags of one kind, the most frequent first; what is chosen is among them in any case."""
    chosen = getattr(view, kind)
    counts = Counter(key for template in templates for of, key in _tags(template.config) if of == kind)
    if chosen:
        counts.setdefault(chosen, 0)
    options = [[key, f"{_label(kind, key)} ({count})"] for key, count in counts.most_common()]
    return {"kind": kind, "chosen": chosen, "options": [["", _ALL[kind]], *options]}


def _selection(ids: Sequence[str]) -> dict[str, Any] | None:
    if not ids:
        return None
    return {"label": f"{len(ids)} selected", "export": f"{EXPORT}?ids={','.join(ids)}"}
