"""The catalogue of models and data sets, in the stream `catalog`."""

from __future__ import annotations

from typing import Literal

from .event import Event
from .training import HookType


class ModelRegistered(Event, frozen=True, kw_only=True):
    """A language model can be chosen by `model_id`; registering it again replaces what was known.

    `source` is a local folder or a hub id, `hidden_dim` the width of its residual stream, `layers` their number,
    `hooks` where its layers can be read, `context_size` in tokens, `parameters` a count.
    """

    model_id: str
    source: str
    revision: str | None = None
    title: str = ""
    family: str = ""
    hidden_dim: int
    layers: int
    hooks: tuple[HookType, ...]
    context_size: int
    vocab_size: int = 0
    parameters: int | None = None


class DatasetRegistered(Event, frozen=True, kw_only=True):
    """A data set can be chosen by `dataset_id`; registering it again replaces what was known.

    `source` is a file, a folder or a hub id; `pattern` selects files in a folder (glob); `configuration` and `split`
    are those of a hub data set; `text_column` is None where it is found by itself; `documents` and `size` (bytes) are
    None where counting would mean reading everything.
    """

    dataset_id: str
    source: str
    title: str = ""
    format: Literal["text", "jsonl", "parquet", "hub"]
    pattern: str | None = None
    configuration: str | None = None
    split: str | None = None
    text_column: str | None = None
    revision: str | None = None
    documents: int | None = None
    size: int | None = None


class ModelRemoved(Event, frozen=True, kw_only=True):
    """A model is in the catalogue no more until it is registered again. Trainings keep what they were started with."""

    model_id: str


class DatasetRemoved(Event, frozen=True, kw_only=True):
    """A data set is in the catalogue no more, as `ModelRemoved` says of a model."""

    dataset_id: str
