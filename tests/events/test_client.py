"""The follower: every event once, in order, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from bare_server import BareServer, Relay, step, wait_for

from core.server import ws
from events.client import Followed, Follower, FollowRefused, LogReplaced, ServerAddress, read_address
from events.control import TrainingCreated
from events.event import Event, Recorded, UnknownEvent
from events.log import LogWritten
from events.streams import Append
from events.wire import CaughtUp, Heartbeat, Subscribed


def write(server: BareServer, stream: str, *events: Event) -> None:
    server.store.append(Append(stream, list(events))).result()


def steps(first: int, last: int) -> list[Event]:
    return [step(number) for number in range(first, last + 1)]


async def take(follower: AsyncIterator[Recorded], count: int) -> list[Recorded]:
    """The next `count` events of an iteration."""
    return [await asyncio.wait_for(anext(follower), 60) for _ in range(count)]


async def until_caught_up(follower: Follower) -> list[Followed]:
    messages: list[Followed] = []
    async with contextlib.aclosing(follower.messages()) as iterator:
        async for message in iterator:
            messages.append(message)
            if isinstance(message, CaughtUp):
                break
    return messages


def events_of(messages: list[Followed]) -> list[Recorded]:
    return [recorded for message in messages if isinstance(message, list) for recorded in message]


@pytest.mark.slow
async def test_followers_from_the_beginning_from_the_middle_and_cut_ten_times_get_the_same(
    server: BareServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws, "PAGE", 100)
    relay = Relay(server.port)
    write(server, "training-a", *steps(1, 1_500))
    total = 6_000
    may_write = threading.Semaphore(0)

    def produce() -> None:
        for round_ in range(1_501, total, 450):
            assert may_write.acquire(timeout=60)
            for first in range(round_, round_ + 450, 50):
                write(server, "training-a", *steps(first, first + 49))

    async def follow(follower: Follower, count: int) -> list[Recorded]:
        async with contextlib.aclosing(aiter(follower)) as events:
            return await take(events, count)

    async def follow_and_be_cut(follower: Follower) -> list[Recorded]:
        found: list[Recorded] = []
        async with contextlib.aclosing(aiter(follower)) as events:
            while len(found) < total:
                found += await take(events, 1)
                # Cut in the midst of what is under way, of which much arrives all the same.
                if len(found) % 250 == 0:
                    relay.cut()
                # Cut when it has all that there is: what is written next comes over another connection.
                if (len(found) - 1_500) % 450 == 0 and len(found) >= 1_500:
                    relay.cut()
                    may_write.release()
        return found

    producing = asyncio.create_task(asyncio.to_thread(produce))
    whole, later, torn = await asyncio.gather(
        follow(Follower(server.url), total),
        follow(Follower(server.url, after=1_000), total - 1_000),
        follow_and_be_cut(Follower(relay.url)),
    )
    await producing
    assert relay.connections >= 10
    relay.close()
    assert [recorded.position for recorded in whole] == list(range(1, total + 1))
    assert later == whole[1_000:]
    assert torn == whole
    stored = list(server.store.read(0, limit=total).events)
    assert whole == stored


def test_blocking_iteration_is_the_same_and_goes_on_over_a_restart(server: BareServer) -> None:
    write(server, "training-a", *steps(1, 100))
    follower = Follower(server.url)
    found: list[Recorded] = []

    def follow() -> None:
        found.extend(follower)

    thread = threading.Thread(target=follow)
    thread.start()
    wait_for(lambda: len(found) == 100)
    server.stop()
    server.start()
    write(server, "training-a", *steps(101, 200))
    wait_for(lambda: len(found) == 200)
    follower.close()
    thread.join(60)
    assert not thread.is_alive()
    assert found == list(server.store.read(0).events)


async def test_it_tells_when_it_has_caught_up(server: BareServer) -> None:
    write(server, "training-a", *steps(1, 2_500))
    follower = Follower(server.url)
    assert not follower.caught_up
    messages = await until_caught_up(follower)
    assert isinstance(messages[0], Subscribed)
    assert messages[0].head == follower.head == 2_500
    assert len(events_of(messages)) == 2_500
    assert follower.caught_up
    assert follower.position == 2_500
    assert follower.log_id == server.store.log_id


async def test_a_tail_is_the_last_that_match_and_goes_on_from_there(server: BareServer) -> None:
    relay = Relay(server.port)
    write(server, "training-a", *steps(1, 50))
    write(server, "training-b", LogWritten(level="INFO", logger="l", message="hello"), *steps(1, 50))
    follower = Follower(relay.url, tail=3, stream="training-a", types=["StepTrained"])
    async with contextlib.aclosing(aiter(follower)) as events:
        found = await take(events, 3)
        assert [recorded.version for recorded in found] == [48, 49, 50]
        relay.cut()
        write(server, "training-a", step(51))
        assert [recorded.version for recorded in await take(events, 1)] == [51]
    relay.close()


async def test_a_filtered_follower_gets_only_what_it_asked_for_and_its_place_moves_on(
    server: BareServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws, "HEARTBEAT", 0.05)
    write(server, "training-a", *steps(1, 5))
    write(server, "training-b", LogWritten(level="INFO", logger="l", message="hello"), step(1))
    follower = Follower(server.url, stream=["training-a", "training-b"], types=["LogWritten"])
    found = events_of(await until_caught_up(follower))
    assert [recorded.type for recorded in found] == ["LogWritten"]
    write(server, "training-a", *steps(6, 10))
    async with contextlib.aclosing(follower.messages()) as messages:
        async for message in messages:
            if isinstance(message, Heartbeat) and message.position == 12:
                break
    assert follower.position == 12


async def test_what_is_nan_or_infinite_arrives_as_it_is(server: BareServer) -> None:
    write(server, "training-a", step(1, loss=float("nan"), fvu=float("-inf")))
    (recorded,) = events_of(await until_caught_up(Follower(server.url)))
    loss, fvu = recorded.data.loss, recorded.data.fvu  # type: ignore[attr-defined]
    assert loss != loss
    assert fvu == float("-inf")


async def test_a_type_of_a_newer_program_does_not_stop_it(server: BareServer) -> None:
    newer = UnknownEvent(name="LatentNamed", data={"latent": 7})
    write(server, "training-a", step(1), newer, step(2))
    found = events_of(await until_caught_up(Follower(server.url)))
    assert [recorded.type for recorded in found] == ["StepTrained", "LatentNamed", "StepTrained"]
    assert found[1].data == newer


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"stream": "training-nobody"}, 4404),
        ({"types": ["StepTrainde"]}, 4400),
        ({"after": -1}, 4400),
        ({"after": 7}, 4409),
    ],
)
async def test_what_will_always_be_refused_is_raised(server: BareServer, options: dict[str, object], code: int) -> None:
    with pytest.raises(FollowRefused) as caught:
        await until_caught_up(Follower(server.url, **options))  # type: ignore[arg-type]
    assert caught.value.code == code
    with pytest.raises(FollowRefused):
        next(iter(Follower(server.url, **options)))  # type: ignore[arg-type]


async def test_another_log_is_told_and_replayed_from_its_beginning(server: BareServer) -> None:
    write(server, "training-a", *steps(1, 20))
    follower = Follower(server.url)
    raising = Follower(server.url)
    changes: list[tuple[str, str]] = []
    told = Follower(server.url, on_replaced=lambda old, new: changes.append((old, new)))
    old = server.store.log_id
    async with (
        contextlib.aclosing(follower.messages()) as messages,
        contextlib.aclosing(aiter(raising)) as raising_events,
        contextlib.aclosing(aiter(told)) as told_events,
    ):
        async for message in messages:
            if isinstance(message, CaughtUp):
                break
        await take(raising_events, 20)
        await take(told_events, 20)
        server.stop()
        shutil.rmtree(server.folder)
        server.start()
        write(server, "training-b", *steps(1, 7))
        new = server.store.log_id
        subscribed = await anext(messages)
        assert isinstance(subscribed, Subscribed)
        assert (subscribed.log_id, subscribed.after) == (new, 0)
        page = await anext(messages)
        assert isinstance(page, list)
        assert [recorded.position for recorded in page] == list(range(1, 8))
        with pytest.raises(LogReplaced, match=f"{old} was replaced by {new}"):
            await take(raising_events, 1)
        assert [recorded.stream for recorded in await take(told_events, 7)] == ["training-b"] * 7
        assert changes == [(old, new)]


async def test_a_server_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    from bare_server import free_port

    port = free_port()
    follower = Follower(f"http://127.0.0.1:{port}")
    waiting = asyncio.create_task(until_caught_up(follower))
    await asyncio.sleep(0)
    server = await asyncio.to_thread(BareServer, tmp_path, port=port)
    try:
        await asyncio.wait_for(waiting, 60)
    finally:
        await asyncio.to_thread(server.stop)


def test_the_address_is_read_from_the_data_directory(tmp_path: Path) -> None:
    assert read_address(tmp_path) is None
    (tmp_path / "server.json").write_bytes(b'{"url": "http://127.0')
    assert read_address(tmp_path) is None
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "server.json").write_bytes(
        msgspec.json.encode({"url": "http://127.0.0.1:8420", "pid": 1, "log_id": "l", "token_file": "token"})
    )
    assert read_address(tmp_path) == ServerAddress("http://127.0.0.1:8420", "secret", "l")


def test_an_address_keeps_its_path_prefix_and_its_security() -> None:
    assert ServerAddress("https://host/studio/").websocket("/api/v1/ingest") == "wss://host/studio/api/v1/ingest"
    assert ServerAddress("http://[::1]:80").websocket("/x", "after=3") == "ws://[::1]:80/x?after=3"


def test_the_token_travels_in_a_header_and_a_proxy_is_not_asked_about_this_machine() -> None:
    local = ServerAddress("http://127.0.0.1:8420", "secret")
    assert "secret" not in local.websocket("/x")
    assert local.options()["additional_headers"] == {"Authorization": "Bearer secret"}
    assert local.options()["proxy"] is None
    assert ServerAddress("http://gpu-box:8420").options()["proxy"] is True


def test_a_created_training_can_be_followed_before_its_trainer_begins(server: BareServer) -> None:
    write(server, "control-" + "a" * 14, TrainingCreated(name="x"))
    follower = Follower(server.url, stream="training-" + "a" * 14)
    for message in follower.sync_messages():
        if isinstance(message, CaughtUp):
            break
    assert follower.caught_up
