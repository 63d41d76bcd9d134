"""The trainer as a process: how it ends, what it survives, and that a kill costs nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bare_server import BareServer, bare_server, wait_for
from runs import Log, history, run_folder, trainer

from core.training.checkpoint import load
from events.control import CheckpointRequested, PauseRequested
from events.event import Event
from events.log import LogWritten
from events.spool import hold
from events.streams import CONTROL, TRAINING, Append
from events.training import (
    CheckpointSaved,
    StepTrained,
    TrainingCompleted,
    TrainingFailed,
    TrainingPaused,
    TrainingResumed,
    TrainingStarted,
)

HELD = 75


def _wait_for_step(process: subprocess.Popen[str], step: int) -> None:
    """Read progress lines until the training has taken `step`."""
    assert process.stdout is not None
    for line in process.stdout:
        facts = json.loads(line)
        assert "ended" not in facts, f"ended before step {step}: {facts}"
        if facts.get("step", 0) >= step:
            return
    raise AssertionError(f"the trainer was gone before step {step}")


def _finish(process: subprocess.Popen[str]) -> int:
    process.communicate()
    return process.returncode


def _of(told: list[Event], kind: type[Event]) -> list[Event]:
    return [event for event in told if isinstance(event, kind)]


@pytest.mark.slow
def test_a_run_folder_that_is_held_is_left_alone(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    with hold(folder):
        ended = subprocess.run(
            [sys.executable, "-m", "core.training", str(folder)], capture_output=True, text=True, check=False
        )
    assert ended.returncode == HELD
    assert "held by process" in ended.stderr
    assert not (folder / "spool").exists()


def test_a_folder_without_a_specification_is_told_in_a_sentence(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "core.training", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "run.json cannot be read" in ended.stderr
    assert "Traceback" not in ended.stderr


_AUTOENCODERS = (
    {},
    *({"architecture_type": one} for one in ("batchtopk", "matryoshka", "standard", "gated", "jumprelu")),
)
_TRANSCODERS = ({}, {"architecture_type": "skip", "activation": "jumprelu", "k": 8, "target_l0": 0.03})


@pytest.mark.crash
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "what",
    [
        {},
        {"variants": _AUTOENCODERS, "training_layers": (1,)},
        {
            "architecture_type": "transcoder",
            "hook_types": ("mlp_in",),
            "training_layers": (1,),
            "variants": _TRANSCODERS,
        },
    ],
    ids=["topk", "autoencoders", "transcoders"],
)
def test_forty_steps_are_twenty_a_kill_and_twenty_more(tmp_path: Path, what: dict[str, Any]) -> None:
    shape = {"total_steps": 40, "batch_size": 2048, "checkpoint_interval": 20, "dead_token_threshold": 10_000, **what}
    straight, killed = run_folder(tmp_path, **shape), run_folder(tmp_path, **shape)
    with trainer(straight) as process:
        assert _finish(process) == 0
    with trainer(killed) as process:
        _wait_for_step(process, 21)
        process.send_signal(signal.SIGKILL)
        assert _finish(process) == -signal.SIGKILL
    log = Log()
    first = log.events(killed)
    assert not _of(first, TrainingCompleted)
    assert 21 <= max(event.step for event in first if isinstance(event, StepTrained)) < 40
    with trainer(killed, "--resume") as process:
        assert _finish(process) == 0

    told = log.events(killed)
    assert told[: len(first)] == first
    assert _of(told, TrainingResumed) == [TrainingResumed(step=20)]
    assert history(told) == history(log.events(straight))
    saes = len(what.get("variants", ())) or 2
    assert len(history(told)) == saes * 40
    ours, theirs = (load(folder / "checkpoints" / "step-00000040") for folder in (killed, straight))
    for file in (f"{part}-{sae}" for part in ("sae", "optimiser") for sae in range(saes)):
        assert ours.tensors[file].keys() == theirs.tensors[file].keys()
        for name, tensor in ours.tensors[file].items():
            assert torch.equal(tensor, theirs.tensors[file][name]), f"{file}: {name}"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    folder = run_folder(tmp_path, total_steps=100_000, checkpoint_interval=0)
    with trainer(folder) as process:
        _wait_for_step(process, 5)
        process.send_signal(number)
        assert _finish(process) == 0
    told = Log().events(folder)
    (paused,) = _of(told, TrainingPaused)
    (saved,) = _of(told, CheckpointSaved)
    assert isinstance(paused, TrainingPaused)
    assert isinstance(saved, CheckpointSaved)
    assert (saved.step, saved.reason) == (paused.step, "pause")
    assert load(Path(saved.path)).step == paused.step


@pytest.mark.slow
def test_a_failure_is_told_in_a_sentence_with_its_traceback(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, training_layers=(1, 9))
    with trainer(folder) as process:
        assert process.stdout is not None
        lines = [json.loads(line) for line in process.stdout]
        assert _finish(process) == 1
    told = Log().events(folder)
    (failed,) = _of(told, TrainingFailed)
    assert isinstance(failed, TrainingFailed)
    assert "layer 9 does not exist" in failed.error
    assert "\n" not in failed.error
    assert "Traceback" in failed.traceback
    assert lines[-1] == {"ended": "failed", "error": failed.error}
    errors = [event for event in told if isinstance(event, LogWritten) and event.level == "ERROR"]
    assert "Traceback" in errors[-1].message
    assert not _of(told, TrainingStarted)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BareServer]:
    with bare_server(tmp_path / "log") as running:
        (tmp_path / "server.json").write_text(json.dumps({"url": running.url, "pid": 0}))
        yield running


def _told(server: BareServer, folder: Path) -> list[Event]:
    return [each.data for each in server.store.read_stream(TRAINING + folder.name, limit=100_000)]


@pytest.mark.slow
def test_it_follows_its_control_over_the_socket(tmp_path: Path, server: BareServer) -> None:
    folder = run_folder(tmp_path, total_steps=100_000, checkpoint_interval=0)
    server.create(folder.name)

    def ask(event: Event) -> None:
        server.store.append(Append(CONTROL + folder.name, [event])).result()

    with trainer(folder) as process:
        _wait_for_step(process, 3)
        ask(CheckpointRequested())
        wait_for(lambda: _of(_told(server, folder), CheckpointSaved), 60)
        ask(PauseRequested())
        assert _finish(process) == 0
    # The log has everything before the process ends: nothing needs to be taken in from its spool.
    told = _told(server, folder)
    (paused,) = _of(told, TrainingPaused)
    assert isinstance(paused, TrainingPaused)
    assert [event.reason for event in told if isinstance(event, CheckpointSaved)] == ["request", "pause"]
    assert told[-1] == paused
    steps = [event.step for event in told if isinstance(event, StepTrained) and event.sae == 1]
    assert steps == list(range(1, paused.step + 1))


@pytest.mark.slow
def test_a_server_that_goes_away_does_not_stop_it(tmp_path: Path, server: BareServer) -> None:
    folder = run_folder(tmp_path, total_steps=600, checkpoint_interval=0)
    server.create(folder.name)
    with trainer(folder) as process:
        _wait_for_step(process, 3)
        wait_for(lambda: server.store.version(TRAINING + folder.name) > 0, 60)
        server.stop()
        _wait_for_step(process, 300)
        server.start()
        assert _finish(process) == 0
    told = _told(server, folder)
    steps = [event.step for event in told if isinstance(event, StepTrained) and event.sae == 0]
    assert steps == list(range(1, 601))
    assert isinstance(told[-1], TrainingCompleted)
