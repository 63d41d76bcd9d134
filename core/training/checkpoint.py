"""Checkpoints: a folder a step, written whole or not at all, and checked before it is believed.

`step-00000100/` holds `state.json` and safetensors files. `state.json` names every other file with its size and
SHA-256, and carries a digest of itself. A folder is written under another name, flushed to disk and renamed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from events.disk import sync_folder

FORMAT = 1
STATE_FILE = "state.json"

_NAME = re.compile(r"step-(\d{8,})")
_DRAFT = ".draft-"
_OLD = ".old-"
_DAMAGED = ".damaged-"

log = logging.getLogger("core.training")


class DamagedCheckpoint(Exception):
    """A checkpoint cannot be used; the sentence names the file and says why."""


@dataclass(frozen=True)
class Snapshot:
    """A training at the end of `step`: `state` is JSON-able, `tensors[file][name]` the rest.

    A loaded snapshot's tensors are on the CPU.
    """

    step: int
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Saved:
    """Where a checkpoint lies, and its size in bytes."""

    path: Path
    size: int


class Checkpoints:
    """The checkpoints of one training, in `folder`; the newest `kept` stay, and the best. One process at a time may
    write them."""

    def __init__(self, folder: Path, kept: int) -> None:
        self.folder = folder
        self._kept = kept

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, valid or not, in ascending order."""
        if not self.folder.is_dir():
            return []
        matches = (_NAME.fullmatch(entry.name) for entry in self.folder.iterdir() if entry.is_dir())
        return sorted(int(match[1]) for match in matches if match)

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` lies, or would."""
        return self.folder / f"step-{step:08d}"

    def tidy(self) -> None:
        """Undo what a crash in the middle of writing left behind."""
        if not self.folder.is_dir():
            return
        for entry in list(self.folder.iterdir()):
            if entry.name.startswith(_OLD) and not (replaced := self.folder / entry.name.removeprefix(_OLD)).exists():
                entry.rename(replaced)
            elif entry.name.startswith((_DRAFT, _OLD)):
                shutil.rmtree(entry)

    def save(self, snapshot: Snapshot) -> Saved:
        """Write a checkpoint; one of the same step is replaced. Raises OSError; nothing half-written is left then."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.path(snapshot.step)
        draft = self.folder / f"{_DRAFT}{target.name}"
        if draft.exists():
            shutil.rmtree(draft)
        try:
            draft.mkdir()
            size = _write(draft, snapshot)
            old = self.folder / f"{_OLD}{target.name}"
            if target.exists():
                target.rename(old)
            draft.rename(target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        sync_folder(self.folder)
        if old.exists():
            shutil.rmtree(old)
        return Saved(target, size)

    def prune(self, fvu: Mapping[int, float]) -> list[int]:
        """Delete all but the newest, and the one whose step has the lowest of `fvu`; the steps that are gone."""
        steps = self.steps()
        best = min((step for step in steps if step in fvu), key=lambda step: fvu[step], default=None)
        superseded = [step for step in steps[: -self._kept] if step != best]
        for step in superseded:
            shutil.rmtree(self.path(step))
        return superseded

    def newest(self) -> Snapshot | None:
        """The newest checkpoint that is whole; None where there is none.

        Newer ones that are damaged are set aside, with a warning in the log, so that they are neither believed nor
        counted later.
        """
        for step in reversed(self.steps()):
            try:
                return load(self.path(step))
            except DamagedCheckpoint as error:
                aside = self.folder / f"{_DAMAGED}{self.path(step).name}"
                if aside.exists():
                    shutil.rmtree(aside)
                self.path(step).rename(aside)
                log.warning("%s It was set aside as %s.", error, aside.name)
        return None


def load(path: Path) -> Snapshot:
    """The checkpoint in the folder `path`, verified. Raises `DamagedCheckpoint`."""
    try:
        state = json.loads((path / STATE_FILE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"Checkpoint {path.name}: {STATE_FILE} cannot be read ({error}).") from error
    if not isinstance(state, dict) or state.pop("digest", None) != _digest(state):
        raise DamagedCheckpoint(f"Checkpoint {path.name}: {STATE_FILE} was changed after it was written.")
    if state.get("format") != FORMAT:
        raise DamagedCheckpoint(
            f"Checkpoint {path.name} has format {state.get('format')}; this version reads format {FORMAT}."
        )
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, facts in state.pop("files").items():
        file = path / name
        try:
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            if digest != facts["sha256"]:
                raise DamagedCheckpoint(f"Checkpoint {path.name}: {name} is damaged (its checksum differs).")
            tensors[file.stem] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise DamagedCheckpoint(f"Checkpoint {path.name}: {name} cannot be read ({error}).") from error
    del state["format"]
    return Snapshot(step=state.pop("step"), state=state, tensors=tensors)


def random_state() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state of every global random generator: what JSON can hold, and the tensors."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64))}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    facts = {
        "python": [version, list(words), gauss],
        "numpy": [str(kind), int(position), int(has_gauss), float(cached)],
    }
    return facts, tensors


def restore_random_state(facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Set every global random generator to what `random_state` gave; CUDA devices that are not here are left out."""
    version, words, gauss = facts["python"]
    random.setstate((version, tuple(words), gauss))
    kind, position, has_gauss, cached = facts["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        state = tensors.get(f"cuda.{index}")
        if state is not None:
            torch.cuda.set_rng_state(state, index)


def _write(folder: Path, snapshot: Snapshot) -> int:
    files: dict[str, dict[str, Any]] = {}
    for stem, tensors in snapshot.tensors.items():
        file = folder / f"{stem}.safetensors"
        try:
            save_file({name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}, file)
        except SafetensorError as error:
            # What the library says of a full disk.
            raise OSError(f"{file.name}: {error}") from error
        with file.open("rb") as content:
            os.fsync(content.fileno())
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        files[file.name] = {"size": file.stat().st_size, "sha256": digest}
    state = {**snapshot.state, "format": FORMAT, "step": snapshot.step, "files": files}
    text = json.dumps({**state, "digest": _digest(state)}, indent=1)
    with (folder / STATE_FILE).open("w", encoding="utf-8") as content:
        content.write(text)
        content.flush()
        os.fsync(content.fileno())
    sync_folder(folder)
    return len(text) + sum(facts["size"] for facts in files.values())


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
