"""Who starts trainers, in which order, and who notices that one is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from bare_server import step
from server_harness import Client, FakeLaunch, serving
from websockets.asyncio.client import connect

from core import run as runs
from core.run import RunSpec
from events import segment, wire
from events.control import TrainingCreated
from events.emitter import Emitter
from events.event import Event
from events.ids import new_id
from events.spool import hold
from events.streams import Append
from events.training import Sae, TrainingResumed, TrainingStarted, TrainingStopped

STARTED = TrainingStarted(pid=0, host="here", device="cpu", saes=(Sae(layer=0, hook="resid_post"),))


async def steps(client: Client, training: str) -> list[int]:
    rows = (await client.get(f"trainings/{training}/metrics", limit=1_000_000))["data"]
    return [row["step"] for row in rows]


@pytest.mark.slow
async def test_what_finds_no_slot_waits_in_the_order_of_its_wish_and_says_for_what(
    client: Client, launch: FakeLaunch
) -> None:
    running = await client.create(name="first", total_steps=100_000)
    await client.until(running, "running")
    second, third = [await client.create(name=name, total_steps=2) for name in ("second", "third")]
    row = await client.get(f"trainings/{third}")
    assert row["status"] == "queued"
    assert row["reason"] == "Waits for a slot: 1 of 1 slots is taken, by first; 1 before it in the queue."
    assert len(launch.started) == 1
    assert (await client.control(second, "stop")).status_code == 202
    assert (await client.get(f"trainings/{second}"))["status"] == "stopped"
    # A wish to go on is newer than the third one's wish to begin.
    assert (await client.control(second, "resume")).status_code == 202
    await client.control(running, "stop")
    await client.until(second, "completed")
    assert [Path(command[2]).name for command in launch.commands] == [running, third, second]


@pytest.mark.crash
async def test_a_killed_trainer_is_interrupted_with_all_its_steps_and_resumes_without_doubles(
    client: Client, launch: FakeLaunch
) -> None:
    # Without a pause between steps, most of them are still under way when the process dies.
    training = await client.create(total_steps=20_000, data_seed=0, seed=14)
    row = await client.until(training, "interrupted")
    assert row["reason"] == "Its process was ended by SIGKILL; the system may have run out of memory."
    segments, damages = segment.load(client.server.studio.settings.run_folder(training) / "spool")
    assert damages == []
    assert client.server.studio.store.version(f"training-{training}") == segments[-1].last
    assert await steps(client, training) == list(range(1, 10_001))
    events = await client.get("events", stream=f"control-{training}", type="TrainingInterrupted")
    assert "the fake trainer says something on stderr" in events["data"][0]["data"]["stderr_tail"]
    await client.control(training, "resume")
    await client.until(training, "completed")
    assert await steps(client, training) == list(range(1, 20_001))
    assert len(launch.started) == 2


@pytest.mark.crash
async def test_a_trainer_outlives_the_server_and_the_next_one_has_every_step_once(tmp_path: Path) -> None:
    launch, folder = FakeLaunch(), tmp_path / "data"
    async with serving(folder, launch) as client:
        training = await client.create(total_steps=100_000)
        seen = (await client.until(training, "running", step=20))["step"]
    async with serving(folder, launch) as client:
        assert (await client.get(f"trainings/{training}"))["status"] == "running"
        await client.until(training, "running", step=seen + 20)
        await client.control(training, "stop")
        row = await client.until(training, "stopped")
        assert await steps(client, training) == list(range(1, row["step"] + 1))
        events = await client.get("events", stream=f"control-{training}")
        assert not [one for one in events["data"] if one["type"] == "TrainingInterrupted"]
    assert len(launch.started) == 1


@pytest.mark.crash
async def test_a_trainer_that_died_while_there_was_no_server_is_interrupted_or_resumed_at_the_next_start(
    tmp_path: Path,
) -> None:
    launch, folder = FakeLaunch(), tmp_path / "data"
    async with serving(folder, launch, slots=2) as client:
        plain = await client.create(total_steps=100_000)
        # It must not come to its end before it is killed.
        eager = await client.create(total_steps=200, data_seed=30, auto_resume=True, checkpoint_interval=10)
        for training in (eager, plain):
            await client.until(training, "running", step=20)
    for process in launch.started:
        process.kill()
        await asyncio.to_thread(process.wait)
    async with serving(folder, launch, slots=2) as client:
        row = await client.until(plain, "interrupted")
        assert row["reason"] == "Its process is gone."
        assert await steps(client, plain) == list(range(1, row["step"] + 1))
        await client.until(eager, "completed")
        assert await steps(client, eager) == list(range(1, 201))
    assert len(launch.started) == 3


@pytest.mark.slow
async def test_a_training_whose_run_folder_is_held_is_not_started_a_second_time(
    client: Client, launch: FakeLaunch
) -> None:
    """As after a crash between starting a process and recording that."""
    studio = client.server.studio
    running = await client.create(total_steps=100_000)
    await client.until(running, "running")
    waiting = await client.create(total_steps=3)
    with hold(studio.settings.run_folder(waiting)):
        await client.control(running, "stop")
        await client.until(running, "stopped")
        await asyncio.to_thread(launch.started[0].wait, 60)
        # It has had its slot by now, if the lock did not count.
        await studio.launcher._fill()
        assert len(launch.started) == 1
    studio.launcher.wake()
    await client.until(waiting, "completed")
    assert len(launch.started) == 2


class _Broken(FakeLaunch):
    def start(self, folder: Path, spec: RunSpec, *, environment: Mapping[str, str]):
        raise PermissionError("no more processes")


async def test_a_trainer_that_cannot_be_started_is_told_and_does_not_block_the_queue(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", _Broken()) as client:
        training = await client.create()
        row = await client.until(training, "interrupted")
        assert row["reason"] == "Its trainer could not be started: no more processes"


async def test_a_training_whose_files_are_elsewhere_cannot_be_resumed_here(client: Client) -> None:
    training = "0" * 14
    created = TrainingCreated(name="headless", launcher="external")
    await client.server.studio.append(Append(f"control-{training}", [created]))
    assert (await client.get(f"trainings/{training}"))["status"] == "starting"
    await client.control(training, "stop")
    store = client.server.studio.store
    claim = await asyncio.wrap_future(store.claim(f"training-{training}"))
    await client.server.studio.append(Append(f"training-{training}", [TrainingStopped(step=1)], epoch=claim.epoch))
    answer = await client.control(training, "resume")
    assert answer.status_code == 409
    assert answer.json()["detail"] == "This training's files are not on this machine; resume it where it ran."


async def test_the_run_folder_tells_the_trainer_everything(client: Client) -> None:
    training = await client.create(name="told", total_steps=2)
    spec = runs.read(client.server.studio.settings.run_folder(training))
    assert (spec.id, spec.name, spec.resume) == (training, "told", False)
    assert spec.model.hidden_dim == spec.config.hidden_dim == 64
    assert [dataset.dataset_id for dataset in spec.datasets] == ["words"]
    assert spec.config.learning_rate is not None
    await client.until(training, "completed")


def spooled(client: Client, training: str, events: Sequence[Event]) -> None:
    """A process writes `events` into a training's run folder without reaching the server, and is gone."""
    folder = client.server.studio.settings.run_folder(training)
    with hold(folder):
        emitter = Emitter(folder, training, address=lambda: None, created=TrainingCreated(name="elsewhere"))
        for event in events:
            emitter.emit(event)
        emitter.close(0)


