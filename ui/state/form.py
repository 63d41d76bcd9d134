"""The new-training form: what is typed, which template is loaded, and what the server says of it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from events.catalog import DatasetRegistered, ModelRegistered
from events.training import TrainingConfig

from .. import text
from ..answers import Check, Device, Template
from .config_fields import BY_NAME, FIELDS, GROUPS, Field, number, plain
from .trainings import ARCHITECTURES

Input = str | bool | list[str]
"""What a field holds as it is typed; empty text and an empty list stand for the default."""

READING = "reading"
"""The input that says whether a model reads text or activations lie in a folder; no field of a configuration."""

_DEFAULTS = TrainingConfig()

_LISTS = ("choices", "numbers", "names")

_KEY_DEFAULTS = (
    "hidden_dim",
    "latent_dim",
    "learning_rate",
    "training_layers",
    "k",
    "target_l0",
    "initial_threshold",
    "bandwidth",
)
"""Defaults that a template's name and description tell although nobody typed them."""

_FITS = 12
"""Characters that the narrowest field, on a phone, has room for."""

_GONE = "This template does not exist any more"

_THOUSANDS = re.compile(r"^\d{1,3}(,\d{3})+(\.\d+)?$")
_SUFFIXES = {"k": 1e3, "M": 1e6, "G": 1e9}


def fits(template: TrainingConfig, model: str, datasets: Collection[str], activations: str = "") -> bool:
    """Whether a template is for the chosen model and data sets, or folder of activations: it names none of its own,
    the same, or none is chosen yet."""
    if activations:
        return not template.model and not template.datasets and template.activations in (None, "", activations)
    if template.activations:
        return not model and not datasets
    return (not template.model or not model or template.model == model) and (
        not template.datasets or not datasets or set(template.datasets) == set(datasets)
    )


