"""The list of trainings: what it is asked to show, its rows, and what is to be done with those that are selected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from .. import text
from ..answers import Training
from . import markdown
from .comparison import MOST
from .config_fields import FIELDS, label, words
from .news import Toast, toast
from .trainings import ARCHITECTURES, LABELS, actions, list_row

FILTERS: dict[str, tuple[str, ...]] = {
    "running": ("starting", "running", "pausing", "resuming", "stopping"),
    "queued": ("queued",),
    "paused": ("paused",),
    "interrupted": ("interrupted",),
    "failed": ("failed",),
    "stopped": ("stopped",),
    "completed": ("completed",),
}
"""The list's filters, each with the statuses that it shows: what is on its way counts as running."""

SORTS = ("name", "status", "progress", "model", "architecture", "loss", "l0", "fvu", "dead_latents", "created")
"""What the list can be sorted by; the newest come first where nothing else is asked for."""

SIGNS = {"=": "is", "!=": "is not", "~": "contains", ">=": "≥", "<=": "≤", ">": ">", "<": "<"}
"""How a field can be compared, with the words for it."""

GROUPS = ("status", "tag", "model", "datasets", "architecture_type", "latent_dim", "k", "target_l0", "learning_rate")
"""What rows can be grouped by without looking for it."""

_NEWEST = "-created"
_STEP = 50


class ListView(msgspec.Struct, frozen=True, kw_only=True):
    """What the list is asked to show, as its address says it.

    `where` are conditions on the configuration as the API reads them; `sort` has `-` before it for descending.
    """

    status: str = ""
    q: str = ""
    where: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    group: str = ""
    sort: str = _NEWEST
    limit: int = _STEP

    @classmethod
    def of(cls, route: dict[str, str]) -> ListView:
        """What an address says; whatever cannot be asked for is left at its default."""
        status, group, sort = route.get("status", ""), route.get("group", ""), route.get("sort", _NEWEST)
        return cls(
            status=status if status in FILTERS else "",
            q=route.get("q", ""),
            where=_parts(route.get("where", ""), ";"),
            tags=tuple(map(unquote, _parts(route.get("tags", ""), ","))),
            group=group if group in groups() else "",
            sort=sort if sort.removeprefix("-") in SORTS else _NEWEST,
        )

    def route(self) -> dict[str, str]:
        """The address that asks for this."""
        return {
            "status": self.status,
            "q": self.q,
            "where": ";".join(self.where),
            # What stands between tags may stand in them too.
            "tags": ",".join(quote(tag, safe=" :/#()<>") for tag in self.tags),
            "group": self.group,
            "sort": "" if self.sort == _NEWEST else self.sort,
        }

    @property
    def statuses(self) -> tuple[str, ...]:
        """The statuses that the filter lets through; empty for all."""
        return FILTERS.get(self.status, ())

    @property
    def searching(self) -> bool:
        """Whether anything may be left out."""
        return bool(self.status or self.q or self.where or self.tags)


def _parts(said: str, between: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in said.split(between) if part.strip()))


def groups() -> dict[str, str]:
    """What rows can be grouped by, with the words for it."""
    return {"status": "Status", "tag": "Tag"} | {field.name: field.label for field in FIELDS}


def condition(said: str) -> str:
    """A condition in words: `latent_dim>=4096` → Latent dim ≥ 4096."""
    for sign in sorted(SIGNS, key=len, reverse=True):
        name, found, value = said.partition(sign)
        if found and name.strip().isidentifier():
            return f"{label(name.strip())} {SIGNS[sign]} {value.strip()}"
    return said


def list_page(
    view: ListView,
    trainings: Sequence[Training],
    counts: dict[str, int],
    now: float | None = None,
    *,
    tags: dict[str, int] | None = None,
    selected: Sequence[str] = (),
) -> dict[str, Any]:
    """The whole list: its rows, and its filters with true counts. `tags` are those in use, with how many have each."""
    total = sum(counts.values())
    filters = [{"key": "", "label": "All", "count": total}]
    for key, statuses in FILTERS.items():
        number = sum(counts.get(status, 0) for status in statuses)
        if number or key == view.status:
            filters.append({"key": key, "label": LABELS[key], "count": number})
    matching = next(entry["count"] for entry in filters if entry["key"] == view.status)
    chosen = [training for training in trainings if training.id in selected]
    common = [{"value": name, "label": groups()[name]} for name in GROUPS]
    if view.group and view.group not in GROUPS:
        common.append({"value": view.group, "label": groups()[view.group]})
    return {
        "rows": [
            list_row(training, now)
            | {"selected": training.id in selected, "group": group_of(training, view.group) if view.group else ""}
            for training in trainings
        ],
        "filters": filters,
        "status": view.status,
        "q": view.q,
        "where": [{"said": said, "label": condition(said)} for said in view.where],
        "tags": [
            {"tag": tag, "count": number, "on": tag in view.tags}
            for tag, number in {**dict.fromkeys(view.tags, 0), **(tags or {})}.items()
        ],
        "group": view.group,
        "groups": [{"value": "", "label": "nothing"}, *common],
        "fields": [{"name": field.name, "label": field.label, "options": list(field.options)} for field in FIELDS],
        "signs": [{"sign": sign, "label": said} for sign, said in SIGNS.items()],
        "sort": view.sort,
        "matching": matching,
        "searching": view.searching,
        "selection": selection(chosen),
    }


