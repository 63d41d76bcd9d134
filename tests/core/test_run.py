"""A run folder's specification, settings, and the lock on a data directory."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from core import lock, run
from core.settings import Settings
from events.catalog import DatasetRegistered, ModelRegistered
from events.control import TrainingCreated
from events.errors import DataDirectoryInUse
from events.training import TrainingConfig

CONFIG = TrainingConfig(model="tiny", datasets=("text",), k=4)
SPEC = run.RunSpec(
    id="0" * 14,
    name="a run",
    config=CONFIG,
    model=ModelRegistered(model_id="tiny", source="/m", hidden_dim=8, layers=1, hooks=("resid_post",), context_size=16),
    datasets=(DatasetRegistered(dataset_id="text", source="/t", format="text"),),
    data_dir=Path("/data"),
    created_at=7,
    created=TrainingCreated(name="a run", config=CONFIG),
)


def test_a_specification_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / SPEC.id
    run.write(folder, SPEC)
    assert run.read(folder) == SPEC
    again = msgspec.structs.replace(SPEC, resume=True)
    run.write(folder, again)
    assert run.read(folder).resume is True
    assert [path.name for path in folder.iterdir()] == [run.RUN_FILE]


def test_a_specification_that_is_missing_or_damaged_is_named_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(run.RunSpecError, match=r"run\.json cannot be read: No such file"):
        run.read(tmp_path)
    (tmp_path / run.RUN_FILE).write_bytes(b'{"id": 1}')
    with pytest.raises(run.RunSpecError, match=r"run\.json is not a run specification"):
        run.read(tmp_path)


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    run.write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        run.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["token"]


def test_settings_are_absolute_and_sane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.data_dir == tmp_path / "saestudio-data"
    assert settings.run_folder("x") == tmp_path / "saestudio-data" / "trainings" / "x"
    for wrong in ({"port": 70_000}, {"port": -1}, {"slots": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Settings(**wrong)  # type: ignore[arg-type]


def test_the_data_directory_has_one_holder_who_is_named(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    with lock.hold(settings) as held:
        assert settings.data_dir.stat().st_mode & 0o077 == 0
        with pytest.raises(DataDirectoryInUse, match=f"process {os.getpid()}"):
            lock.hold(settings)
        held.tell("http://127.0.0.1:1")
        with pytest.raises(DataDirectoryInUse, match=r"\(http://127\.0\.0\.1:1\)"):
            lock.hold(settings)
    with lock.hold(settings), pytest.raises(DataDirectoryInUse) as refused:
        lock.hold(settings)
    # The one before is not named any more.
    assert "http" not in str(refused.value)
