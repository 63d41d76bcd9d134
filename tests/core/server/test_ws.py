"""The two sockets: what is sent, what is refused and how, and what a slow or hostile peer costs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bare_server import GRACE, BareServer, bare_server, step, wait_for
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from core.server import ws
from core.server.serve import MAX_MESSAGE
from events import wire
from events.client import FOLLOW_PATH, INGEST_PATH, Follower, decode_recorded
from events.control import CheckpointRequested, PauseRequested, ResumeRequested, TrainingCreated, WriterClaimed
from events.emitter import encode_frame
from events.event import Event, EventRejected, Recorded
from events.ids import new_id
from events.log import LogWritten
from events.streams import CONTROL, Append
from events.training import StepTrained

encode = msgspec.msgpack.encode
replies: Any = msgspec.msgpack.Decoder(
    wire.Ready | wire.Appended | wire.Checkpointed | wire.Rejected | wire.Control | wire.Subscribed
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BareServer]:
    with bare_server(tmp_path / "data") as running:
        yield running


def write(server: BareServer, stream: str, *events: Event) -> None:
    server.store.append(Append(stream, list(events))).result()


@contextlib.contextmanager
def opened(server: BareServer, path: str) -> Iterator[ClientConnection]:
    with connect(server.url.replace("http", "ws") + path, compression=None, max_size=None, close_timeout=2) as made:
        yield made


def following(server: BareServer, query: str = "") -> contextlib.AbstractContextManager[ClientConnection]:
    return opened(server, f"{FOLLOW_PATH}?{query}")


def said(connection: ClientConnection) -> dict[str, Any]:
    """The next JSON message."""
    message = connection.recv(60)
    assert isinstance(message, str)
    return json.loads(message)


def until_caught_up(connection: ClientConnection) -> list[dict[str, Any]]:
    messages = [said(connection)]
    while messages[-1]["type"] != "CaughtUp":
        messages.append(said(connection))
    return messages


def closed(connection: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            connection.recv(60)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


def ended_by(connection: ClientConnection, message: bytes) -> None:
    """The peer ends the connection for a message: while it is being sent, or after."""
    with pytest.raises(ConnectionClosed):
        connection.send(message)
        while True:
            connection.recv(60)


class Writer:
    """A writer's side of the ingest socket."""

    def __init__(self, connection: ClientConnection, training: str) -> None:
        self.connection = connection
        self.training = training
        self.version = 0
        self.controls: list[Recorded] = []
        self.checkpointed = 0

    def send(self, message: wire.Message) -> None:
        self.connection.send(encode(message))

    def next(self) -> Any:
        """The next reply; what comes in between is kept."""
        while True:
            message = replies.decode(self.connection.recv(60, decode=False))
            match message:
                case wire.Control(event=event):
                    self.controls.append(decode_recorded(event))
                case wire.Checkpointed(version=version):
                    self.checkpointed = version
                case _:
                    return message

    def hello(self, epoch: int | None = None, **fields: Any) -> Any:
        self.send(wire.Hello(stream=f"training-{self.training}", version=0, epoch=epoch, **fields))
        return self.next()

    def batch(self, expected: int, events: list[Event]) -> None:
        self.send(batch(expected, [encode_frame(1_000 + i, each) for i, each in enumerate(events)]))


def batch(expected: int, frames: list[bytes]) -> wire.Batch:
    return wire.Batch(expected=expected, events=[msgspec.Raw(frame) for frame in frames])


@contextlib.contextmanager
def writing(server: BareServer, training: str | None = None) -> Iterator[Writer]:
    with opened(server, INGEST_PATH) as connection:
        yield Writer(connection, training or server.create())


def stored(server: BareServer, training: str) -> list[Event]:
    return [each.data for each in server.store.read_stream(f"training-{training}")]


# Follow: what is asked for


@pytest.mark.parametrize(
    ("query", "code", "kind", "reason"),
    [
        ("after=-1", 4400, "malformed", "after is a whole number from 0 to"),
        ("after=1.5", 4400, "malformed", "'1.5'"),
        ("after=²", 4400, "malformed", "after"),
        ("after=99999999999999999999999", 4400, "malformed", "after"),
        ("tail=many", 4400, "malformed", "tail is a whole number from 0 to 1000000, not 'many'"),
        ("after=0&tail=1", 4400, "malformed", "both"),
        ("after=0&after=1", 4400, "malformed", "more than once"),
        ("format=xml", 4400, "malformed", "json or msgpack, not 'xml'"),
        ("type=StepTrainde", 4400, "malformed", "StepTrained"),
        ("since=4", 4400, "malformed", "'since'"),
        ("stream=training-nobody", 4404, "unknown", "'training-nobody'"),
        ("after=4", 4409, "other_log", "head is 3"),
        ("after=1&log_id=another", 4409, "other_log", "not another"),
    ],
)
def test_a_bad_subscription_is_refused_with_code_and_sentence(
    server: BareServer, query: str, code: int, kind: str, reason: str
) -> None:
    write(server, "training-a", step(1), step(2), step(3))
    with following(server, query) as connection:
        message = said(connection)
        assert message["type"] == "Rejected"
        assert message["code"] == kind
        assert reason in message["reason"]
        found, sentence = closed(connection)
        assert found == code
        assert sentence[:40] == message["reason"][:40]


