"""A training on a folder of activations: what stands in for the language model and its text."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from core.activations.statistics import measure
from core.activations.stored import StoredActivations, StoredRows, as_float32, open_folder
from core.activations.stored_source import FileOrder, StoredPasses, shuffled
from core.activations.tokens import Progress
from core.sae.normalisation import normalisation
from events.training import TrainingConfig

from .checkpoint import Snapshot
from .evaluation import Evaluating
from .loop import Source, students_of
from .student import Pair, Student

log = logging.getLogger("core.training")

_CHUNK_ROWS = 8_192


class FolderChanged(Exception):
    """The files are not those that the training began with; the sentence says what differs."""


class Prepared(NamedTuple):
    """A training's source and SAEs; `judged` is what evaluates them, and the fingerprint of the files."""

    source: Source
    students: Sequence[Student]
    judged: tuple[Evaluating, str]


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
        raise FolderChanged(
            f"The activations in {folder.source} are of another width than when this training was made."
        )
    if snapshot is not None and snapshot.state["source"].get("data") != rows.fingerprint:
        raise FolderChanged(
            f"The files in {folder.source} are not those that the checkpoint of step {snapshot.step:,} was trained on;"
            " put these back, or start a new training."
        )
    pairs = pairs_of(config)
    passes = StoredPasses(rows, pairs, device, config.data_seed)
    total = config.total_steps * config.batch_size
    if snapshot is None:
        students: list[Student] = []
        for pair, found in measure(passes, total_tokens=total, progress=progress).items():
            scale, centre = normalisation(
                config.normalize_activations,
                mean=found.mean,
                mean_norm=found.mean_norm,
                variance=found.variance,
                sample=found.sample,
            )
            students.append(Student.new(config, pair, scale, centre, device))
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
    return Prepared(source, students, (StoredEvaluation(rows, students, device), rows.fingerprint))


def pairs_of(config: TrainingConfig) -> tuple[Pair, ...]:
    """What the folder's `x` is called among layers and hooks: as the configuration says where it says so."""
    layer = config.training_layers[0] if config.training_layers else 0
    hook = config.hook_types[0] if config.hook_types else "resid_post"
    return ((layer, hook),)


class StoredEvaluation(Evaluating):
    """Evaluates on the folder's held-out rows."""

    caveats = ("There is no language model here: this is judged by reconstruction and latents alone.",)

    def __init__(self, rows: StoredRows, students: Sequence[Student], device: torch.device) -> None:
        super().__init__(students, device)
        self._rows = rows

    def _batches(self, limit: int) -> Iterator[Mapping[Pair, Tensor]]:
        facts, (student,) = self._rows.facts, self._students
        end = min(facts.rows, facts.training_rows + limit)
        for start in range(facts.training_rows, end, _CHUNK_ROWS):
            values = as_float32(self._rows.read(start, min(_CHUNK_ROWS, end - start)))
            yield {student.pair: torch.from_numpy(values).to(self._device)}
