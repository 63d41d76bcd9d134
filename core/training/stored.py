"""A training on a folder of activations: what stands in for the language model and its text."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from core.activations.sources import StoredActivations
from core.activations.statistics import measure
from core.activations.stored import StoredRows, as_float32, open_folder
from core.activations.stored_source import FileOrder, StoredPasses, shuffled
from core.activations.tokens import Progress
from events.training import TrainingConfig

from .beginning import all_read, new_students
from .checkpoint import Snapshot
from .evaluation import Evaluating
from .loop import Source, students_of
from .student import Pair, Student

log = logging.getLogger("core.training")

_CHUNK_ROWS = 8_192


class FolderChanged(Exception):
    """The files are not those that the training began with; the sentence says what differs."""


class Prepared(NamedTuple):
    """A training's source, its SAEs, what evaluates them, and the fingerprint of the files."""

    source: Source
    students: Sequence[Student]
    evaluation: Evaluating
    fingerprint: str


def prepare(
    folder: StoredActivations,
    config: TrainingConfig,
    device: torch.device,
    snapshot: Snapshot | None,
    progress: Progress,
) -> Prepared:
    """Open the folder again and set up a training on it, from `snapshot` where there is one.

    Raises `ActivationsError` where it cannot be read, and `FolderChanged`.
    """
    log.info("Opening the activations in %s.", folder.source)
    rows = open_folder(Path(folder.source))
    now, then = (rows.facts.width, rows.facts.target_width), (folder.width, folder.target_width)
    if now != then:
        raise FolderChanged(f"The activations in {folder.source} are of another width than when the training was made.")
    if snapshot is not None and snapshot.state["source"].get("data") != rows.fingerprint:
        raise FolderChanged(
            f"The files in {folder.source} are not those that the checkpoint of step {snapshot.step:,} was trained on;"
            " put these back, or start a new training."
        )
    pairs = all_read(config)
    passes = StoredPasses(rows, pairs, device, config.data_seed)
    total = config.total_steps * config.batch_size
    if snapshot is None:
        students = new_students(config, measure(passes, total_tokens=total, progress=progress), device)
    else:
        students = students_of(snapshot, config, device)
    source: Source
    if config.shuffle:
        source = shuffled(
            passes,
            rows.facts,
            batch_size=config.batch_size,
            total_tokens=total,
            data_seed=config.data_seed,
            progress=progress,
        )
    else:
        source = FileOrder(rows, pairs, device, batch_size=config.batch_size)
    return Prepared(source, students, StoredEvaluation(rows, pairs, students, device), rows.fingerprint)


class StoredEvaluation(Evaluating):
    """Evaluates on the folder's held-out rows."""

    caveats = ("There is no language model here: this is judged by reconstruction and latents alone.",)

    def __init__(
        self, rows: StoredRows, pairs: Sequence[Pair], students: Sequence[Student], device: torch.device
    ) -> None:
        super().__init__(students, device)
        self._rows = rows
        self._pairs = pairs

    def _batches(self, limit: int) -> Iterator[Mapping[Pair, Tensor]]:
        facts = self._rows.facts
        end = min(facts.rows, facts.training_rows + limit)
        for start in range(facts.training_rows, end, _CHUNK_ROWS):
            count = min(_CHUNK_ROWS, end - start)
            yield {
                pair: torch.from_numpy(as_float32(self._rows.read(start, count, target=index > 0))).to(self._device)
                for index, pair in enumerate(self._pairs)
            }
