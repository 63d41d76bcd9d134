"""The log becomes events, progress becomes lines, and neither can end a training."""

from __future__ import annotations

import gc
import io
import json
import logging
import threading
import warnings

import pytest
from synthetic import Told

from core.training.reporting import Progress, Reporting, include_libraries, rate_in_words
from events.event import Event
from events.log import LogWritten


def _lines(told: Told) -> list[tuple[str, str, str]]:
    return [(e.level, e.logger, e.message) for e in told.events if isinstance(e, LogWritten)]


def test_ours_are_told_from_info_and_others_from_warning() -> None:
    told, stderr = Told(), io.StringIO()
    with Reporting(told, stderr):
        logging.getLogger("core.training").info("ours %s", 1)
        logging.getLogger("core.training").debug("too small")
        logging.getLogger("events.emitter").info("also ours")
        logging.getLogger("somebody").info("too small")
        logging.getLogger("somebody").warning("theirs")
        logging.getLogger("corelib").info("not ours")
    assert _lines(told) == [
        ("INFO", "core.training", "ours 1"),
        ("INFO", "events.emitter", "also ours"),
        ("WARNING", "somebody", "theirs"),
    ]
    assert "ours 1" in stderr.getvalue()
    logging.getLogger("core.training").error("afterwards")
    assert len(told.events) == 3


def test_a_traceback_is_part_of_its_line() -> None:
    told = Told()
    with Reporting(told, io.StringIO()):
        try:
            raise RuntimeError("the reason")
        except RuntimeError:
            logging.getLogger("core.training").exception("It failed.")
    ((level, _, message),) = _lines(told)
    assert level == "ERROR"
    assert message.startswith("It failed.\nTraceback")
    assert "the reason" in message


def test_warnings_of_libraries_are_told() -> None:
    told = Told()
    with warnings.catch_warnings(), Reporting(told, io.StringIO()):
        warnings.simplefilter("default")
        warnings.warn("an old option", UserWarning, stacklevel=1)
    ((level, logger, message),) = _lines(told)
    assert (level, logger) == ("WARNING", "py.warnings")
    assert "an old option" in message


def test_libraries_that_keep_their_log_to_themselves_are_told_too() -> None:
    library = logging.getLogger("transformers")
    before = library.propagate, list(library.handlers)
    library.propagate = False
    told = Told()
    try:
        with Reporting(told, io.StringIO()):
            include_libraries()
            logging.getLogger("transformers.somewhere").warning("an odd checkpoint")
    finally:
        library.propagate = before[0]
        for handler in before[1]:
            library.addHandler(handler)
    assert _lines(told) == [("WARNING", "transformers.somewhere", "an odd checkpoint")]


def test_a_thread_that_dies_and_an_error_in_a_finaliser_are_told() -> None:
    class Bad:
        def __del__(self) -> None:
            raise ValueError("in the finaliser")

    told = Told()
    with Reporting(told, io.StringIO()):
        thread = threading.Thread(target=lambda: 1 / 0, name="worker")
        thread.start()
        thread.join()
        Bad()
        gc.collect()
    text = str(_lines(told))
    assert "worker" in text
    assert "ZeroDivisionError" in text
    assert "in the finaliser" in text


def test_a_line_that_is_written_while_a_line_is_emitted_does_not_recurse() -> None:
    seen: list[Event] = []

    def emit(event: Event, _: int | None) -> None:
        seen.append(event)
        logging.getLogger("events.emitter").warning("trouble while emitting")

    with Reporting(emit, io.StringIO()):
        logging.getLogger("core.training").info("one")
    assert len(seen) == 1


def test_an_emitter_that_fails_does_not_end_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    def emit(_: Event, __: int | None) -> None:
        raise OSError("disk full")

    with Reporting(emit, io.StringIO()):
        logging.getLogger("core.training").info("one")
    assert "disk full" in capsys.readouterr().err


def test_progress_is_a_few_json_lines_and_always_the_last() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    for step in range(1, 1001):
        progress.step({"step": step}, last=step == 1000)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0] == {"step": 1}
    assert lines[-1] == {"step": 1000}
    assert len(lines) < 50


def test_a_reader_that_has_gone_is_no_reason_to_stop() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    stream.close()
    progress.say({"step": 1})
    progress.say({"step": 2})


def test_rates_are_short() -> None:
    assert rate_in_words(182_400) == "182 k tokens/s"
    assert rate_in_words(1_240_000) == "1.24 M tokens/s"
    assert rate_in_words(12.3) == "12 tokens/s"
