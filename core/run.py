"""A run folder, and what a trainer process has to know: the file `run.json` in it.

Whoever starts a trainer writes the file; the trainer reads it. Beside it lie `lock` (held by the live trainer),
`spool/`, `checkpoints/` and `stderr.log`.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from core.activations.sources import StoredActivations
from events.catalog import DatasetRegistered, ModelRegistered
from events.control import TrainingCreated
from events.disk import sync_folder
from events.training import TrainingConfig

RUN_FILE = "run.json"
CHECKPOINTS = "checkpoints"
STDERR = "stderr.log"


class RunSpecError(Exception):
    """A run folder's `run.json` is missing or damaged; the sentence names the file."""


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One training, as its process is told about it.

    It reads a `model`'s activations on `datasets`, or those that are `stored` in a folder.

    `config` has every default filled in; `created` and `created_at` (µs since 1970) are the event that made it, so that
    a trainer without a server can introduce itself to one later. `resume` is True from the second start on.
    """

    id: str
    name: str
    config: TrainingConfig
    model: ModelRegistered | None = None
    datasets: tuple[DatasetRegistered, ...] = ()
    stored: StoredActivations | None = None
    data_dir: Path
    created_at: int
    created: TrainingCreated
    resume: bool = False


def write(folder: Path, spec: RunSpec) -> None:
    """Write the folder's `run.json`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RUN_FILE, msgspec.json.format(msgspec.json.encode(spec, enc_hook=str), indent=2))


def read(folder: Path) -> RunSpec:
    """The folder's specification. Raises `RunSpecError`."""
    path = folder / RUN_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunSpec, dec_hook=lambda kind, value: kind(value))
    except OSError as error:
        raise RunSpecError(f"{path} cannot be read: {error.strerror or error}.") from error
    except msgspec.DecodeError as error:
        raise RunSpecError(f"{path} is not a run specification: {error}.") from error


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data` so that a reader, or a crash, finds the old content or the new."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
