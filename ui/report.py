"""Runs in one file that opens anywhere: their charts, what they are worth, their configuration, the end of their logs.

The file is drawn by the page's own components, with views that do not change any more. Everything that comes from
elsewhere is in two blocks of JSON, which the components turn into text nodes and attributes; a policy in the file
itself keeps it from asking for anything.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from bokeh.document import Document
from bokeh.embed.util import standalone_docs_json_and_render_items
from bokeh.resources import Resources

from events.training import TrainingConfig

from . import text, theme
from .answers import Evaluation, History, LogLine, Training
from .charts.analysis import Densities, Frontier
from .charts.compare import FADED, CompareCharts
from .charts.grid import grid
from .charts.live import Choices, LiveCharts
from .components.card import Card
from .components.compare_table import CompareTable
from .components.component import Component, script, style
from .components.evaluation import EvaluationView
from .components.section import Section
from .state import comparison, evaluations, hyperparameters
from .state.compare_asked import Asked
from .state.comparison import Result
from .state.trainings import alert, card, sae_labels, target_l0
from .steps import Steps

LONGEST_LINE = 2_000
"""Characters of a log line that are kept."""

_COMPONENTS: dict[str, type[Component] | str] = {
    "card": Card,
    "evaluation": EvaluationView,
    "section": Section,
    "table": CompareTable,
    "log": "report_log",
    "legend": "report_legend",
}
"""What draws each part of the file: a component of the pages, or a script and style of its own."""

_FOLDER = Path(__file__).parent / "components"

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:;"
    " base-uri 'none'; form-action 'none'"
)
"""Charts and the formats of their ticks are scripts of this file; nothing is asked of anybody."""


@dataclass(frozen=True)
class Exported:
    """What is known of a run."""

    training: Training
    history: History
    evaluations: Sequence[Evaluation] = ()
    lines: Sequence[LogLine] = ()
    position: int = 0


@dataclass
class _Parts:
    """What the file holds, from top to bottom: components with their views, and rows of figures."""

    shown: list[dict[str, Any]] = field(default_factory=list)
    document: Document = field(default_factory=Document)
    figures: list[Any] = field(default_factory=list)

    def add(self, component: str, view: dict[str, Any]) -> None:
        self.shown.append({"component": component, "view": view})

    def add_figures(self, title: str, figures: Sequence[Any], columns: int = 3) -> None:
        for figure in figures:
            self.document.add_root(figure)
        first = len(self.figures)
        self.figures += figures
        places = list(range(first, len(self.figures)))
        self.shown.append({"component": "figures", "title": title, "figures": places, "columns": columns})


def title_of(runs: Sequence[Exported]) -> str:
    """What a file of these runs is called."""
    if len(runs) == 1:
        return runs[0].training.name or runs[0].training.id
    return f"{len(runs)} runs compared"


def render(runs: Sequence[Exported], asked: Asked | None = None, *, now: float | None = None) -> bytes:
    """The file of one run, or of several side by side, in the slots and with the SAEs that are `asked` for."""
    now = time.time() if now is None else now
    asked = asked or Asked(slots=tuple(run.training.id for run in runs))
    parts = _Parts()
    title = title_of(runs)
    if len(asked.ids) == 1 and not asked.own:
        _one(parts, runs[0], now)
    else:
        title = _several(parts, runs, asked, now)
    said = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    about = f"Exported {said}, true at position {text.count(min(run.position for run in runs))} of the log."
    return _html(title, about, parts)


def _one(parts: _Parts, run: Exported, now: float) -> None:
    training = run.training
    labels = sae_labels(training.saes, len(training.saes))
    worth = evaluations.worth(run.evaluations, labels)
    head = card(training, now, worth)
    # What leads elsewhere, or does something, has no place in a file.
    head["alert"] = alert(training, advice=False)
    head["chips"] = [{name: chip[name] for name in ("label", "title")} for chip in head["chips"]]
    parts.add(
        "card",
        head | {"actions": [], "links": [], "deleting": "", "gone": "", "failed": "", "refusal": "", "loading": False},
    )
    steps, columns = Steps.of(run.history.data, saes=len(training.saes), began=training.started_at)
    if columns["step"]:
        charts = LiveCharts(
            sae_labels(training.saes, steps.saes), columns, Choices(), target_l0=target_l0(training.config),
            title=title_of([run]),
        )  # fmt: skip
        lines = [
            {"label": label, **_line_style(index)} for index, label in enumerate(sae_labels(training.saes, steps.saes))
        ]
        parts.add("legend", {"title": "Metrics", "lines": lines})
        parts.add_figures("Metrics", charts.figures)
    if run.evaluations:
        parts.add(
            "evaluation",
            {
                "summary": evaluations.summary(run.evaluations, training),
                "saes": evaluations.panels(training, run.evaluations, labels, target_l0(training.config)),
                "failed": "",
                "waiting": "",
                "bones": 0,
                "loading": False,
            },
        )
    if training.config is not None:
        parts.add("section", _hyperparameters(training.config))
    parts.add("log", _log(run, "Log"))


def _several(parts: _Parts, runs: Sequence[Exported], asked: Asked, now: float) -> str:
    """Lines side by side, or one SAE by itself; what all of it is called."""
    by_id = {run.training.id: run for run in runs}
    known = {slot: by_id[id].training for slot, id in asked.ids.items()}
    lines = comparison.lines(known, own=asked.own)
    data: dict[str, Any] = {}
    last: dict[str, Any] = {}
    results: list[Result] = []
    for line in lines:
        run = by_id[line.id]
        training = run.training
        steps, columns = Steps.of(run.history.data, saes=len(training.saes), began=training.started_at)
        config = comparison.config_of(line, training)
        latents = config.latent_dim if config is not None else None
        data[line.key] = comparison.columns(line, columns, steps.saes, latents)
        ends = {name: float(values[-1]) for name, values in data[line.key].items() if len(values)}
        results.append(Result(line=line, run=training, last=ends, evaluations=run.evaluations))
        if columns["step"]:
            last[line.key] = {sae: (columns[f"l0_{sae}"][-1], columns[f"fvu_{sae}"][-1]) for sae in range(steps.saes)}
    heads = [comparison.head(line, by_id[line.id].training) | {"selected": False, "faded": False} for line in lines]
    told = ("key", "label", "colour", "dash", "status", "tone", "selected", "faded")
    legend = [{name: head[name] for name in told} for head in heads]
    title = f"{len(lines)} SAEs of {title_of(runs)}" if len(runs) == 1 else title_of(runs)
    title = lines[0].label if len(lines) == 1 else title
    parts.add("legend", {"title": title, "lines": legend})
    parts.add_figures("Metrics", list(CompareCharts(lines, data, axis="step", log=False).figures.values()))
    table = {"every": None, "note": "", "heads": heads}
    parts.add(
        "table",
        table
        | {
            "title": "What came of them" if len(lines) > 1 else "What came of it",
            "summary": "the best of a row in bold" if len(lines) > 1 else "",
            "rows": comparison.figures(results, now),
        },
    )
    points = comparison.points(results, last)
    histograms = comparison.densities(results)
    views = [Frontier(points, lambda keys: None).figure] if points else []
    if histograms:
        views.append(Densities(lines, histograms).figure)
    if views:
        parts.add_figures("Frontier and densities", views, columns=2)
    configs = [comparison.config_of(result.line, result.run) for result in results]
    if len(configs) > 1:
        rows = comparison.differences(configs)
        note = "" if rows else "Their configurations are the same."
        parts.add("table", table | {"title": "Differences of configuration", "summary": "", "rows": rows, "note": note})
    elif configs[0] is not None:
        parts.add("section", _hyperparameters(configs[0]))
    for run in runs:
        parts.add("log", _log(run, f"Log of {run.training.name or run.training.id}"))
    return title


def _line_style(index: int) -> dict[str, str]:
    colour, dash = theme.line_style(index)
    return {"colour": colour, "dash": dash, "status": "", "tone": ""}


def _hyperparameters(config: TrainingConfig) -> dict[str, Any]:
    return {
        "place": "", "key": "", "title": "Hyperparameters", "open": True, "failed": "", "refusal": "", "loading": False,
        "note": "", "table": None, "more": False,
        "summary": hyperparameters.summary(config, None),
        "groups": hyperparameters.groups(config, ()),
        "tools": [
            {"name": "toml", "label": "Copy as TOML", "copy": hyperparameters.in_toml(config)},
            {"name": "json", "label": "Copy as JSON", "copy": hyperparameters.in_json(config)},
        ],
    }  # fmt: skip


def _log(run: Exported, title: str) -> dict[str, Any]:
    lines = [
        [
            line.timestamp,
            line.level,
            line.logger,
            line.message[:LONGEST_LINE] + "…" * (len(line.message) > LONGEST_LINE),
        ]
        for line in run.lines
    ]
    return {"title": title, "lines": lines}


def _html(title: str, about: str, parts: _Parts) -> bytes:
    documents, items = standalone_docs_json_and_render_items(parts.document, suppress_callback_warning=True)
    places = {str(root.id): index for index, root in enumerate(parts.figures)}
    for item in items:
        for root, id in item.roots.to_json().items():
            parts.figures[places[root]] = str(id)
    page = {
        "title": title,
        "about": about,
        "shown": [
            {**part, "figures": [parts.figures[index] for index in part["figures"]]} if "figures" in part else part
            for part in parts.shown
        ],
        "faded": FADED,
        "colours": {"light": _inks(theme.LIGHT), "dark": _inks(theme.DARK)},
    }
    bokeh = Resources(mode="inline", components=["bokeh"], minified=True).js_raw
    charts = {"docs": documents, "items": [item.to_json() for item in items]} if parts.figures else None
    css = (_FOLDER / "report.css").read_text("utf-8") + grid(".figures.of3", "div", within=".of3 > ")
    for name, colours in (("light", theme.LIGHT), ("dark", theme.DARK)):
        css = css.replace(f"@{name}@", _variables(name, colours))
    scripts = [*(bokeh if parts.figures else ()), _drawers(), (_FOLDER / "report.js").read_text("utf-8")]
    head = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)} · SAE Studio</title><style>{css}</style></head>
<body><main id="page"></main><noscript>The charts and tables of this file are drawn by its scripts.</noscript>
<script type="application/json" id="shown">{_json(page)}</script>
<script type="application/json" id="charts">{_json(charts)}</script>
"""
    body = "".join(f"<script>{one.replace('</script', '<' + chr(92) + '/script')}</script>" for one in scripts)
    return f"{head}{body}</body></html>\n".encode("utf-8", "replace")