def group_of(training: Training, group: str) -> str:
    """What a row is grouped under, in words."""
    if group == "status":
        return LABELS.get(training.status, training.status)
    if group == "tag":
        return training.tags[0] if training.tags else "no tag"
    value = getattr(training.config, group, None)
    if group == "architecture_type":
        # As the rows below call it.
        value = ARCHITECTURES.get(value or "", value)
    return words(value) if value not in (None, (), "") else "not set"


# What is done with several at once

_OFFERED = {"pause": "Pause", "resume": "Resume", "stop": "Stop", "tag": "Tag", "delete": "Delete"}

_DONE = {
    "pause": "pausing",
    "resume": "resuming",
    "stop": "stopping",
    "delete": "deleted",
    "tag": "tagged",
    "untag": "untagged",
}

_QUESTIONS = {
    "pause": "Pause {}? Each saves a checkpoint first.",
    "resume": "Resume {} from the newest checkpoint?",
    "stop": "Stop {}? Each saves a checkpoint first.",
    "delete": "Delete {}? Checkpoints are removed from disk for good; the events stay in the log.",
    "tag": "Tag {}",
}

_BUTTONS = {"pause": "Pause", "resume": "Resume", "stop": "Stop", "delete": "Delete for good", "tag": "Add tag"}


@dataclass(frozen=True)
class Plan:
    """What an action on several trainings would touch, and what it would not, with the reason."""

    action: str
    does: tuple[Training, ...]
    skips: tuple[tuple[Training, str], ...]


def plan(action: str, chosen: Sequence[Training]) -> Plan:
    """What `action` (pause, resume, stop, delete, tag) would touch of those that are chosen."""
    does = tuple(one for one in chosen if _allowed(action, one))
    skips = tuple((one, f"is {LABELS.get(one.status, one.status).lower()}") for one in chosen if one not in does)
    return Plan(action=action, does=does, skips=skips)


def narrowed(planned: Plan, shown: Sequence[Training]) -> Plan | None:
    """The same without what is not shown any more; None where nothing is left of it."""
    ids = {training.id for training in shown}
    does = tuple(one for one in planned.does if one.id in ids)
    skips = tuple((one, why) for one, why in planned.skips if one.id in ids)
    return Plan(action=planned.action, does=does, skips=skips) if does else None


def _allowed(action: str, training: Training) -> bool:
    return action == "tag" or any(button["name"] == action and button["enabled"] for button in actions(training))


def selection(chosen: Sequence[Training]) -> dict[str, Any] | None:
    """What can be done with those that are selected; None where none is."""
    if not chosen:
        return None
    ids = ",".join(quote(one.id, safe="") for one in chosen)
    buttons: list[dict[str, Any]] = []
    for action, said in (
        ("pause", "Pause"),
        ("resume", "Resume"),
        ("stop", "Stop"),
        ("tag", "Tag"),
        ("delete", "Delete"),
    ):
        number = len(plan(action, chosen).does)
        if number:
            count = f" {number}" if number < len(chosen) else ""
            buttons.append({"name": action, "label": f"{said}{count}…", "tone": "danger" if action == "delete" else ""})
    return {
        "label": f"{len(chosen)} selected",
        "compare": f"?page=compare&ids={ids}" if len(chosen) <= MOST else "",
        "compare_title": "Beside each other" if len(chosen) <= MOST else f"At most {MOST} can be compared",
        "export": f"export.html?training={ids}" if len(chosen) <= MOST else "",
        "actions": buttons,
    }


def question(planned: Plan) -> dict[str, Any]:
    """What a person is asked before anything is done: every training by its name."""
    return {
        "action": planned.action,
        "text": _QUESTIONS[planned.action].format(number_of(len(planned.does))),
        "button": _BUTTONS[planned.action],
        "danger": planned.action in ("delete", "stop"),
        "does": [{"id": one.id, "name": one.name or one.id} for one in planned.does],
        "skips": [{"name": one.name or one.id, "why": why} for one, why in planned.skips],
        "tags": sorted({tag for one in planned.does for tag in one.tags}) if planned.action == "tag" else [],
    }


def number_of(trainings: int) -> str:
    """A number of trainings in words."""
    return f"{text.count(trainings)} training{'' if trainings == 1 else 's'}"


def tab_title(counts: dict[str, int]) -> str:
    """What the list's tab is called: how many of what it finds are running."""
    running = sum(counts.get(status, 0) for status in FILTERS["running"])
    return f"{text.count(running)} running" if running else "Trainings"


def unfolded(trainings: Sequence[Training], id: str) -> dict[str, Any] | None:
    """Name and note of the training that is looked at below its row; None where it is not shown."""
    found = next((one for one in trainings if one.id == id), None)
    if found is None:
        return None
    return {"id": id, "name": found.name or id, "note": found.note, "tree": markdown.tree(found.note)}


def outcome(action: str, done: Sequence[str], refused: Sequence[tuple[str, str]]) -> Toast:
    """What became of an action: how many it was done to, and every one that was refused, with the reason."""
    said = f"{number_of(len(done))} {_DONE[action]}." if done else "Nothing was done."
    reasons = " ".join(f"{name}: {why}" for name, why in refused)
    return toast("warn", said, f"Refused: {reasons}") if refused else toast("plain", said)


def not_described(name: str, problem: str) -> Toast:
    """That the name or note of the training called `name` was not saved, where the form that would say so is gone."""
    return toast("warn", f"Name and note of {name} were not saved", problem)