def typed(field: Field, value: Any) -> Input:
    """A configuration's value as the form shows it; None is the empty input."""
    if field.kind in _LISTS:
        return [number(item) if field.kind == "numbers" else str(item) for item in value or ()]
    if field.kind == "switch":
        return bool(value)
    if value is None:
        return ""
    if field.kind == "json":
        return json.dumps(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return number(value) if field.kind == "number" else str(value)


def value_of(field: Field, raw: Input) -> Any:
    """What is typed as a configuration's value, None where it is empty.

    Text that is no number stays text, so that the server says what is allowed.
    """
    if field.kind == "switch":
        return bool(raw)
    if isinstance(raw, list):
        items = [item.strip() for item in raw if item.strip()]
        if not items:
            return None
        return [_number(item, field.whole) for item in items] if field.kind == "numbers" else items
    stripped = str(raw).strip()
    if not stripped:
        return None
    if field.kind == "number":
        return _number(stripped, field.whole)
    if field.kind == "json":
        try:
            return json.loads(stripped)
        except ValueError:
            return stripped
    if field.kind == "choice" and field.options == ("true", "false"):
        return stripped == "true"
    return stripped


def _number(raw: str, whole: bool) -> Any:
    plain_text = raw.replace(",", "") if _THOUSANDS.match(raw) else raw
    factor = _SUFFIXES.get(plain_text[-1:], 1.0)
    try:
        if whole and plain_text.isascii() and plain_text.isdigit():
            return int(plain_text)
        value = float(plain_text[:-1] if factor != 1 else plain_text) * factor
        return int(value) if whole and value == int(value) else value
    except (ValueError, OverflowError):
        return raw


class Form:
    """The form of one tab. Nothing here asks or draws: the page does."""

    def __init__(self) -> None:
        self.inputs: dict[str, Input] = {}
        self.name = ""
        self.advanced = False
        self.notice = ""
        self.models: tuple[ModelRegistered, ...] = ()
        self.datasets: tuple[DatasetRegistered, ...] = ()
        self.devices: tuple[Device, ...] = ()
        self.inspected: ModelRegistered | None = None
        self.check: Check | None = None
        self.revision = 0
        """Counts changes of the configuration, so that an answer can be told to be about an older one."""
        self._templates: dict[str, Template] = {}
        self._have_templates = False
        self._loaded: Template | None = None
        self._wanted: str | None = None
        self._set_aside: dict[str, Input] = {}
        self._touched: set[str] = set()
        self._tried = False
        self.use(TrainingConfig())

    # What a person does

    def edit(self, name: str, raw: Input) -> bool:
        """A field was changed; False where there is no such field or it cannot hold this."""
        if not _can_hold(name, raw):
            return False
        if raw == self.inputs[name]:
            return True
        self.inputs[name] = raw
        self._touched.add(name)
        self.revision += 1
        if name in ("architecture_type", READING):
            self._set_aside_what_does_not_apply()
        if name == "model":
            # The width belongs to the model.
            self.inputs["hidden_dim"] = ""
        if name in ("model", "datasets", "activations", READING):
            self._let_go_of_what_does_not_fit()
        return True

    def load(self, template_id: str) -> bool:
        """Fill the form with every field of a template; False where there is none."""
        template = self._templates.get(template_id)
        if template is None:
            self.notice = _GONE
            return False
        self.use(template.config)
        self._loaded = template
        return True

    def use(self, config: TrainingConfig) -> None:
        """Fill the form with every field of a configuration; no template is loaded then."""
        self.inputs = {field.name: typed(field, getattr(config, field.name)) for field in FIELDS}
        self.inputs[READING] = "folder" if config.activations else "text"
        self._set_aside = {}
        self._touched = set()
        self._tried = False
        self._loaded = None
        self.notice = ""
        self.check = None
        self.revision += 1

    def revert(self) -> None:
        """Undo what was changed since the template was loaded."""
        if self._loaded is not None:
            self.load(self._loaded.id)

    def unload(self) -> None:
        """Empty the selection and leave the form as it is."""
        self._loaded = None
        self.notice = ""

    def try_to_start(self) -> None:
        """From now on what is missing is a problem too."""
        self._tried = True

    # What comes from elsewhere

    def take_templates(self, templates: Sequence[Template]) -> None:
        """The templates as they are now: the loaded one may have been renamed, edited or deleted by somebody."""
        self._templates = {template.id: template for template in templates}
        self._have_templates = True
        if self._wanted is not None:
            self._loaded = self._templates.get(self._wanted)
            self.notice = "" if self._loaded else _GONE
            self._wanted = None
        elif self._loaded is not None:
            now = self._templates.get(self._loaded.id)
            if now is None:
                self.notice = f"{self._loaded.name} was deleted"
            self._loaded = now
        self._let_go_of_what_does_not_fit()

    def take_check(self, check: Check, revision: int) -> None:
        """The server's answer to the configuration of `revision`; one to an older configuration is dropped."""
        if revision == self.revision:
            self.check = check

    def saved_as(self, template: Template) -> None:
        """What is typed is a template now."""
        self._templates[template.id] = template
        self._loaded = template
        self.notice = ""

    # What it says

    @property
    def template(self) -> Template | None:
        """The template that is loaded."""
        return self._loaded

    @property
    def model(self) -> str:
        """The model that is chosen; empty for none."""
        return str(self.inputs["model"]).strip()

    @property
    def facts(self) -> ModelRegistered | None:
        """What is known of the chosen model."""
        candidates = (*self.models, *((self.inspected,) if self.inspected is not None else ()))
        return next((one for one in candidates if self.model in (one.model_id, one.source)), None)

    def config(self) -> dict[str, Any]:
        """The configuration as typed, without what is left to its default."""
        values = {field.name: value_of(field, self.inputs[field.name]) for field in FIELDS}
        return {name: value for name, value in values.items() if value is not None}

    def to_save(self) -> dict[str, Any]:
        """The configuration as a template keeps it: with the width of its model."""
        config, facts = self.config(), self.facts
        return config if facts is None else {"hidden_dim": facts.hidden_dim, **config}

    def to_describe(self, check: Check | None = None) -> dict[str, Any]:
        """The configuration with the defaults that a description should tell, as a check of it has named them."""
        defaults = plain(check.config) if check is not None and check.config is not None else {}
        told = {name: _rounded(defaults[name]) for name in _KEY_DEFAULTS if name in defaults}
        return {**told, **self.to_save()}

    def changed(self) -> list[str]:
        """The fields that differ from the loaded template, by their labels."""
        if self._loaded is None:
            return []
        then, now = plain(self._loaded.config), self.config()
        if "hidden_dim" not in then or "hidden_dim" not in now:
            # Left open, the width is the model's: saying so or not is the same.
            then.pop("hidden_dim", None)
            now.pop("hidden_dim", None)
        return [field.label for field in FIELDS if then.get(field.name) != now.get(field.name)]

    def hint(self) -> dict[str, Any]:
        """The line below the template selection."""
        if self._loaded is None:
            return {"text": self.notice, "title": "", "revert": False}
        hint, changed = f"Loaded: {self._loaded.name}", self.changed()
        if changed:
            hint += f" · {len(changed)} field{'s' if len(changed) > 1 else ''} changed"
        return {"text": hint, "title": ", ".join(changed), "revert": bool(changed)}

    def _applies(self, field: Field) -> bool:
        return field.applies_to(str(self.inputs["architecture_type"]), str(self.inputs[READING]))

    def _says_something(self, field: Field) -> bool:
        """Whether a field applies, or holds what is not its default all the same."""
        return self._applies(field) or self.inputs[field.name] != typed(field, default_of(field))

    def draft(self) -> dict[str, Any]:
        """What the browser keeps for a reload."""
        loaded = self._loaded.id if self._loaded is not None else self._wanted
        return {
            "inputs": self.inputs,
            "aside": self._set_aside,
            "name": self.name,
            "advanced": self.advanced,
            "template": loaded,
        }

    def restore(self, draft: Any) -> bool:
        """Take a draft back; False where it is none."""
        if not isinstance(draft, Mapping) or not isinstance(draft.get("inputs"), Mapping):
            return False
        self.use(TrainingConfig())
        self.inputs |= _held(draft["inputs"])
        self._set_aside = _held(draft.get("aside"))
        self.name = str(draft.get("name") or "")[:255]
        self.advanced = bool(draft.get("advanced"))
        template = draft.get("template")
        if isinstance(template, str):
            self.expect(template)
        return True

    def expect(self, template_id: str) -> None:
        """The form holds what was loaded from this template before a reload."""
        if self._have_templates:
            self._loaded = self._templates.get(template_id)
        else:
            self._wanted = template_id

    # What is seen

    def problems(self) -> dict[str, str]:
        """What is wrong, one sentence a field. What is merely not chosen yet is no problem before a start."""
        found: dict[str, str] = {}
        for problem in self.check.problems if self.check is not None else ():
            field = problem.field.removeprefix("config.")
            empty = value_of(BY_NAME[field], self.inputs[field]) is None if field in BY_NAME else False
            if not empty or self._tried or field in self._touched:
                found.setdefault(field, problem.message)
        return found

    def view(self) -> dict[str, Any]:
        """Everything that the form shows."""
        problems = self.problems()
        return {
            "template": self._template_view(),
            "name": self.name,
            "advanced": self.advanced,
            "groups": self._groups(problems),
            "problems": [{"field": self._place(field), "text": said} for field, said in problems.items()],
            "missing": self._missing(),
            "warnings": [
                {"field": self._place(one.field), "text": one.message}
                for one in (self.check.warnings if self.check is not None else ())
            ],
            "needs": self._needs(),
        }

    def _place(self, said: str) -> str:
        """The field that a problem leads to; empty where none is shown."""
        field = BY_NAME.get(said.removeprefix("config."))
        return field.name if field is not None and self._says_something(field) else ""

    def _template_view(self) -> dict[str, Any]:
        fitting = [one for one in self._templates.values() if fits(one.config, *self._chosen())]
        others = [one for one in self._templates.values() if one not in fitting]
        return {
            "selected": self._loaded.id if self._loaded is not None else "",
            "placeholder": f"Select a template… ({len(fitting)} available)",
            "fitting": [[one.id, one.name] for one in fitting],
            "others": [[one.id, one.name] for one in others],
            "hint": self.hint(),
            "loaded": self._loaded.name if self._loaded is not None else "",
        }

    def _groups(self, problems: Mapping[str, str]) -> list[dict[str, Any]]:
        groups = {key: {"key": key, "title": title, "fields": []} for key, title in GROUPS.items()}
        groups["data"]["fields"].append(self._reading_view())
        for field in FIELDS:
            if not self._says_something(field):
                continue
            groups[field.group]["fields"].append(self._field_view(field, problems.get(field.name, "")))
        return list(groups.values())

    def _reading_view(self) -> dict[str, Any]:
        """The choice that is no field of a configuration: which fields a person fills in follows from it."""
        return {
            "name": READING,
            "label": "Train on",
            "help": "The activations of a language model that reads text, or those that lie in a folder already.",
            "unit": "",
            "kind": "choice",
            "advanced": False,
            "value": self.inputs[READING],
            "placeholder": "",
            "problem": "",
            "options": [["text", "what a language model reads"], ["folder", "a folder of activations"]],
            "note": "",
        }

    def _field_view(self, field: Field, problem: str) -> dict[str, Any]:
        facts = self.facts
        shown: dict[str, Any] = {
            "name": field.name,
            "label": field.label,
            "help": field.help,
            "unit": field.unit,
            "kind": "text" if field.kind == "json" else field.kind,
            "advanced": field.advanced,
            "value": self.inputs[field.name],
            "placeholder": self._placeholder(field),
            "problem": problem,
            "options": [[option, option] for option in field.options],
            "note": f"default: {field.default}" if _long_rule(field) else "",
        }
        match field.name:
            case "model":
                shown |= {"suggestions": [[one.model_id, one.title] for one in self.models]}
                shown["placeholder"] = "a registered model, a hub id or a folder"
                if facts is not None:
                    shown["note"] = f"{facts.layers} layers of width {facts.hidden_dim:,}"
            case "activations":
                shown["placeholder"] = "a folder on the server's machine"
            case "datasets":
                shown |= {"suggestions": [[one.dataset_id, one.title] for one in self.datasets]}
                shown["placeholder"] = "a registered data set, a hub id or a path"
            case "architecture_type":
                shown["options"] = [[name, ARCHITECTURES[name]] for name in field.options]
            case "training_layers" if facts is not None:
                shown |= {"kind": "choices", "options": [[str(layer), str(layer)] for layer in range(facts.layers)]}
            case "hook_types" if facts is not None:
                shown["options"] = [[hook, hook] for hook in facts.hooks]
            case "target_hook_type" if facts is not None:
                shown["options"] = [["", self._placeholder(field)], *([hook, hook] for hook in facts.hooks)]
            case "hidden_dim" if facts is not None:
                shown |= {"placeholder": str(facts.hidden_dim), "note": "the model's own"}
            case "device":
                names = dict.fromkeys(["auto", "cpu", *(device.id for device in self.devices), self.inputs["device"]])
                shown |= {"kind": "choice", "options": [[str(name), str(name)] for name in names]}
            case _ if field.kind == "choice" and field.options == ("true", "false"):
                shown["options"] = [["", self._placeholder(field)], ["true", "on"], ["false", "off"]]
            case _ if field.kind == "choice" and field.default and typed(field, None) == "" and _optional(field):
                shown["options"] = [["", self._placeholder(field)], *shown["options"]]
            case _:
                pass
        return shown

    def _placeholder(self, field: Field) -> str:
        """What is taken where nothing is typed: the value that the server has named, else the rule in words."""
        config = self.check.config if self.check is not None else None
        value = getattr(config, field.name, None)
        if field.name in ("training_layers", "hook_types") and self.inputs[READING] == "folder":
            return "not told"
        if value is None or value == ():
            if field.kind in ("number", "text"):
                return "" if _long_rule(field) else field.default
            return f"default: {field.default}" if field.default else ""
        shown = typed(field, _rounded(value))
        if isinstance(shown, list):
            return ", ".join(shown)
        return f"default: {shown}" if field.kind == "choice" else str(shown)

    def _missing(self) -> list[str]:
        wanted = ("activations",) if self.inputs[READING] == "folder" else ("model", "datasets")
        return [name for name in wanted if value_of(BY_NAME[name], self.inputs[name]) is None]

    def _needs(self) -> list[dict[str, Any]]:
        """What a start would need, each with what there is."""
        estimate = self.check.estimate if self.check is not None else None
        if estimate is None:
            return []
        device = self._device()
        free = device.memory_free if device is not None else None
        memory = {"label": "Memory", "value": text.size(estimate.memory_bytes), "note": "", "share": None}
        if device is not None and free:
            memory["note"] = f"of {text.size(free)} free on {device.name or device.id}"
            memory["share"] = estimate.memory_bytes / free
        seconds = estimate.seconds
        disk = {"label": "Disk", "value": text.size(estimate.disk_bytes), "note": "for the cache", "share": None}
        return [
            memory,
            *([disk] if estimate.disk_bytes else []),
            {"label": "Tokens", "value": text.short(estimate.tokens), "note": "read in all", "share": None},
            {"label": "Weights", "value": text.short(estimate.parameters), "note": "to be trained", "share": None},
            {
                "label": "Time",
                "value": text.about(seconds) if seconds is not None else text.NOTHING,
                "note": "as fast as the newest training here" if seconds is not None else "known after a first run",
                "share": None,
            },
        ]

    def _device(self) -> Device | None:
        """The device that the training would run on: the one it names, or what `auto` takes."""
        wanted = str(self.inputs["device"])
        gpus = sorted((one for one in self.devices if one.kind != "cpu"), key=lambda one: -(one.memory_free or 0))
        if wanted in ("auto", "cuda"):
            return next(iter(gpus), None) or next((one for one in self.devices if one.kind == "cpu"), None)
        return next((one for one in self.devices if one.id == wanted), None)

    def _chosen(self) -> tuple[str, list[str], str]:
        """Model, data sets and folder of activations, as far as they are chosen."""
        datasets = self.inputs["datasets"]
        assert isinstance(datasets, list)
        return self.model, datasets, str(self.inputs["activations"]).strip()

    # What follows from a change

    def _set_aside_what_does_not_apply(self) -> None:
        """Keep what was typed for another architecture, or source, out of the way until it is chosen again."""
        for field in FIELDS:
            if self._applies(field):
                if field.name in self._set_aside:
                    self.inputs[field.name] = self._set_aside.pop(field.name)
            elif self._says_something(field):
                self._set_aside[field.name] = self.inputs[field.name]
                self.inputs[field.name] = typed(field, default_of(field))

    def _let_go_of_what_does_not_fit(self) -> None:
        template = self._loaded
        model, datasets, activations = self._chosen()
        if template is None or fits(template.config, model, datasets, activations):
            return
        other_model = not fits(template.config, model, ())
        meant = template.config.model if other_model else ", ".join(template.config.datasets)
        if activations or template.config.activations:
            meant = template.config.activations or "what a language model reads"
        self.notice = f"{template.name} no longer applies: it is for {meant}"
        self._loaded = None


def default_of(field: Field) -> Any:
    """What a configuration holds where the field is left out."""
    return getattr(_DEFAULTS, field.name)


def _rounded(value: Any) -> Any:
    """A default in three digits, as one would type it."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _held(draft: Any) -> dict[str, Input]:
    """What of a draft can be typed into the fields of that name."""
    return {name: raw for name, raw in draft.items() if _can_hold(name, raw)} if isinstance(draft, Mapping) else {}


def _can_hold(name: Any, raw: Any) -> bool:
    """Whether there is such a field and this can be typed into it."""
    if name == READING:
        return raw in ("text", "folder")
    if name not in BY_NAME or type(raw) is not type(typed(BY_NAME[name], None)):
        return False
    return not isinstance(raw, list) or all(isinstance(item, str) for item in raw)


def _long_rule(field: Field) -> bool:
    """Whether the default is a rule that a narrow field would cut: it stands below the field then."""
    return field.kind in ("number", "text") and len(field.default) > _FITS


def _optional(field: Field) -> bool:
    """Whether a field may be left out."""
    return getattr(TrainingConfig(), field.name) is None