def test_everything_is_sent_in_position_order_then_caught_up_once_then_live(server: BareServer) -> None:
    write(server, "training-a", *(step(number) for number in range(1, 2_501)))
    with following(server) as connection:
        messages = until_caught_up(connection)
        assert messages[0] == {"type": "Subscribed", "log_id": server.store.log_id, "after": 0, "head": 2_500}
        assert {message["type"] for message in messages[1:-1]} == {"Events"}
        found = [event for message in messages[1:-1] for event in message["events"]]
        assert [event["position"] for event in found] == list(range(1, 2_501))
        assert found[6]["data"]["type"] == found[6]["type"] == "StepTrained"
        assert (found[6]["stream"], found[6]["version"], found[6]["data"]["step"]) == ("training-a", 7, 7)
        write(server, "training-a", step(2_501))
        live = said(connection)
        assert [event["position"] for event in live["events"]] == [2_501]


def test_both_formats_say_the_same(server: BareServer) -> None:
    write(server, "training-a", step(1), LogWritten(level="INFO", logger="l", message="ü\x00\n"), step(2))
    with following(server) as text, following(server, "format=msgpack") as binary:
        in_json = until_caught_up(text)
        data = [binary.recv(60) for _ in in_json]
    assert all(isinstance(each, bytes) for each in data)
    assert [msgspec.msgpack.decode(each) for each in data] == in_json


def test_json_shows_what_it_cannot_hold_as_null(server: BareServer) -> None:
    write(server, "training-a", step(1, loss=float("nan"), fvu=float("inf")))
    with following(server) as connection:
        (event,) = until_caught_up(connection)[1]["events"]
    assert event["data"]["loss"] is event["data"]["fvu"] is None


def test_filters_and_tail_are_those_of_the_query(server: BareServer) -> None:
    for number in range(1, 21):
        write(server, "training-a", step(number), LogWritten(level="INFO", logger="l", message=str(number)))
        write(server, "training-b", step(number))
    with following(server, "tail=3&stream=training-a&type=StepTrained&type=TrainingPaused") as connection:
        messages = until_caught_up(connection)
    found = [event for message in messages[1:-1] for event in message["events"]]
    assert [(event["stream"], event["data"]["step"]) for event in found] == [("training-a", n) for n in (18, 19, 20)]
    assert messages[0]["after"] == found[0]["position"] - 1


def test_silence_is_broken_by_heartbeats_that_move_on(server: BareServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws, "HEARTBEAT", 0.05)
    write(server, "training-a", step(1))
    write(server, "training-b", step(1))
    with following(server, "stream=training-a") as connection:
        assert until_caught_up(connection)[-1]["position"] == 2
        assert said(connection) == {"type": "Heartbeat", "position": 2}
        write(server, "training-b", step(2))
        wait_for(lambda: said(connection) == {"type": "Heartbeat", "position": 3})


def test_garbage_from_a_follower_is_answered_and_harms_nothing(server: BareServer) -> None:
    write(server, "training-a", step(1))
    with following(server) as connection:
        until_caught_up(connection)
        for garbage in ("{", "", "x" * 100_000, b"\xff\x00", b""):
            connection.send(garbage)
            assert said(connection)["code"] == "malformed"
        write(server, "training-a", step(2))
        assert said(connection)["events"][0]["version"] == 2


# Follow: slow and many


def buffered(server: BareServer) -> list[int]:
    """Bytes that each connection waits to get rid of."""
    connections = server._server.server_state.connections
    return [each.transport.get_write_buffer_size() for each in list(connections) if each.transport is not None]


