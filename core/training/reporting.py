"""The trainer's log as events, and its progress as lines for the command that started it."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from events.event import Event
from events.log import Level, LogWritten
from events.training import TroubleReported

log = logging.getLogger("core.training")

Emit = Callable[[Event, int | None], None]
"""Takes an event and when it happened (µs since 1970; None: now)."""


class Troubles:
    """What is wrong while the training goes on, from several sources, told as an event whenever it changes."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._lock = threading.Lock()
        self._sentences: dict[str, str] = {}

    def tell(self, source: str, sentence: str | None) -> None:
        """What is wrong with `source` now; None: nothing."""
        with self._lock:
            if self._sentences.get(source) == sentence:
                return
            if sentence is None:
                del self._sentences[source]
            else:
                self._sentences[source] = sentence
            message = " ".join(self._sentences.values()) or None
        self._emit(TroubleReported(message=message), None)


_OURS = ("core", "events")


class EventHandler(logging.Handler):
    """Turns log records into `LogWritten`: ours from INFO on, other libraries' from WARNING on."""

    def __init__(self, emit: Emit) -> None:
        super().__init__(logging.INFO)
        self._emit = emit
        self._inside = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        ours = record.name.split(".", 1)[0] in _OURS
        return record.levelno >= (logging.INFO if ours else logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(self._inside, "busy", False):
            return  # what emitting an event logs cannot become an event itself
        self._inside.busy = True
        try:
            line = LogWritten(level=_level(record.levelno), logger=record.name, message=self.format(record))
            self._emit(line, int(record.created * 1e6))
        except Exception:  # noqa: BLE001 - a log line must never end a training
            self.handleError(record)
        finally:
            self._inside.busy = False


class Reporting:
    """Routes `logging`, `warnings` and uncaught exceptions of threads into events and to stderr."""

    def __init__(self, emit: Emit, stderr: TextIO | None = None) -> None:
        self._events = EventHandler(emit)
        self._stderr = logging.StreamHandler(stderr or sys.stderr)
        self._stderr.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._hooks: tuple[Any, Any] | None = None

    def __enter__(self) -> Reporting:
        root = logging.getLogger()
        self._levels = {name: logging.getLogger(name).level for name in _OURS}
        for name in _OURS:
            logging.getLogger(name).setLevel(logging.INFO)
        root.addHandler(self._events)
        root.addHandler(self._stderr)
        logging.captureWarnings(True)
        self._hooks = threading.excepthook, sys.unraisablehook
        threading.excepthook = _log_thread
        sys.unraisablehook = _log_unraisable
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        root = logging.getLogger()
        root.removeHandler(self._events)
        root.removeHandler(self._stderr)
        logging.captureWarnings(False)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        if self._hooks is not None:
            threading.excepthook, sys.unraisablehook = self._hooks


def include_libraries() -> None:
    """Libraries that keep their records from the root logger pass them on; call it once they are imported."""
    for name in ("transformers", "datasets", "huggingface_hub"):
        library = logging.getLogger(name)
        library.propagate = True
        # Their own handlers would print every line a second time.
        for handler in list(library.handlers):
            library.removeHandler(handler)


class Progress:
    """JSON lines on a stream, a few a second; a stream that nobody reads any more is left alone."""

    SECONDS = 0.2

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._last = 0.0

    def step(self, facts: dict[str, Any], *, last: bool = False) -> None:
        """A step's figures; most are left out so that the reader is not flooded, the `last` never."""
        now = time.monotonic()
        if last or now - self._last >= self.SECONDS:
            self._last = now
            self.say(facts)

    def phase(self, what: str, done: int, total: int | None) -> None:
        """How far the preparation is: `what` is being done, `done` of `total` (None: unknown)."""
        self.step({"phase": what, "done": done, "total": total}, last=done == total)

    def say(self, facts: dict[str, Any]) -> None:
        """One line."""
        if self._stream is None:
            return
        try:
            self._stream.write(json.dumps(facts) + "\n")
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._stream = None
            log.info("Nobody reads the progress any more (%s); training goes on.", error)


def rate_in_words(tokens_per_second: float) -> str:
    """182000 as `182 k tokens/s`."""
    if tokens_per_second >= 1e6:
        return f"{tokens_per_second / 1e6:.2f} M tokens/s"
    if tokens_per_second >= 1e3:
        return f"{tokens_per_second / 1e3:.0f} k tokens/s"
    return f"{tokens_per_second:.0f} tokens/s"


def _level(number: int) -> Level:
    if number >= logging.CRITICAL:
        return "CRITICAL"
    if number >= logging.ERROR:
        return "ERROR"
    return "WARNING" if number >= logging.WARNING else "INFO"


def _log_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None:
        name = arguments.thread.name if arguments.thread else "?"
        log.error("The thread %s ended with an error.", name, exc_info=arguments.exc_value)


def _log_unraisable(unraisable: Any) -> None:
    log.warning("An error in %r could only be ignored.", unraisable.object, exc_info=unraisable.exc_value)
