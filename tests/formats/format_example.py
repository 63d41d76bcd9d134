#!/usr/bin/env python
"""Makes `N.tar.xz`, a data directory in the format N that this program writes, as a killed server leaves it.

    python tests/formats/format_example.py

Run it with the last program of a format, before the format is raised: from then on every program has to open it.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import msgspec

from core.data_format import bring_up_to_date
from core.settings import Settings
from events import tables
from events.control import StopRequested, TrainingCreated, TrainingDeleted, TrainingNoted, TrainingTagged
from events.emitter import Emitter
from events.event import Event
from events.log import LogWritten
from events.spool import hold
from events.store import EventStore
from events.streams import ANY, CONTROL, NO_STREAM, TRAINING, Append
from events.template import TemplateSaved
from events.training import (
    CheckpointSaved,
    Sae,
    StepTrained,
    TrainingConfig,
    TrainingResumed,
    TrainingStarted,
    TrainingStopped,
)
from projections.runner import Projections

HERE = Path(__file__).parent
EXPECTED = "expected.json"

DONE, DELETED, SPOOLED = "0f0rmatd0ne000", "0f0rmatg0ne000", "0f0rmatsp00200"
NOTE = "A note with **bold** words, an umlaut (ü) and a sign (✓)."
STEPS, RESUMED_AT, SPOOLED_STEPS = 1_500, 900, 200
CONFIG = TrainingConfig(model="demo", datasets=("stdlib",), total_steps=STEPS)


class Expected(msgspec.Struct, kw_only=True):
    """What a server must find in the data directory, whatever its own format is: the log ends at `head` before what
    lies in the spool is taken in."""

    log_id: str
    head: int


def step(number: int, sae: int) -> StepTrained:
    value = 1 / (number + sae + 1)
    return StepTrained(
        step=number,
        sae=sae,
        loss=value,
        loss_reconstruction=value,
        l0=8.0,
        l0_fraction=0.01,
        fvu=value,
        learning_rate=1e-3,
        grad_norm=1.0,
        tokens=number * 64,
        tokens_per_second=1_000.0,
    )


def steps(first: int, last: int) -> list[Event]:
    return [step(number, sae) for number in range(first, last + 1) for sae in (0, 1)]


def fill(data_dir: Path) -> None:
    """Write the data directory, and end without closing anything."""
    settings = Settings(data_dir=data_dir)
    saes = (Sae(layer=1, hook="resid_post"), Sae(layer=2, hook="resid_post"))
    bring_up_to_date(settings, print)
    store = EventStore.open(settings.database)
    Projections(store).start()
    for training in (DONE, DELETED):
        created = TrainingCreated(name=f"Training {training}", config=CONFIG)
        store.append(Append(CONTROL + training, [created], expected=NO_STREAM, actor="user:ada")).result()
        claim = store.claim(TRAINING + training, host="box", pid=1).result()
        events: list[Event] = [
            TrainingStarted(host="box", pid=1, device="cpu", device_name="CPU", saes=saes),
            *steps(1, STEPS // 2),
            LogWritten(level="INFO", logger="trainer", message=f"Half of {training} is done."),
        ]
        store.append(Append(TRAINING + training, events, expected=0, epoch=claim.epoch)).result()
    store.append(Append(CONTROL + DELETED, [TrainingDeleted(removed=("checkpoints",), bytes_freed=1)])).result()
    template = [TemplateSaved(name="Small", config=CONFIG)]
    store.append(Append("template-0f0rmattemp000", template, actor="user:ada")).result()
    store.checkpoint().result()
    # What follows is in the write-ahead log only.
    notes: list[Event] = [TrainingNoted(note=NOTE), TrainingTagged(tags=("kept",))]
    store.append(Append(CONTROL + DONE, notes, expected=ANY, actor="user:ada")).result()
    later: list[Event] = [
        CheckpointSaved(step=RESUMED_AT, path=f"checkpoints/{RESUMED_AT}", size=1),
        *steps(STEPS // 2 + 1, RESUMED_AT + 100),
        TrainingStarted(host="box", pid=2, device="cpu", saes=saes, resumed_from=RESUMED_AT),
        TrainingResumed(step=RESUMED_AT),
        *steps(RESUMED_AT + 1, STEPS),
        TrainingStopped(step=STEPS),
    ]
    store.append(Append(CONTROL + DONE, [StopRequested()], actor="user:ada")).result()
    version = store.version(TRAINING + DONE)
    store.append(Append(TRAINING + DONE, later, expected=version, epoch=1)).result()
    expected = Expected(log_id=store.log_id, head=store.head)
    (data_dir / EXPECTED).write_bytes(msgspec.json.encode(expected))
    # A trainer without a server, killed.
    folder = settings.run_folder(SPOOLED)
    hold(folder)
    emitter = Emitter(folder, SPOOLED, address=lambda: None, created=TrainingCreated(name="Spooled", config=CONFIG))
    emitter.emit(TrainingStarted(host="box", pid=3, device="cpu", device_name="CPU", saes=saes))
    for number in range(1, SPOOLED_STEPS + 1):
        emitter.emit(step(number, 0))
    os._exit(0)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        data_dir = Path(temporary) / "data"
        subprocess.run([sys.executable, __file__, str(data_dir)], check=True)
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:xz") as tar:
            for path in sorted(data_dir.rglob("*")):
                info = tarfile.TarInfo(str(path.relative_to(data_dir)))
                info.mode = 0o600
                if path.is_dir():
                    info.type, info.mode = tarfile.DIRTYPE, 0o700
                    tar.addfile(info)
                    continue
                info.size = path.stat().st_size
                with path.open("rb") as file:
                    tar.addfile(info, file)
        target = HERE / f"{tables.FORMAT}.tar.xz"
        target.write_bytes(data.getvalue())
        print(f"{target}: {len(data.getvalue()):,} bytes")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        fill(Path(sys.argv[1]))
    else:
        main()