def _drawers() -> str:
    """The components' scripts, each in a scope of its own, and their styles."""
    drawn = []
    for name, component in _COMPONENTS.items():
        source, styles = (
            (script(f"{component}.js"), style(f"{component}.css"))
            if isinstance(component, str)
            else (str(component._esm), component._stylesheets)
        )
        source = source.replace("export function render", "function render")
        drawn.append(f"{name}: {{styles: {_json(styles)}, render: (() => {{\n{source}\nreturn render\n}})()}}")
    return f"const DRAWERS = {{\n{','.join(drawn)}\n}}"


def _json(value: Any) -> str:
    """JSON that no text in it can end: neither as markup nor as a line of a script."""
    said = msgspec.json.encode(value, enc_hook=_plain).decode("utf-8", "replace")
    for letter in "<>&\u2028\u2029":
        said = said.replace(letter, f"\\u{ord(letter):04x}")
    return said


def _plain(value: Any) -> Any:
    """What Bokeh and NumPy have of their own, as JSON has it."""
    return value.item() if isinstance(value, np.generic) else value.to_json()


def _variables(scheme: str, colours: theme.Colours) -> str:
    named = {
        "scheme": scheme,
        "text-primary": colours.text,
        "text-secondary": colours.quiet,
        "background-paper": colours.surface,
        "background-default": colours.background,
        "divider": colours.line,
        "primary-main": colours.primary,
        "primary-contrastText": colours.on_primary,
        "success-main": colours.good,
        "warning-main": colours.warn,
        "error-main": colours.bad,
        "info-main": colours.info,
    }
    return " ".join(f"--mui-palette-{name}: {value};" for name, value in named.items())


def _inks(colours: theme.Colours) -> dict[str, str]:
    return {"text": colours.text, "quiet": colours.quiet, "line": colours.line}
