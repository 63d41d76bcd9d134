"""The list of templates."""

from __future__ import annotations

from .component import Component, script, style


class TemplateList(Component):
    """All templates with a search, and what can be done with each.

    Actions with `template`: `favourite`, `duplicate`, `delete`, `history`, `edit` (both open a dialog). Of the list:
    `search` (`q`), `sort` (`sort`), `filter` (`kind`, `key`), `clear`, `select` (`ids`, `on`), `retry`, `undo`
    (the last deletion), `dismiss` (what is said). Of the dialogs: `save` (`name`, `description`), `cancel`; `import`
    (`name`, `content`), `too_long` (`name`, `size`), `choose` (`index`, `choice`), `import_now`, `import_cancel`;
    `restore` (`version`, `newest`), `history_close`.
    """

    _esm = script("template_dialogs.js", "template_list.js")
    _stylesheets = style("template_list.css")
