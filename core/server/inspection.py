"""Looking at models, data sets and folders that the catalogue does not hold, in child processes, with a memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from core.activations.sources import SourceError, StoredActivations, local_path, require_hub_id
from core.catalogue import InspectionFailed, inspect_activations, inspect_dataset, inspect_model
from core.commands import RegisterDataset, RegisterModel
from events.catalog import DatasetRegistered, ModelRegistered

T = TypeVar("T")
Say = Callable[[str], None]

SECONDS = 120.0
"""After which an inspection is given up."""

Kind = Literal["model", "dataset", "activations"]

_REMEMBERED = 300.0
_FAILURES_REMEMBERED = 10.0
_AT_ONCE = 2


class GoingOn:
    """An inspection that has no answer yet. `doing` is what its child process said last."""

    def __init__(self, kind: Kind, source: str) -> None:
        self.kind: Kind = kind
        self.source = source
        self.doing = "waiting for other inspections"
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """For how long it goes on."""
        return time.monotonic() - self._began

    def say(self, doing: str) -> None:
        """Called by the thread that reads what the child process says."""
        self.doing = doing


class Inspections:
    """Asks each question once for all who wait for the answer, and knows the answer for some minutes."""

    def __init__(self) -> None:
        self._going_on: list[GoingOn] = []
        self._answers: dict[RegisterModel | RegisterDataset | str, tuple[float, asyncio.Future[Any]]] = {}
        self._few = asyncio.Semaphore(_AT_ONCE)

    def going_on(self) -> tuple[GoingOn, ...]:
        """The inspections without an answer, the oldest first."""
        return tuple(self._going_on)

    async def model(self, wanted: RegisterModel) -> ModelRegistered:
        """What the model is. Raises `InspectionFailed` with one sentence."""
        _require_source(wanted.source)

        def look(say: Say) -> ModelRegistered:
            return inspect_model(
                wanted.source,
                revision=wanted.revision,
                model_id=wanted.model_id,
                on_progress=say,
                timeout=SECONDS,
            )

        return await self._ask(wanted, GoingOn("model", wanted.source), look)

    async def dataset(self, wanted: RegisterDataset) -> DatasetRegistered:
        """What the data set is. Raises `InspectionFailed` with one sentence."""
        _require_source(wanted.source)

        def look(say: Say) -> DatasetRegistered:
            return inspect_dataset(
                wanted.source,
                pattern=wanted.pattern,
                configuration=wanted.configuration,
                split=wanted.split,
                text_column=wanted.text_column,
                revision=wanted.revision,
                dataset_id=wanted.dataset_id,
                on_progress=say,
                timeout=SECONDS,
            )

        return await self._ask(wanted, GoingOn("dataset", wanted.source), look)

    async def activations(self, folder: str) -> StoredActivations:
        """What the folder of activations holds. Raises `InspectionFailed` with one sentence."""

        def look(say: Say) -> StoredActivations:
            return inspect_activations(folder, on_progress=say, timeout=SECONDS)

        return await self._ask(folder, GoingOn("activations", folder), look)

    async def _ask(
        self, wanted: RegisterModel | RegisterDataset | str, going_on: GoingOn, look: Callable[[Say], T]
    ) -> T:
        now = time.monotonic()
        for question, (until, answer) in list(self._answers.items()):
            failed = answer.done() and answer.exception() is not None
            if answer.done() and now > until - (_REMEMBERED - _FAILURES_REMEMBERED if failed else 0):
                del self._answers[question]
        known = self._answers.get(wanted)
        if known is None:
            answer = asyncio.ensure_future(self._look(going_on, look))
            self._answers[wanted] = known = (now + _REMEMBERED, answer)
        return await asyncio.shield(known[1])

    async def _look(self, going_on: GoingOn, look: Callable[[Say], T]) -> T:
        self._going_on.append(going_on)
        try:
            async with self._few:
                going_on.say("starting")
                return await _in_daemon_thread(lambda: look(going_on.say))
        finally:
            self._going_on.remove(going_on)


def _require_source(source: str) -> None:
    """Refuses at once what no child process has to look for."""
    try:
        if local_path(source) is None:
            require_hub_id(source)
    except SourceError as error:
        raise InspectionFailed(str(error)) from error


async def _in_daemon_thread(work: Callable[[], T]) -> T:
    """As `asyncio.to_thread`, in a thread that the end of the server does not wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except InspectionFailed as failed:
            error = failed
        except Exception as unforeseen:  # noqa: BLE001 the one who waits is told, whatever it was
            error = unforeseen
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            # The loop ended meanwhile: nobody waits for the answer.
            return

    threading.Thread(target=run, name="inspection", daemon=True).start()
    return await future