@pytest.mark.slow
def test_a_follower_that_reads_nothing_costs_bounded_memory_and_delays_nobody(server: BareServer) -> None:
    for first in range(1, 60_001, 4_000):
        write(server, "training-a", *(step(number) for number in range(first, first + 4_000)))
    head = server.store.head
    idle = socket.create_connection(("127.0.0.1", server.port))
    try:
        idle.sendall(
            f"GET {FOLLOW_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        wait_for(lambda: max(buffered(server), default=0) > 100_000)
        follower = Follower(server.url)
        seen = 0
        for message in follower.sync_messages():
            seen += len(message) if isinstance(message, list) else 0
            assert max(buffered(server)) < 2_000_000
            if seen == head:
                break
        # All of it would be more than 20 MB.
        assert max(buffered(server)) < 2_000_000
        write(server, "training-a", step(1))
        assert server.store.head == head + 1
    finally:
        idle.close()


@pytest.mark.slow
async def test_three_hundred_followers_at_once_get_everything(server: BareServer) -> None:
    await asyncio.to_thread(write, server, "training-a", *(step(number) for number in range(1, 201)))

    async def follow() -> list[int]:
        positions: list[int] = []
        async with contextlib.aclosing(Follower(server.url).messages()) as messages:
            async for message in messages:
                positions += [each.position for each in message] if isinstance(message, list) else []
                if len(positions) == 300:
                    return positions
        raise AssertionError

    following = [asyncio.create_task(follow()) for _ in range(300)]
    for number in range(201, 301):
        await asyncio.to_thread(write, server, "training-a", step(number))
    for found in await asyncio.gather(*following):
        assert found == list(range(1, 301))


@pytest.mark.slow
def test_a_filtered_follower_among_many_streams_gets_its_own_and_moves_past_the_others(server: BareServer) -> None:
    streams = [f"template-{number:04}" for number in range(2_000)]
    for start in range(0, len(streams), 500):
        appends = [
            Append(stream, [LogWritten(level="INFO", logger="x", message=stream)])
            for stream in streams[start : start + 500]
        ]
        server.store.append(*appends).result()
    wanted = streams[5::400]
    query = "&".join(f"stream={stream}" for stream in wanted)
    with following(server, f"after=0&{query}") as connection:
        messages = until_caught_up(connection)
        got = [event["stream"] for message in messages if message["type"] == "Events" for event in message["events"]]
        assert got == wanted
        assert messages[-1]["position"] == server.store.head
        for stream in (streams[0], wanted[2], streams[1]):
            server.store.append(Append(stream, [LogWritten(level="INFO", logger="x", message="live")])).result()
        (event,) = said(connection)["events"]
        assert (event["stream"], event["data"]["message"]) == (wanted[2], "live")


def test_half_a_handshake_and_a_frame_too_large_end_alone(server: BareServer) -> None:
    write(server, "training-a", step(1))
    with following(server, "stream=training-a") as witness, contextlib.ExitStack() as stack:
        until_caught_up(witness)
        for half in (b"", b"GET ", f"GET {FOLLOW_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: web".encode()):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            peer.sendall(half)
        nonsense = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        nonsense.sendall(b"\x16\x03\x01\x02\x00\x01" * 1_000)
        answer = nonsense.recv(1_000)
        assert answer == b"" or b" 400 " in answer.partition(b"\r\n")[0]
        with following(server) as huge:
            until_caught_up(huge)
            ended_by(huge, b"x" * (MAX_MESSAGE + 1))
        with writing(server) as writer:
            writer.hello()
            ended_by(writer.connection, b"x" * (MAX_MESSAGE + 1))
        write(server, "training-a", step(2))
        assert said(witness)["events"][0]["version"] == 2


# Ingest


def test_batches_are_read_while_earlier_ones_are_made_durable_and_answered_in_order(server: BareServer) -> None:
    with writing(server) as writer:
        ready = writer.hello()
        assert ready == wire.Ready(version=0, epoch=1, log_id=server.store.log_id)
        for number in range(20):
            writer.batch(number * 3, [step(number * 3 + i) for i in (1, 2, 3)])
        answers = [writer.next() for _ in range(20)]
    assert [answer.version for answer in answers] == list(range(3, 61, 3))
    positions = [answer.position for answer in answers]
    assert positions == sorted(positions)
    events = server.store.read_stream(f"training-{writer.training}")
    assert [each.data.step for each in events if isinstance(each.data, StepTrained)] == list(range(1, 61))
    assert [each.occurred_at for each in events[:3]] == [1_000, 1_001, 1_002]


def test_an_acknowledged_batch_is_durable(server: BareServer) -> None:
    with writing(server) as writer:
        writer.hello()
        writer.batch(0, [step(1)])
        assert writer.next().version == 1
        assert server.store.version(f"training-{writer.training}") == 1


def test_a_batch_that_comes_again_is_answered_as_the_first_time(server: BareServer) -> None:
    with writing(server) as writer:
        writer.hello()
        answers = []
        for _ in range(3):
            writer.batch(0, [step(1), step(2)])
            answers.append(writer.next())
    assert answers[0] == answers[1] == answers[2]
    assert len(stored(server, writer.training)) == 2


def test_a_gap_is_refused_with_the_current_version_and_every_batch_behind_it_too(server: BareServer) -> None:
    with writing(server) as writer:
        writer.hello()
        writer.batch(0, [step(1)])
        for expected in (5, 6, 7):
            writer.batch(expected, [step(9)])
        writer.batch(1, [step(2)])
        first, *refused, last = (writer.next() for _ in range(5))
        assert first.version == 1
        assert [(each.code, each.current) for each in refused] == [("wrong_version", 1)] * 3
        assert last.version == 2
    assert len(stored(server, writer.training)) == 2


def test_a_poisoned_event_is_kept_in_its_place_and_blocks_nothing(server: BareServer) -> None:
    bad = msgspec.to_builtins(step(2)) | {"step": -5}
    poison = [
        encode([1_000, bad]),
        encode([1_000, {"type": "LogWritten", "level": "LOUD", "logger": "l", "message": "m"}]),
        encode([1_000, "no event"]),
        encode("no frame"),
        encode([-4, msgspec.to_builtins(step(1))]),
        encode([2**63, msgspec.to_builtins(step(1))]),
        b"\x92\xcd\x03\xe8\x84\xa4type\xaaLogWritten\xa5level\xa4INFO\xa6logger\xa1l\xa7message\xa2\xff\xfe",
    ]
    with writing(server) as writer:
        writer.hello()
        frames = [frame for bad in poison for frame in (encode_frame(1_000, step(1)), bad)]
        writer.send(batch(0, frames))
        answer = writer.next()
        assert answer.version == len(frames)
    found = stored(server, writer.training)
    assert [type(each) for each in found] == [StepTrained, EventRejected] * len(poison)
    first = found[1]
    assert isinstance(first, EventRejected)
    assert "step" in first.reason
    assert msgspec.msgpack.decode(first.raw)["step"] == -5


def test_garbage_from_a_writer_is_answered_and_harms_nothing(server: BareServer) -> None:
    deep = b"\x91" * 100_000 + b"\xc0"
    with writing(server) as writer:
        for early in (encode({"type": "Batch", "expected": 0, "events": []}), batch(0, [encode_frame(1, step(1))])):
            writer.connection.send(early if isinstance(early, bytes) else encode(early))
            assert writer.next().code == "malformed"
        writer.hello()
        writer.batch(0, [step(1)])
        assert writer.next().version == 1
        for garbage, code in (
            ("text", "malformed"),
            (b"", "malformed"),
            (b"\xc1", "malformed"),
            (deep, "malformed"),
            (encode({"type": "Goodbye"}), "malformed"),
            (encode({"type": "Batch", "expected": -1, "events": [[1, {}]]}), "malformed"),
            (encode({"type": "Batch", "expected": "1", "events": []}), "malformed"),
            (encode({"type": "Batch", "expected": 1, "events": []}), "too_large"),
            (encode({"type": "Batch", "expected": 1, "events": [1] * 10_001}), "too_large"),
            (b"\xc4" * (ws.MAX_MESSAGE + 1), "too_large"),
            (encode(wire.Hello(stream="control-x", version=0)), "malformed"),
            (encode(wire.Hello(stream=f"training-{new_id()}", version=0)), "malformed"),
        ):
            writer.connection.send(garbage)
            answer = writer.next()
            assert (answer.code, answer.current) == (code, 1), garbage[:40]
        writer.batch(1, [step(2)])
        assert writer.next().version == 2


@pytest.mark.parametrize("stream", ["catalog", "control-" + "a" * 14, "training-../../etc", "training-", "template-x"])
def test_a_writer_may_write_nothing_but_a_trainings_stream(server: BareServer, stream: str) -> None:
    head = server.store.head
    with opened(server, INGEST_PATH) as connection:
        connection.send(encode(wire.Hello(stream=stream, version=0, created=TrainingCreated(name="x"))))
        answer = replies.decode(connection.recv(60))
        assert answer.code == "malformed"
        assert "training-ID" in answer.reason
    assert server.store.head == head


def test_an_unknown_training_is_refused_and_created_where_the_writer_says_how(server: BareServer) -> None:
    training = new_id()
    with writing(server, training) as writer:
        assert writer.hello().code == "unknown"
        assert closed(writer.connection)[0] == 4404
    with writing(server, training) as writer:
        assert writer.hello(created=TrainingCreated(name="mine"), created_at=77).epoch == 1
    first, second = server.store.read_stream(CONTROL + training)
    assert (first.data, first.occurred_at) == (TrainingCreated(name="mine"), 77)
    assert isinstance(second.data, WriterClaimed)
    assert second.actor == f"trainer:{training}"


def test_a_writer_that_means_another_log_is_refused(server: BareServer) -> None:
    with writing(server) as writer:
        assert writer.hello(log_id="another").code == "other_log"
        assert closed(writer.connection)[0] == 4409


def test_a_zombie_with_an_old_epoch_is_fenced(server: BareServer) -> None:
    training = server.create()
    with writing(server, training) as zombie, writing(server, training) as writer:
        assert zombie.hello().epoch == 1
        zombie.batch(0, [step(1)])
        assert zombie.next().version == 1
        assert writer.hello() == wire.Ready(version=1, epoch=2, log_id=server.store.log_id)
        zombie.batch(1, [step(2)])
        fenced = zombie.next()
        assert (fenced.code, fenced.current) == ("fenced", 1)
        assert zombie.hello(epoch=1).code == "fenced"
        writer.batch(1, [step(2)])
        assert writer.next().version == 2
    assert len(stored(server, training)) == 2


def test_a_writer_gets_the_control_events_since_its_start_and_those_to_come(server: BareServer) -> None:
    training = server.create()
    write(server, CONTROL + training, PauseRequested())
    write(server, CONTROL + training, ResumeRequested(), CheckpointRequested())
    with writing(server, training) as writer:
        writer.hello()
        for number in range(3):
            write(server, CONTROL + training, PauseRequested())
            writer.batch(number, [step(number + 1)])
            writer.next()
        wait_for(lambda: _pump(writer) and len(writer.controls) >= 5)
    kinds = [type(each.data) for each in writer.controls]
    assert kinds == [CheckpointRequested, WriterClaimed, PauseRequested, PauseRequested, PauseRequested]
    versions = [each.version for each in writer.controls]
    assert versions == list(range(versions[0], versions[0] + 5))


def _pump(writer: Writer) -> bool:
    writer.send(wire.Batch(expected=0, events=[]))
    writer.next()
    return True


def test_a_writer_is_told_what_the_checkpointed_file_holds(tmp_path: Path) -> None:
    with bare_server(tmp_path / "data", idle=3600) as server, writing(server) as writer:
        writer.hello()
        writer.batch(0, [step(1), step(2)])
        writer.next()
        _pump(writer)
        assert writer.checkpointed == 0
        assert server.store.checkpoint().result()
        wait_for(lambda: _pump(writer) and writer.checkpointed == 2)


@pytest.mark.slow
def test_a_writer_that_waits_for_no_answer_is_not_read_without_limit(
    server: BareServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import Future

    submitted: list[Future[Any]] = []
    append = server.store.append

    def hold(*appends: Append) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        submitted.append(future)
        return future

    with writing(server) as writer:
        writer.hello()
        monkeypatch.setattr(server.store, "append", hold)
        sending = threading.Thread(target=lambda: [writer.batch(0, [step(1)] * 1_000) for _ in range(200)], daemon=True)
        sending.start()
        wait_for(lambda: len(submitted) > ws.UNANSWERED)
        before = -1
        while before != len(submitted):
            before = len(submitted)
            time.sleep(0.2)
        assert len(submitted) <= ws.UNANSWERED + 2
        monkeypatch.setattr(server.store, "append", append)
        answer = append(Append(f"training-{writer.training}", [step(1)] * 1_000, expected=0, epoch=1)).result()
        for future in submitted:
            future.set_result(answer)
        for _ in range(200):
            assert writer.next().version == 1_000
        sending.join(60)
    assert len(stored(server, writer.training)) == 1_000


def test_a_server_that_stops_says_1012_to_both(server: BareServer) -> None:
    with following(server) as follower, writing(server) as writer:
        until_caught_up(follower)
        writer.hello()
        began = time.monotonic()
        server.stop()
        assert closed(follower)[0] == 1012
        assert closed(writer.connection)[0] == 1012
        # They ended by themselves, and not because the server's grace was over.
        assert time.monotonic() - began < GRACE / 2
    server.start()


def test_a_peer_that_vanishes_leaves_nothing_behind(server: BareServer) -> None:
    listeners = server.store._listeners
    before = len(listeners)
    for _ in range(5):
        with following(server) as follower, writing(server) as writer:
            until_caught_up(follower)
            writer.hello()
            wait_for(lambda: len(listeners) == before + 2)
            for connection in (follower, writer.connection):
                connection.socket.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: len(listeners) == before)
