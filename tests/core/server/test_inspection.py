"""Inspections: each question is asked once, remembered for a while, and waited for by nobody who leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from server_harness import TINY

from core.catalogue import InspectionFailed
from core.commands import RegisterDataset, RegisterModel
from core.server import inspection
from core.server.inspection import Inspections
from events.catalog import ModelRegistered


async def test_one_child_answers_all_who_ask_the_same_and_a_success_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def look(source: str, **options: object) -> ModelRegistered:
        asked.append(source)
        return TINY

    monkeypatch.setattr(inspection, "inspect_model", look)
    inspections = Inspections()
    wanted = RegisterModel(source="owner/tiny")
    assert await asyncio.gather(*(inspections.model(wanted) for _ in range(5))) == [TINY] * 5
    assert await inspections.model(wanted) == TINY
    assert asked == ["owner/tiny"]
    await inspections.model(RegisterModel(source="owner/tiny", revision="main"))
    assert asked == ["owner/tiny", "owner/tiny"]


async def test_a_failure_is_told_to_all_and_asked_anew_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def look(source: str, **options: object) -> ModelRegistered:
        asked.append(source)
        raise InspectionFailed("It is broken.")

    monkeypatch.setattr(inspection, "inspect_model", look)
    monkeypatch.setattr(inspection, "_FAILURES_REMEMBERED", 0.0)
    inspections = Inspections()
    for _ in range(2):
        with pytest.raises(InspectionFailed, match="It is broken"):
            await inspections.model(RegisterModel(source="owner/tiny"))
    assert len(asked) == 2


async def test_who_gives_up_does_not_end_the_inspection_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def look(source: str, **options: object) -> ModelRegistered:
        assert go.wait(60)
        return TINY

    monkeypatch.setattr(inspection, "inspect_model", look)
    inspections = Inspections()
    wanted = RegisterModel(source="owner/tiny")
    leaving, staying = (asyncio.create_task(inspections.model(wanted)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    go.set()
    assert await staying == TINY


async def test_what_an_inspection_does_is_told_as_long_as_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said, go = threading.Event(), threading.Event()

    def look(source: str, *, on_progress: Callable[[str], None], **options: object) -> ModelRegistered:
        on_progress("reading the configuration")
        said.set()
        assert go.wait(60)
        return TINY

    monkeypatch.setattr(inspection, "inspect_model", look)
    inspections = Inspections()
    asked = asyncio.create_task(inspections.model(RegisterModel(source="owner/tiny")))
    assert await asyncio.to_thread(said.wait, 60)
    (one,) = inspections.going_on()
    assert (one.kind, one.source, one.doing) == ("model", "owner/tiny", "reading the configuration")
    assert one.seconds >= 0
    go.set()
    assert await asked == TINY
    assert inspections.going_on() == ()


async def test_what_cannot_be_a_path_or_a_hub_id_is_refused_without_a_child(tmp_path: Path) -> None:
    inspections = Inspections()
    with pytest.raises(InspectionFailed, match="There is no file or folder"):
        await inspections.dataset(RegisterDataset(source=str(tmp_path / "missing")))
    with pytest.raises(InspectionFailed, match="neither an existing path nor a hub id"):
        await inspections.model(RegisterModel(source="two words"))
