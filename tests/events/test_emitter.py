"""The emitter: every event that was emitted is in the log once, in order, whatever happens to server and process."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from bare_server import BareServer, Relay, bare_server, free_port, step, wait_for

from core.server.adoption import adopt_folder
from events import emitter, segment
from events.client import ServerAddress
from events.control import (
    CheckpointRequested,
    PauseRequested,
    ResumeRequested,
    StopRequested,
    TrainingCreated,
    WriterClaimed,
)
from events.emitter import MAX_FRAME, Emitter, encode_frame
from events.errors import SpoolError
from events.event import EventRejected, Recorded, UnknownEvent
from events.ids import new_id
from events.log import LogWritten
from events.spool import hold
from events.store import EventStore
from events.streams import CONTROL, Append
from events.training import StepTrained

SMALL = 4096


def stream(store: EventStore, name: str) -> list[Recorded]:
    events: list[Recorded] = []
    while page := store.read_stream(name, len(events), 50_000):
        events += page
    return events


def steps(store: EventStore, training: str) -> list[int]:
    """The steps in the log, checked for versions 1..n."""
    events = stream(store, f"training-{training}")
    assert [each.version for each in events] == list(range(1, len(events) + 1))
    return [each.data.step for each in events if isinstance(each.data, StepTrained)]


def claims(store: EventStore, training: str) -> list[tuple[int, int]]:
    return [
        (each.data.epoch, each.data.first_version)
        for each in stream(store, f"control-{training}")
        if isinstance(each.data, WriterClaimed)
    ]


class Trainer:
    """An emitter in this process, which can be left like one that was killed."""

    def __init__(
        self, folder: Path, training: str, address: Callable[[], ServerAddress | None], **options: Any
    ) -> None:
        self.lock = hold(folder)
        self.said: list[str] = []
        self.controls: list[Recorded] = []
        self.emitter = Emitter(
            folder,
            training,
            address=address,
            on_trouble=self.said.append,
            on_control=self.controls.append,
            segment_size=options.pop("segment_size", SMALL),
            **options,
        )
        self.number = 0

    def emit(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.emitter.emit(step(self.number))

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.emitter.close(0)
        self.lock.release()


def nowhere() -> None:
    return None


def kept(trainer: Trainer) -> int:
    """How many events its spool still has."""
    return sum(each.count for each in trainer.emitter._spool.segments)


# Without trouble


def test_emitted_events_are_in_the_log_once_in_order_with_their_own_times(server: BareServer, tmp_path: Path) -> None:
    training = server.create()
    began = time.time_ns() // 1_000
    with Trainer(tmp_path / "run", training, lambda: server.address) as trainer:
        trainer.emit(5_000)
        ended = time.time_ns() // 1_000
        assert trainer.emitter.flush(60)
        assert trainer.emitter.acknowledged == trainer.emitter.version == 5_000
        assert trainer.emitter.connected
    assert steps(server.store, training) == list(range(1, 5_001))
    times = [each.occurred_at for each in stream(server.store, f"training-{training}")]
    assert times == sorted(times)
    assert began <= times[0] <= times[-1] <= ended
    assert trainer.said == []


def test_an_event_wakes_a_sender_at_rest_and_so_does_the_end(
    server: BareServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long that nothing else ends its rest.
    monkeypatch.setattr(emitter, "_LISTEN", 600.0)
    training = server.create()
    with Trainer(tmp_path / "run", training, lambda: server.address) as trainer:
        for _ in range(5):
            wait_for(lambda: trainer.emitter._resting)
            trainer.emit(1)
            assert trainer.emitter.flush(60)
        wait_for(lambda: trainer.emitter._resting)
        assert trainer.emitter.close()
        assert not any(thread.is_alive() for thread in trainer.emitter._threads)
    assert steps(server.store, training) == [1, 2, 3, 4, 5]


def test_an_event_that_comes_just_before_a_sender_rests_is_not_slept_over(
    server: BareServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emitter, "_LISTEN", 600.0)
    training = server.create()
    with Trainer(tmp_path / "run", training, lambda: server.address) as trainer:
        wait_for(lambda: trainer.emitter._resting)
        # The next rest begins when an event is there already, of which nobody has woken the sender.
        monkeypatch.setattr(trainer.emitter, "_rouse", lambda: None)
        trainer.emit(1)
        trainer.emitter._wake.put(None)
        assert trainer.emitter.flush(60)
        rest, version = emitter._Delivery._rest, trainer.emitter.version
        sleeper = emitter._Delivery(trainer.emitter, trainer.emitter._spool, None, server.address)  # type: ignore[arg-type]
        assert rest(sleeper, version - 1)
        monkeypatch.undo()
        trainer.emitter._wake.put(None)
    assert steps(server.store, training) == [1]


def test_every_thread_may_emit(server: BareServer, tmp_path: Path) -> None:
    training = server.create()
    with Trainer(tmp_path / "run", training, lambda: server.address) as trainer:

        def run(name: str) -> None:
            for number in range(300):
                trainer.emitter.emit(LogWritten(level="INFO", logger=name, message=str(number)))

        threads = [threading.Thread(target=run, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert trainer.emitter.flush(60)
    found = [each.data for each in stream(server.store, f"training-{training}")]
    for name in "abcd":
        lines = [each.message for each in found if isinstance(each, LogWritten) and each.logger == name]
        assert lines == [str(number) for number in range(300)]


def test_values_are_float32_live_and_replayed(server: BareServer, tmp_path: Path) -> None:
    training = server.create()
    with Trainer(tmp_path / "run", training, lambda: server.address) as trainer:
        trainer.emit(3)
        trainer.emitter.emit(step(4, loss=float("nan"), grad_norm=float("inf"), fvu=1e300))
        assert trainer.emitter.flush(60)
    live = list(server.store.read(0).events)
    server.stop()
    server.start()
    replayed = list(server.store.read(0).events)
    assert msgspec.json.encode([each.data for each in live]) == msgspec.json.encode([each.data for each in replayed])
    first, last = live[-4].data, live[-1].data
    assert isinstance(first, StepTrained)
    assert isinstance(last, StepTrained)
    assert first.loss == float(np.float32(1.1))
    assert first.learning_rate == 2.1e-4
    assert np.isnan(last.loss)
    assert last.grad_norm == last.fvu == float("inf")


def test_what_no_event_can_hold_is_refused_at_once_and_harms_nothing(server: BareServer, tmp_path: Path) -> None:
    training = server.create()
    with Trainer(tmp_path / "run", training, lambda: server.address) as trainer:
        trainer.emit(1)
        with pytest.raises(TypeError):
            trainer.emitter.emit(step(2, loss=object()))
        trainer.number = 1
        trainer.emit(1)
        assert trainer.emitter.flush(60)
    assert steps(server.store, training) == [1, 2]


def test_an_event_that_is_too_large_is_replaced_in_its_place(server: BareServer, tmp_path: Path) -> None:
    training = server.create()
    with Trainer(tmp_path / "run", training, lambda: server.address) as trainer:
        trainer.emitter.emit(LogWritten(level="INFO", logger="l", message="x" * (MAX_FRAME - 200)))
        trainer.emitter.emit(LogWritten(level="INFO", logger="l", message="x" * MAX_FRAME))
        trainer.emit(1)
        assert trainer.emitter.flush(60)
    large, too_large, after = (each.data for each in stream(server.store, f"training-{training}"))
    assert isinstance(large, LogWritten)
    assert isinstance(too_large, EventRejected)
    assert "LogWritten has 1,048," in too_large.reason
    assert isinstance(after, StepTrained)


def test_an_event_of_a_newer_program_is_kept_as_it_is(server: BareServer, tmp_path: Path) -> None:
    training = server.create()
    event = UnknownEvent(name="LatentNamed", data={"latent": 7, "name": "seven"})
    with Trainer(tmp_path / "run", training, lambda: server.address) as trainer:
        trainer.emitter.emit(event)
        assert trainer.emitter.flush(60)
    assert [each.data for each in stream(server.store, f"training-{training}")] == [event]


def test_where_nothing_was_emitted_nothing_is_waited_for(tmp_path: Path) -> None:
    with Trainer(tmp_path / "run", new_id(), nowhere) as trainer:
        assert trainer.emitter.flush(0)
        trainer.emit(1)
        assert not trainer.emitter.flush(0)


# Server away


def test_training_goes_on_without_a_server_and_everything_arrives_later(server: BareServer, tmp_path: Path) -> None:
    training = server.create()
    place: list[ServerAddress] = []
    with Trainer(tmp_path / "run", training, lambda: place[0] if place else None) as trainer:
        trainer.emit(1_000)
        assert not trainer.emitter.flush(0.1)
        assert not trainer.emitter.connected
        assert steps(server.store, training) == []
        wait_for(lambda: trainer.said)
        place.append(server.address)
        trainer.emit(1_000)
        assert trainer.emitter.flush(60)
    assert steps(server.store, training) == list(range(1, 2_001))
    assert any("until a server takes them" in sentence for sentence in trainer.said)


@pytest.mark.slow
def test_lost_connections_and_a_server_that_starts_again_lose_and_repeat_nothing(
    server: BareServer, tmp_path: Path
) -> None:
    training = server.create()
    relay = Relay(server.port)
    with Trainer(tmp_path / "run", training, lambda: ServerAddress(relay.url)) as trainer:
        before = 0
        for attempt in range(8):
            while relay.connections == before or not trainer.emitter.connected:
                trainer.emit(10)
                time.sleep(0.001)
            trainer.emit(500)
            if attempt == 4:
                server.stop()
                trainer.emit(100)
                server.start()
            before = relay.connections
            relay.cut()
            wait_for(lambda cut=before: relay.connections > cut or not trainer.emitter.connected)
        assert trainer.emitter.flush(60)
    assert relay.connections >= 8
    relay.close()
    assert steps(server.store, training) == list(range(1, trainer.number + 1))
    assert len(claims(server.store, training)) == 1


@pytest.mark.slow
def test_a_log_that_takes_nothing_for_a_while_gets_everything_later(
    server: BareServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import Future

    from core.server import ws
    from events.errors import LogUnavailable

    monkeypatch.setattr(ws, "RETRY_AFTER", 0.05)
    monkeypatch.setattr(emitter, "_PAUSE", 0.05)
    training = server.create()
    append = server.store.append
    refused = 0

    def refuse(*appends: Append) -> Future[Any]:
        nonlocal refused
        if refused >= 3:
            return append(*appends)
        refused += 1
        future: Future[Any] = Future()
        future.set_exception(LogUnavailable("The disk is full."))
        return future

    monkeypatch.setattr(server.store, "append", refuse)
    with Trainer(tmp_path / "run", training, lambda: server.address) as trainer:
        trainer.emit(5_000)
        assert trainer.emitter.flush(60)
    assert refused == 3
    assert steps(server.store, training) == list(range(1, 5_001))
    assert any("The disk is full" in sentence for sentence in trainer.said)


def test_closing_does_not_wait_longer_than_it_is_told(tmp_path: Path) -> None:
    # A server that takes connections and answers nothing.
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = ServerAddress(f"http://127.0.0.1:{silent.getsockname()[1]}")
        trainer = Trainer(tmp_path / "run", new_id(), lambda: address)
        trainer.emit(10)
        wait_for(lambda: trainer.emitter.version == 10)
        began = time.monotonic()
        assert trainer.emitter.close(0.2) is False
        trainer.lock.release()
        # By default it would wait for 30 s.
        assert time.monotonic() - began < 20
    (left,) = segment.load(tmp_path / "run" / "spool")[0]
    assert left.count == 10


# Who the server is, and what it knows


def test_a_training_that_the_log_does_not_know_is_created_at_its_own_time(server: BareServer, tmp_path: Path) -> None:
    training = new_id()
    created = TrainingCreated(name="headless", launcher="external")
    with Trainer(tmp_path / "run", training, lambda: server.address, created=created, created_at=123_456) as trainer:
        trainer.emit(3)
        assert trainer.emitter.flush(60)
    first = stream(server.store, f"control-{training}")[0]
    assert (first.data, first.occurred_at) == (created, 123_456)
    assert steps(server.store, training) == [1, 2, 3]


def test_a_training_that_cannot_be_created_is_told_and_its_events_stay(server: BareServer, tmp_path: Path) -> None:
    training = new_id()
    with Trainer(tmp_path / "run", training, lambda: server.address) as trainer:
        trainer.emit(3)
        wait_for(lambda: trainer.said)
        assert "There is no training" in trainer.said[0]
        server.create(training)
        assert trainer.emitter.flush(60)
    assert steps(server.store, training) == [1, 2, 3]


def test_a_server_of_another_log_gets_nothing(server: BareServer, tmp_path: Path) -> None:
    training = new_id()
    place = [ServerAddress(server.url, log_id="another")]
    with Trainer(tmp_path / "run", training, lambda: place[0], created=TrainingCreated(name="x")) as trainer:
        trainer.emit(3)
        wait_for(lambda: trainer.said)
        assert "not another" in trainer.said[0]
        assert server.store.head == 0
        place[0] = ServerAddress(server.url, log_id=server.store.log_id)
        assert trainer.emitter.flush(60)
    assert trainer.emitter.log_id == server.store.log_id


# Control


def test_control_events_come_once_over_reconnections_also_those_missed(server: BareServer, tmp_path: Path) -> None:
    training = server.create()
    control = CONTROL + training
    server.store.append(Append(control, [PauseRequested()])).result()
    server.store.append(Append(control, [ResumeRequested(), CheckpointRequested()])).result()
    relay = Relay(server.port)
    place: list[ServerAddress | None] = [ServerAddress(relay.url)]
    with Trainer(tmp_path / "run", training, lambda: place[0]) as trainer:

        def wishes() -> list[type]:
            return [type(each.data) for each in trainer.controls if not isinstance(each.data, WriterClaimed)]

        wait_for(lambda: wishes() == [CheckpointRequested])
        server.store.append(Append(control, [PauseRequested()])).result()
        wait_for(lambda: wishes() == [CheckpointRequested, PauseRequested])
        place[0] = None
        relay.cut()
        wait_for(lambda: not trainer.emitter.connected)
        server.store.append(Append(control, [StopRequested()])).result()
        place[0] = ServerAddress(relay.url)
        wait_for(lambda: StopRequested in wishes())
        relay.cut()
        trainer.emit(1)
        assert trainer.emitter.flush(60)
        server.store.append(Append(control, [CheckpointRequested()])).result()
        wait_for(lambda: len(wishes()) == 4)
        assert wishes() == [CheckpointRequested, PauseRequested, StopRequested, CheckpointRequested]
        versions = [each.version for each in trainer.controls]
        assert versions == sorted(set(versions))
    relay.close()


def test_a_control_handler_that_fails_does_not_end_the_emitter(
    server: BareServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = server.create()

    def fail(_: Recorded) -> None:
        raise RuntimeError("no")

    with hold(tmp_path / "run"):
        made = Emitter(tmp_path / "run", training, address=lambda: server.address, on_control=fail)
        server.store.append(Append(CONTROL + training, [PauseRequested()])).result()
        wait_for(lambda: "could not be acted on" in caplog.text)
        made.emit(step(1))
        assert made.flush(60)
        made.close(0)


def test_without_the_run_folders_lock_there_is_no_emitter(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="is not held"):
        Emitter(tmp_path / "run", new_id(), address=nowhere)


# Earlier and other processes


def test_what_an_earlier_process_left_is_sent_under_its_epoch_before_a_new_one_is_claimed(
    server: BareServer, tmp_path: Path
) -> None:
    training = server.create()
    place: list[ServerAddress | None] = [server.address]
    with Trainer(tmp_path / "run", training, lambda: place[0]) as first:
        first.emit(300)
        assert first.emitter.flush(60)
        place[0] = None
        relay_gone = first.emitter._connection
        assert relay_gone is not None
        relay_gone.close()
        first.emit(300)
    assert len(steps(server.store, training)) == 300
    with Trainer(tmp_path / "run", training, lambda: server.address) as second:
        second.number = 600
        second.emit(100)
        assert second.emitter.flush(60)
        assert second.emitter.version == 700
    assert steps(server.store, training) == list(range(1, 701))
    assert claims(server.store, training) == [(1, 1), (2, 601)]


def test_several_processes_without_a_server_are_one_stream_in_the_end(server: BareServer, tmp_path: Path) -> None:
    training = server.create()
    for _ in range(3):
        with Trainer(tmp_path / "run", training, nowhere) as trainer:
            trainer.number = trainer.emitter.version
            trainer.emit(50)
    with Trainer(tmp_path / "run", training, lambda: server.address) as trainer:
        trainer.number = trainer.emitter.version
        assert trainer.number == 150
        trainer.emit(50)
        assert trainer.emitter.flush(60)
    assert steps(server.store, training) == list(range(1, 201))
    assert claims(server.store, training) == [(1, 1)]


def test_a_spool_that_was_fenced_meanwhile_is_set_aside_and_told(server: BareServer, tmp_path: Path) -> None:
    training = server.create()
    place: list[ServerAddress | None] = [server.address]
    with Trainer(tmp_path / "here", training, lambda: place[0]) as first:
        first.emit(10)
        assert first.emitter.flush(60)
        place[0] = None
        assert first.emitter._connection is not None
        first.emitter._connection.close()
        first.emit(5)
    with Trainer(tmp_path / "elsewhere", training, lambda: server.address) as other:
        other.number = 10
        other.emit(10)
        assert other.emitter.flush(60)
    with Trainer(tmp_path / "here", training, lambda: server.address) as second:
        second.number = 20
        second.emit(10)
        assert second.emitter.flush(60)
        assert any("set aside" in sentence for sentence in second.said)
    assert steps(server.store, training) == list(range(1, 31))
    assert [path.suffix for path in sorted((tmp_path / "here" / "spool").iterdir())].count(".fenced") >= 1


def test_a_live_writer_that_is_fenced_stops_sending_keeps_its_events_and_says_so(
    server: BareServer, tmp_path: Path
) -> None:
    training = server.create()
    with Trainer(tmp_path / "run", training, lambda: server.address) as trainer:
        trainer.emit(10)
        assert trainer.emitter.flush(60)
        server.store.claim(f"training-{training}", actor="test").result()
        trainer.emit(10)
        wait_for(lambda: trainer.emitter.fenced)
        assert trainer.emitter.flush(60) is False
        assert any("Another process" in sentence for sentence in trainer.said)
    assert steps(server.store, training) == list(range(1, 11))
    assert sum(each.count for each in segment.load(tmp_path / "run" / "spool")[0]) == 20


# What is deleted, and logs that go back in time


def test_the_spool_is_deleted_up_to_the_servers_checkpoint_and_not_before(tmp_path: Path) -> None:
    with bare_server(tmp_path / "data", idle=3600) as server:
        training = server.create()
        with Trainer(tmp_path / "run", training, lambda: server.address) as trainer:
            trainer.emit(200)
            assert trainer.emitter.flush(60)
            spool = tmp_path / "run" / "spool"
            assert kept(trainer) == 200
            assert server.store.checkpoint().result()
            wait_for(lambda: kept(trainer) < 200 and len(list(spool.glob("*.spool"))) <= 2)


def test_a_log_restored_to_an_earlier_state_gets_the_rest_again(server: BareServer, tmp_path: Path) -> None:
    training = server.create()
    place: list[ServerAddress | None] = [server.address]
    # Nothing is checkpointed while the server lives, so the spool keeps everything.
    with Trainer(tmp_path / "run", training, lambda: place[0], segment_size=1 << 20) as trainer:
        trainer.emit(100)
        assert trainer.emitter.flush(60)
        server.stop()
        shutil.copytree(server.folder, tmp_path / "backup")
        server.start()
        trainer.emit(100)
        assert trainer.emitter.flush(60)
        server.stop()
        shutil.rmtree(server.folder)
        shutil.copytree(tmp_path / "backup", server.folder)
        server.start()
        trainer.emit(100)
        assert trainer.emitter.flush(60)
    assert steps(server.store, training) == list(range(1, 301))


@pytest.mark.slow
def test_what_neither_log_nor_spool_has_is_told_and_the_rest_is_numbered_anew(
    server: BareServer, tmp_path: Path
) -> None:
    training = server.create()
    created = TrainingCreated(name="x")
    with Trainer(tmp_path / "run", training, lambda: server.address, created=created) as trainer:
        trainer.emit(200)
        assert trainer.emitter.flush(60)
        assert server.store.checkpoint().result()
        wait_for(lambda: kept(trainer) < 200)
        server.stop()
        shutil.rmtree(server.folder)
        server.start()
        trainer.emit(100)
        assert trainer.emitter.flush(60)
        assert any("neither in the log nor in the spool" in sentence for sentence in trainer.said)
    found = steps(server.store, training)
    assert found == list(range(found[0], 301))
    assert found[0] > 1


# Frames


def test_a_frame_is_the_time_and_the_event() -> None:
    event = step(3)
    assert msgspec.msgpack.decode(encode_frame(17, event)) == [17, msgspec.to_builtins(event)]


# Deaths

EMIT = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from bare_server import step
from events.client import ServerAddress
from events.emitter import Emitter
from events.spool import hold
folder, training, url = Path(sys.argv[2]), sys.argv[3], sys.argv[4]
lock = hold(folder, wait=10)
emitter = Emitter(folder, training, address=lambda: ServerAddress(url), segment_size=65_536)
number = int(sys.argv[5])
while True:
    for _ in range(20):
        number += 1
        emitter.emit(step(number))
    os.write(1, b"%d\\n" % number)
    time.sleep(0.005)
"""

