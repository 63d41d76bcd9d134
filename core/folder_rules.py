"""What a training on a folder of activations must satisfy. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from events.training import TrainingConfig

from .activations.sources import StoredActivations
from .catalogue import absolute
from .fields import Problem

_OFTEN = 10
"""A run that reads every row more often than this is worth a warning."""


def find_folder(wanted: str, folders: Iterable[StoredActivations]) -> StoredActivations | None:
    """What is known of that folder."""
    return next((one for one in folders if one.source == absolute(wanted)), None)


def folder_name(activations: str) -> str:
    """A folder for people, without the way to it."""
    return Path(activations).name or activations


def folder_problems(values: Mapping[str, Any], folder: StoredActivations) -> Iterator[Problem]:
    """What in a configuration does not go with the folder that it names."""
    name, architecture = folder_name(folder.source), values.get("architecture_type", "topk")
    for field, what in (("training_layers", "layers"), ("hook_types", "hooks")):
        chosen = values.get(field)
        if chosen is not None and len(chosen) > 1:
            yield Problem(
                field, f"{field} names {len(chosen)} {what}; the activations of one folder are of one: name it or none."
            )
    width = values.get("hidden_dim")
    if width is not None and width != folder.width:
        yield Problem(
            "hidden_dim", f"hidden_dim is {width:,}; the activations in {name} have {folder.width:,} dimensions."
        )
    if architecture in ("transcoder", "skip") and folder.target_width is None:
        yield Problem(
            "activations",
            f"A {architecture} predicts 't' from 'x'; the files in {name} hold no 't' of shape (rows, m).",
        )
    rank, narrow = values.get("skip_rank"), min(folder.width, folder.target_width or folder.width)
    if rank is not None and rank > narrow:
        yield Problem("skip_rank", f"skip_rank is {rank:,}, more than the width {narrow:,} of what is in {name}.")
    batch = values.get("batch_size", TrainingConfig().batch_size)
    if batch > folder.training_rows:
        yield Problem(
            "batch_size",
            f"batch_size is {batch:,}; {name} has {folder.training_rows:,} rows to train on, and"
            f" {folder.held_out:,} that are held out.",
        )


def folder_warnings(config: TrainingConfig, folder: StoredActivations) -> Iterator[Problem]:
    """What is allowed and likely to disappoint."""
    read, rows = config.total_steps * config.batch_size, folder.training_rows
    if read > _OFTEN * rows:
        yield Problem(
            "total_steps", f"The run reads each of the {rows:,} rows about {read / rows:,.0f} times: it may learn them."
        )
    if folder.target_width is not None and config.architecture_type not in ("transcoder", "skip"):
        yield Problem(
            "activations",
            f"The files in {folder_name(folder.source)} hold 't' too, which a {config.architecture_type} does not use.",
        )
