"""Adoption: taking the spools of trainers that are gone into the log.

A spool is taken in only while its run folder's lock is free: a live trainer sends its own. What the log has is deleted
from a spool once it lies in the checkpointed database; what another epoch has fenced is set aside and reported.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from core import run
from core.server import intake
from events import segment
from events.control import TrainingCreated, WriterClaimed
from events.errors import EventLogError, Fenced, LogClosed, SpoolLocked
from events.ids import is_id
from events.segment import Segment, frames_in
from events.spool import hold
from events.streams import CONTROL, TRAINING, Append

BATCH_EVENTS = 2_000
BATCH_BYTES = 4 << 20
UNDER_WAY = 4

_logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the training's id, the events taken in so far and how many there are."""


class Adopted(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one run folder's spool.

    `events` were taken in, after which the stream has `version`; `created` says whether the log did not know the
    training before. `problems` holds one sentence for everything a person should know.
    """

    training_id: str
    events: int = 0
    version: int = 0
    created: bool = False
    set_aside: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()


def adopt(studio: Any, progress: Progress | None = None) -> list[Adopted]:
    """Take in the spools of every run folder whose trainer is gone. Blocks.

    Returns a report for each folder where there was something to do. A folder that cannot be taken in is reported and
    does not keep out the others.
    """
    folders: Path = studio.settings.trainings
    found = sorted(folder for folder in folders.iterdir() if is_id(folder.name)) if folders.is_dir() else []
    reports = [report for folder in found if (report := adopt_folder(studio.store, folder, progress)) is not None]
    if any(report.events for report in reports) and studio.store.checkpoint().result():
        for report in (each for each in reports if each.events):
            clean(studio.store, folders / report.training_id)
    return reports


def adopt_folder(store: Any, folder: Path, progress: Progress | None = None) -> Adopted | None:
    """Take in one run folder's spool. Blocks.

    None if its trainer lives, there was nothing to do, or the log was closed before all was done.
    """
    spool = folder / "spool"
    if not any(spool.glob(f"*{segment.SUFFIX}")):
        return None
    try:
        lock = hold(folder)
    except SpoolLocked:
        return None
    with lock:
        adoption = _Adoption(store, folder, progress)
        try:
            adoption.run()
        except LogClosed:
            # The server ends meanwhile, and nothing is wrong: the next one begins with what is left.
            return None
        except (EventLogError, OSError) as error:
            adoption.problems.append(f"The spool {spool} could not be taken in: {error}")
        for problem in adoption.problems:
            _logger.warning("%s", problem)
        return adoption.report()


def clean(store: Any, folder: Path) -> None:
    """Delete what the checkpointed log holds from a spool whose trainer is gone."""
    try:
        lock = hold(folder)
    except SpoolLocked:
        return
    with lock:
        try:
            segments, _ = segment.load(folder / "spool")
            _drop(segments, store.checkpointed(TRAINING + folder.name))
        except OSError as error:
            _logger.warning("The spool in %s could not be cleared: %s", folder, error)


def _drop(segments: Sequence[Segment], version: int) -> None:
    for each in segments:
        if each.epoch is None or each.last > version:
            break
        each.path.unlink(missing_ok=True)


class _Adoption:
    """One run folder's spool on its way into the log; the caller holds the folder's lock."""

    def __init__(self, store: Any, folder: Path, progress: Progress | None) -> None:
        self._store = store
        self._folder = folder
        self._training = folder.name
        self._stream = TRAINING + folder.name
        self._progress = progress
        self._segments: list[Segment] = []
        self._total = 0
        self._events = 0
        self._created = False
        self._set_aside: list[Path] = []
        self.problems: list[str] = []

    def report(self) -> Adopted | None:
        if not (self._events or self._created or self._set_aside or self.problems):
            return None
        return Adopted(
            training_id=self._training,
            events=self._events,
            version=self._store.version(self._stream),
            created=self._created,
            set_aside=tuple(self._set_aside),
            problems=tuple(self.problems),
        )

    def run(self) -> None:
        self._segments, damages = segment.load(self._folder / "spool")
        self.problems += damages
        self._total = sum(each.count for each in self._segments)
        if not self._known():
            return
        claimed = [each for each in self._segments if each.epoch is not None]
        if claimed:
            self._take_claimed(claimed)
        # What a gap has separated from the claimed ones needs a new claim as well.
        unclaimed = [each for each in self._segments if each.epoch is None and each.count]
        if unclaimed:
            claim = self._store.claim(self._stream, actor=f"trainer:{self._training}").result()
            version = claim.version
            for each in unclaimed:
                each.mark(claim.epoch, version + 1)
                version = each.last
            self._append(unclaimed, claim.version, claim.epoch)
        _drop(self._segments, self._store.checkpointed(self._stream))

    def _known(self) -> bool:
        """Whether the log knows the training, after creating it from what the spool or the run folder says."""
        if self._store.version(CONTROL + self._training) or not self._segments:
            return bool(self._segments)
        created, created_at = self._creation()
        if created is None:
            self.problems.append(
                f"The log does not know training {self._training}, and neither its spool nor {run.RUN_FILE} says how it"
                f" was created: the spool in {self._folder} is left as it is."
            )
            return False
        intake.create(self._store, self._training, created, created_at, None).result()
        self._created = True
        return True

    def _creation(self) -> tuple[TrainingCreated | None, int | None]:
        for each in self._segments:
            if each.header.created is not None:
                return each.header.created, each.header.created_at
        try:
            spec = run.read(self._folder)
        except run.RunSpecError:
            return None, None
        return spec.created, spec.created_at

    def _take_claimed(self, claimed: list[Segment]) -> None:
        last = claimed[-1]
        if last.last < self._next_claim(last.epoch or 0):
            return
        try:
            claim = self._store.claim(self._stream, epoch=last.epoch, actor=f"trainer:{self._training}").result()
            self._append(claimed, claim.version, claim.epoch)
        except Fenced as error:
            self._set_aside = segment.set_aside(claimed)
            self._segments = [each for each in self._segments if each not in claimed]
            names = ", ".join(str(path) for path in self._set_aside)
            self.problems.append(f"{error} The spool is set aside: {names}.")

    def _next_claim(self, epoch: int) -> int:
        """First version of the writer after `epoch`: what comes before it is in the log. 0 if there was none."""
        after = 0
        while page := self._store.read_stream(CONTROL + self._training, after):
            for recorded in page:
                if isinstance(recorded.data, WriterClaimed) and recorded.data.epoch > epoch:
                    return recorded.data.first_version
            after = page[-1].version
        return 0

    def _append(self, segments: Sequence[Segment], version: int, epoch: int) -> None:
        """Append what follows `version`; from a gap on, the rest loses its claim."""
        under_way: deque[tuple[Append, Future[Any]]] = deque()
        for index, each in enumerate(segments):
            if each.last <= version:
                continue
            if each.first > version + 1:
                self.problems.append(
                    f"Versions {version + 1} to {each.first - 1} of {self._stream} are neither in the log nor in the"
                    f" spool; what follows is numbered from {version + 1}."
                )
                for rest in segments[index:]:
                    rest.mark(None, rest.first)
                break
            data = each.content()
            _, offset = frames_in(data, each.start, each.tail[0], limit=version + 1 - each.first, size=len(data))
            while offset < each.tail[0]:
                frames, offset = frames_in(data, offset, each.tail[0], limit=BATCH_EVENTS, size=BATCH_BYTES)
                events = intake.decode([msgspec.Raw(frame) for frame in frames])
                append = Append(
                    self._stream,
                    [event for _, event in events],
                    expected=version,
                    epoch=epoch,
                    occurred_at=[occurred_at for occurred_at, _ in events],
                    actor=f"trainer:{self._training}",
                )
                version += len(events)
                under_way.append((append, self._store.append(append)))
                if len(under_way) >= UNDER_WAY:
                    self._await(under_way)
        while under_way:
            self._await(under_way)

    def _await(self, under_way: deque[tuple[Append, Future[Any]]]) -> None:
        append, future = under_way.popleft()
        try:
            future.result()
        except EventLogError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever a column or an encoder says)
            _logger.warning("A batch of %s holds what the log cannot keep: %s", self._stream, error)
            later = [waiting for waiting, _ in under_way]
            under_way.clear()
            for each in (append, *later):
                # Those behind it have met a gap.
                intake.append_singly(self._store, each)
                self._count(each)
            return
        self._count(append)

    def _count(self, append: Append) -> None:
        self._events += len(append.events)
        if self._progress is not None:
            self._progress(self._training, self._events, self._total)
