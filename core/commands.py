"""What can be asked of the server: imperatives, which may be refused and are never stored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Description = Annotated[str, Meta(max_length=10_000)]


class CreateTraining(msgspec.Struct, frozen=True, kw_only=True):
    """Train this configuration.

    `config` holds fields of `TrainingConfig`; what is left out takes its default. `name` is suggested by the
    configuration where it is left out; `retry_of` is the training that this one repeats.
    """

    config: dict[str, Any]
    name: Name | None = None
    template_id: str | None = None
    retry_of: str | None = None


class CheckTraining(msgspec.Struct, frozen=True, kw_only=True):
    """Say what is wrong with this configuration and what it would need, and start nothing."""

    config: dict[str, Any]


class ControlTraining(msgspec.Struct, frozen=True, kw_only=True):
    """Pause, resume or stop a training, or save a checkpoint of it now."""

    action: Literal["pause", "resume", "stop", "checkpoint"]


class EditTraining(msgspec.Struct, frozen=True, kw_only=True):
    """Change what is said about a training; what is left out stays."""

    name: Name | None = None
    tags: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=64)] | None = None
    note: Annotated[str, Meta(max_length=100_000)] | None = None


class SaveTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """Keep a configuration under a name.

    `config` holds fields of `TrainingConfig`; it may be incomplete, and one that a start would refuse. Blanks around
    the name are dropped.
    """

    name: str
    description: Description = ""
    config: dict[str, Any]


class EditTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """Change a template that is still at `expected_version`; what is left out stays, `config` is replaced whole."""

    expected_version: Annotated[int, Meta(ge=0)]
    name: str | None = None
    description: Description | None = None
    config: dict[str, Any] | None = None
    favourite: bool | None = None


class RestoreTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """Bring a deleted template back; `version` gives it the name, description and configuration that it had then.

    With `expected_version` only a template that is still at it: what somebody has changed since is not overwritten.
    """

    version: Annotated[int, Meta(ge=1)] | None = None
    expected_version: Annotated[int, Meta(ge=0)] | None = None


class SuggestTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """Say what a template of this configuration would be called; what cannot be read in it is left out."""

    config: dict[str, Any]


class PreviewImport(msgspec.Struct, frozen=True, kw_only=True):
    """Say what an import of this document would do, and change nothing."""

    document: dict[str, Any]


class ImportTemplates(msgspec.Struct, frozen=True, kw_only=True):
    """Take in the templates of a document.

    `choices` says, by the index of an entry, what becomes of one that conflicts; an invalid one can only be skipped.
    `versions` says, by index, which version of the template it was that was looked at before choosing to overwrite it:
    what somebody has changed since is not overwritten.
    """

    document: dict[str, Any]
    choices: dict[str, Literal["skip", "rename", "overwrite"]] = {}
    versions: dict[str, int] = {}


class RegisterModel(msgspec.Struct, frozen=True, kw_only=True):
    """Take a model into the catalogue; `source` is a local folder or a hub id."""

    source: Annotated[str, Meta(min_length=1, max_length=4_096)]
    model_id: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    revision: Annotated[str, Meta(max_length=255)] | None = None
    title: Annotated[str, Meta(max_length=255)] | None = None


class RegisterDataset(msgspec.Struct, frozen=True, kw_only=True):
    """Take a data set into the catalogue; `source` is a file, a folder or a hub id."""

    source: Annotated[str, Meta(min_length=1, max_length=4_096)]
    dataset_id: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    pattern: Annotated[str, Meta(max_length=4_096)] | None = None
    configuration: Annotated[str, Meta(max_length=255)] | None = None
    split: Annotated[str, Meta(max_length=255)] | None = None
    text_column: Annotated[str, Meta(max_length=255)] | None = None
    revision: Annotated[str, Meta(max_length=255)] | None = None
    title: Annotated[str, Meta(max_length=255)] | None = None


class RemoveFromCatalogue(msgspec.Struct, frozen=True, kw_only=True):
    """Take the model or data set that configurations call `id` out of the catalogue."""

    kind: Literal["model", "dataset"]
    id: Annotated[str, Meta(min_length=1, max_length=4_096)]


class RestoreToCatalogue(msgspec.Struct, frozen=True, kw_only=True):
    """Bring the removed model or data set that configurations called `id` back, as it was registered last."""

    kind: Literal["model", "dataset"]
    id: Annotated[str, Meta(min_length=1, max_length=4_096)]