SERVE = """
import signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from bare_server import BareServer
server = BareServer(Path(sys.argv[2]), port=int(sys.argv[3]))
print("up", flush=True)
signal.sigwait([signal.SIGTERM])
server.stop()
"""


class Process:
    """A child process that prints lines."""

    def __init__(self, program: str, *arguments: object) -> None:
        here = Path(__file__).parents[1]
        environment = os.environ | {"PYTHONPATH": str(here.parent)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, here, *map(str, arguments)], stdout=subprocess.PIPE, env=environment
        )
        self.line()

    def line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process ended"
        return line

    def end(self, *, kill: bool) -> list[bytes]:
        """The lines that were left."""
        (self._process.kill if kill else self._process.terminate)()
        assert self._process.stdout is not None
        lines = self._process.stdout.read().split()
        self._process.stdout.close()
        self._process.wait(60)
        return lines


@pytest.mark.crash
def test_kill_9_of_emitter_and_server_at_any_moment_loses_and_repeats_nothing(tmp_path: Path) -> None:
    chance = random.Random(7)
    folder, port = tmp_path / "data", free_port()
    url = f"http://127.0.0.1:{port}"
    training = new_id()
    store = EventStore.open(folder / "log.duckdb")
    store.append(Append(CONTROL + training, [TrainingCreated(name="x")], expected=0)).result()
    store.close()
    run = tmp_path / "run"
    server = Process(SERVE, folder, port)
    emitted = 0
    for _ in range(5):
        trainer = Process(EMIT, run, training, url, emitted)
        for _ in range(chance.randint(1, 3)):
            for _ in range(chance.randint(1, 60)):
                emitted = int(trainer.line())
            if chance.random() < 0.5:
                server.end(kill=True)
                for _ in range(chance.randint(0, 20)):
                    emitted = int(trainer.line())
                server = Process(SERVE, folder, port)
        rest = trainer.end(kill=True)
        emitted = int(rest[-1]) if rest else emitted
        # A step may have been emitted and not told of: the next process begins behind what the spool holds.
        left = segment.load(run / "spool")[0]
        emitted = max(emitted, left[-1].last) if left else emitted
    server.end(kill=True)
    store = EventStore.open(folder / "log.duckdb")
    try:
        report = adopt_folder(store, run_folder(run, training))
        assert report is None or report.problems == ()
        assert steps(store, training) == list(range(1, emitted + 1))
    finally:
        store.close()


def run_folder(run: Path, training: str) -> Path:
    """Adoption knows a training by its folder's name."""
    with hold(run):
        pass
    return run.rename(run.with_name(training))
