"""What the API answers becomes structs, what it refuses becomes a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from events.wire import ACTOR_HEADER
from ui.answers import MetricRow
from ui.gateway import ApiAway, ApiRefused, Gateway

TRAINING = {"id": "one", "name": "a run", "status": "running", "step": 3, "position": 17, "from_the_future": 1}


def gateway(answer: Callable[[httpx.Request], httpx.Response]) -> Gateway:
    return Gateway("http://studio", "secret", transport=httpx.MockTransport(answer))


async def test_a_training_comes_with_the_position_it_is_true_at() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=TRAINING)

    training, position = await gateway(answer).training("a/b")
    assert (training.step, position) == (3, 17)
    assert seen[0].url.raw_path == b"/api/v1/trainings/a%2Fb"
    assert seen[0].headers["Authorization"] == "Bearer secret"


async def test_log_lines_come_oldest_first() -> None:
    lines = [
        {"version": version, "timestamp": 0, "level": "INFO", "logger": "x", "message": "y", "position": version}
        for version in (9, 7, 4)
    ]
    asked: list[dict[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(dict(request.url.params))
        return httpx.Response(200, json={"data": lines, "position": 12})

    page = await gateway(answer).logs("one", limit=3, before=10, level="WARNING", q="a b")
    assert [line.version for line in page.data] == [4, 7, 9]
    assert page.position == 12
    assert asked == [{"limit": "3", "order": "desc", "before": "10", "level": "WARNING", "q": "a b"}]


async def test_only_what_is_charted_is_asked_for() -> None:
    asked: list[dict[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(dict(request.url.params))
        rows = [{"step": 1, "sae": 0, "loss": None, "l0": 3.5, "timestamp": 5}]
        return httpx.Response(200, json={"data": rows, "position": 2})

    history = await gateway(answer).history("one", points=1000)
    assert (history.data[0].loss, history.data[0].l0) == (None, 3.5)
    assert set(asked[0]["fields"].split(",")) == set(MetricRow.__struct_fields__) - {"step", "sae", "timestamp"}


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (httpx.Response(409, json={"title": "Conflict", "detail": "A paused training cannot be paused."}), "A paused"),
        (httpx.Response(500, text="<html>"), "The server answered 500 Internal Server Error."),
        (httpx.Response(202, json={"positron": 1}), "could not be read"),
    ],
)
async def test_a_refusal_is_a_sentence(response: httpx.Response, sentence: str) -> None:
    with pytest.raises(ApiRefused, match=sentence):
        await gateway(lambda request: response).control("one", "pause")


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
async def test_nobody_there_is_said_as_such(error: Any) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error("no")

    with pytest.raises(ApiAway):
        await gateway(fail).trainings()


async def test_what_is_created_for_a_person_carries_who_it_is_and_can_be_sent_twice() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, json={"id": "new", "position": 3})

    acting = gateway(answer).acting_for("user:ada.signed")
    created = await acting.create_training({"k": 3}, name="mine", template_id="t", key="once")
    assert created.id == "new"
    assert (seen[0].headers["Idempotency-Key"], seen[0].headers[ACTOR_HEADER]) == ("once", "user:ada.signed")
    assert msgspec.json.decode(seen[0].content) == {"config": {"k": 3}, "name": "mine", "template_id": "t"}


async def test_a_refusal_names_its_fields() -> None:
    problem = {"detail": "name is taken.", "errors": [{"field": "name", "message": "taken"}]}
    with pytest.raises(ApiRefused) as refused:
        await gateway(lambda request: httpx.Response(422, json=problem)).save_template("a", "", {})
    assert [(one.field, one.message) for one in refused.value.fields] == [("name", "taken")]
