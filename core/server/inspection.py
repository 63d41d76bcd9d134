"""Looking at models, data sets and folders that the catalogue does not hold, in child processes, with a memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from core.activations.sources import SourceError, StoredActivations, local_path, require_hub_id
from core.catalogue import InspectionFailed, inspect_activations, inspect_dataset, inspect_model
from core.commands import RegisterDataset, RegisterModel
from events.catalog import DatasetRegistered, ModelRegistered

T = TypeVar("T")

SECONDS = 120.0
"""After which an inspection is given up."""

_REMEMBERED = 300.0
_FAILURES_REMEMBERED = 10.0
_AT_ONCE = 2


class Inspections:
    """Asks each question once for all who wait for the answer, and knows the answer for some minutes."""

    def __init__(self) -> None:
        self._answers: dict[RegisterModel | RegisterDataset | str, tuple[float, asyncio.Future[Any]]] = {}
        self._few = asyncio.Semaphore(_AT_ONCE)

    async def model(self, wanted: RegisterModel) -> ModelRegistered:
        """What the model is. Raises `InspectionFailed` with one sentence."""
        _require_source(wanted.source)

        def look() -> ModelRegistered:
            return inspect_model(wanted.source, revision=wanted.revision, model_id=wanted.model_id, timeout=SECONDS)

        return await self._ask(wanted, look)

    async def dataset(self, wanted: RegisterDataset) -> DatasetRegistered:
        """What the data set is. Raises `InspectionFailed` with one sentence."""
        _require_source(wanted.source)

        def look() -> DatasetRegistered:
            return inspect_dataset(
                wanted.source,
                pattern=wanted.pattern,
                configuration=wanted.configuration,
                split=wanted.split,
                text_column=wanted.text_column,
                revision=wanted.revision,
                dataset_id=wanted.dataset_id,
                timeout=SECONDS,
            )

        return await self._ask(wanted, look)

    async def activations(self, folder: str) -> StoredActivations:
        """What the folder of activations holds. Raises `InspectionFailed` with one sentence."""
        return await self._ask(folder, lambda: inspect_activations(folder, timeout=SECONDS))

    async def _ask(self, wanted: RegisterModel | RegisterDataset | str, look: Callable[[], T]) -> T:
        now = time.monotonic()
        for question, (until, answer) in list(self._answers.items()):
            failed = answer.done() and answer.exception() is not None
            if answer.done() and now > until - (_REMEMBERED - _FAILURES_REMEMBERED if failed else 0):
                del self._answers[question]
        known = self._answers.get(wanted)
        if known is None:
            answer = asyncio.ensure_future(self._look(look))
            self._answers[wanted] = known = (now + _REMEMBERED, answer)
        return await asyncio.shield(known[1])

    async def _look(self, look: Callable[[], T]) -> T:
        async with self._few:
            return await _in_daemon_thread(look)


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
