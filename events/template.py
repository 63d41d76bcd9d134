"""Templates: named configurations, each in its own stream `template-ID`."""

from __future__ import annotations

from .event import Event
from .training import TrainingConfig


class TemplateSaved(Event, frozen=True, kw_only=True):
    """A template exists. Its configuration may be incomplete: one without a model fits every model."""

    name: str
    description: str = ""
    config: TrainingConfig


class TemplateEdited(Event, frozen=True, kw_only=True):
    """The template's description and configuration are these now."""

    description: str
    config: TrainingConfig


class TemplateRenamed(Event, frozen=True, kw_only=True):
    """The template has a new name."""

    name: str


class TemplateFavourited(Event, frozen=True, kw_only=True):
    """The template was marked as a favourite, or no longer is one."""

    favourite: bool


class TemplateDeleted(Event, frozen=True, kw_only=True):
    """The template is gone from every list; its history stays."""


class TemplateRestored(Event, frozen=True, kw_only=True):
    """A deleted template is back as it was, or one is made again what it was at `version`.

    What that changes in its name, description and configuration follows as events of these.
    """

    version: int | None = None
