"""The list of templates."""

from __future__ import annotations

from .component import Component, script, style


class TemplateList(Component):
    """All templates with a search, and what can be done with each.

    Actions, most of them with `template`: `search` (`q`), `retry`, `undo` (the last deletion), `dismiss` (what
    is said), `favourite`, `duplicate`, `delete`, `edit` (open the dialog), `save` (`name`, `description`), `cancel`.
    """

    _esm = script("template_list.js")
    _stylesheets = style("template_list.css")
