"""The list of templates as its page shows it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from .. import text
from ..gateway import Template
from .trainings import ARCHITECTURES, last_part, read_from


def template_row(template: Template, now: float | None = None) -> dict[str, Any]:
    """A line of the list, everything in it ready to be shown."""
    now = time.time() if now is None else now
    config = template.config
    tags = [ARCHITECTURES.get(config.architecture_type, config.architecture_type)]
    if place := read_from(config):
        tags.append(last_part(place))
    tags += [last_part(one) for one in config.datasets]
    changed = f"changed {text.duration(max(0.0, now - template.updated_at / 1e6))} ago"
    if template.updated_by:
        changed += f" by {template.updated_by}"
    return {
        "id": template.id,
        "name": template.name,
        "description": template.description,
        "favourite": template.favourite,
        "tags": tags,
        "changed": changed,
    }


def templates_page(q: str, templates: Sequence[Template], now: float | None = None) -> dict[str, Any]:
    """The whole list."""
    return {"rows": [template_row(template, now) for template in templates], "q": q, "searching": bool(q)}