async def known(client: Client, training: str) -> None:
    """Until the log has heard of a training."""
    async with asyncio.timeout(60), client.commits() as committed:
        while client.server.studio.store.version(f"control-{training}") == 0:
            await committed.wait()
            committed.clear()


@pytest.mark.slow
async def test_what_a_writer_left_that_never_reached_the_server_is_taken_in_while_that_runs(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", FakeLaunch()) as client:
        training = new_id()
        await asyncio.to_thread(spooled, client, training, [STARTED, step(1), step(2)])
        await known(client, training)
        await client.until(training, "interrupted", step=2)
        assert await steps(client, training) == [1, 2]


@pytest.mark.slow
async def test_a_writer_that_is_killed_between_its_claim_and_its_first_events_leaves_nothing_outside(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path / "data", FakeLaunch()) as client:
        training = new_id()
        await asyncio.to_thread(spooled, client, training, [STARTED, step(1)])
        await known(client, training)
        await client.until(training, "interrupted", step=1)
        # The next one claims the stream of a training that is interrupted, and nothing of it arrives.
        version = client.server.studio.store.version(f"training-{training}")
        url = f"{client.server.url.replace('http', 'ws')}/api/v1/ingest"
        async with connect(url, proxy=None) as socket:
            await socket.send(msgspec.msgpack.encode(wire.Hello(stream=f"training-{training}", version=version)))
            msgspec.msgpack.decode(await socket.recv(), type=wire.Ready)
            await asyncio.to_thread(spooled, client, training, [TrainingResumed(step=1), STARTED, step(2)])
        await client.until(training, "interrupted", step=2)
        assert await steps(client, training) == [1, 2]
