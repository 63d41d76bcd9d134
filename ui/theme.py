"""How it looks: the colours of both themes, what Material UI is told of them, and the colours of lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

COOKIE = "saestudio_theme"
"""The browser's choice of theme, `light` or `dark`; the page reads it before anything is drawn."""


@dataclass(frozen=True)
class Colours:
    """One theme's colours. Text on `background` and `surface` has a contrast of 4.5 or more, quiet text included."""

    background: str
    surface: str
    text: str
    quiet: str
    line: str
    primary: str
    on_primary: str
    good: str
    warn: str
    bad: str
    info: str


LIGHT = Colours(
    background="#f4f6f9",
    surface="#ffffff",
    text="#16202c",
    quiet="#566272",
    line="#dfe4eb",
    primary="#2956c8",
    on_primary="#ffffff",
    good="#14733f",
    warn="#8a5600",
    bad="#b62f26",
    info="#0a6796",
)

DARK = Colours(
    background="#0d1116",
    surface="#151b23",
    text="#e6ebf2",
    quiet="#98a5b5",
    line="#28313d",
    primary="#82a6ff",
    on_primary="#0b1530",
    good="#4fc68d",
    warn="#e3a640",
    bad="#ff8278",
    info="#5fbbe9",
)

SERIES = ("#2c96f4", "#c57d1b", "#e6167d", "#8439fc", "#876938", "#bf02a1")
"""Colours of lines: told apart with every kind of colour blindness, contrast of 3 and more on both themes."""

DASHES = ("solid", "dashed", "dotted", "dotdash")
"""Where there are more lines than colours, the next round is dashed."""


def line_style(index: int) -> tuple[str, str]:
    """The colour and the dash of the line number `index`."""
    return SERIES[index % len(SERIES)], DASHES[index // len(SERIES) % len(DASHES)]


def _palette(scheme: str, colours: Colours) -> dict[str, Any]:
    return {
        # No colour: what the browser draws itself follows it, as `--mui-palette-scheme`.
        "scheme": scheme,
        "primary": {"main": colours.primary, "contrastText": colours.on_primary},
        "success": {"main": colours.good},
        "warning": {"main": colours.warn},
        "error": {"main": colours.bad},
        "info": {"main": colours.info},
        "background": {"default": colours.background, "paper": colours.surface},
        "text": {"primary": colours.text, "secondary": colours.quiet},
        "divider": colours.line,
    }


MATERIAL = {
    name: {
        "palette": _palette(name, colours),
        "shape": {"borderRadius": 10},
        "typography": {"fontFamily": "Roboto, system-ui, sans-serif"},
    }
    for name, colours in (("light", LIGHT), ("dark", DARK))
}
"""The `theme_config` of the page, from which every Material component below it takes its own."""

SURFACE = """
:host {
  background: var(--mui-palette-background-paper);
  border: 1px solid var(--mui-palette-divider);
  border-radius: 10px;
}
"""
"""The style of a part of a page that stands out from its background."""

PAGE_SX = {
    "height": "100dvh",
    # Material paints title and bar for a bar in the primary colour; this one is part of the page.
    "& .MuiAppBar-root": {
        "backgroundColor": "var(--mui-palette-background-paper)",
        "backgroundImage": "none",
        "color": "var(--mui-palette-text-primary)",
        "boxShadow": "none",
        "borderBottom": "1px solid var(--mui-palette-divider)",
    },
    "& .MuiAppBar-root .title": {
        "color": "var(--mui-palette-text-primary)",
        "fontSize": "1.05rem",
        "fontWeight": 700,
        "letterSpacing": "-0.01em",
        "whiteSpace": "nowrap",
        # On a phone the links need the room; the first of them leads home.
        "@media (max-width: 480px)": {"display": "none"},
    },
    "& .MuiToolbar-root": {"minHeight": "56px !important"},
    # Panel's bar for a busy server has no name for those who listen; every part says itself what it waits for.
    "& .MuiLinearProgress-root": {"display": "none"},
    "& .main": {"backgroundColor": "var(--mui-palette-background-default)"},
}


def page_template() -> str:
    """The HTML around the page: what is seen before the first script has run, in the theme that was chosen."""
    html = (Path(__file__).parent / "components" / "page.html").read_text("utf-8")
    for name, colours in (("light", LIGHT), ("dark", DARK)):
        for part in ("background", "surface", "text", "quiet", "line", "bad"):
            html = html.replace(f"@{name}-{part}@", getattr(colours, part))
    return html.replace("@cookie@", COOKIE)
