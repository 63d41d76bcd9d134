"""What every store promises about appending: versions, positions, all or nothing, epochs."""

from __future__ import annotations

import math
import threading
from concurrent.futures import wait
from typing import Any

import msgspec
import pytest

from events.control import PauseRequested, TrainingCreated, WriterClaimed
from events.errors import EventLogError, Fenced, LogClosed, WrongExpectedVersion
from events.event import Event, Recorded, UnknownEvent, now_us
from events.log import LogWritten
from events.streams import NO_STREAM, Append, Appended, Claim
from events.training import EvaluationMade, MetricsLogged, StepTrained

TRAINING = "training-00000000000001"
CONTROL = "control-00000000000001"


def step(number: int, **more: Any) -> StepTrained:
    return StepTrained(
        step=number,
        loss=1 / number,
        loss_reconstruction=0.5,
        l0=16.0,
        l0_fraction=0.01,
        fvu=0.25,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens=number * 1024,
        tokens_per_second=5e4,
        **more,
    )


def line(text: str) -> LogWritten:
    return LogWritten(level="INFO", logger="test", message=text)


def everything(store: Any) -> list[Recorded]:
    return list(store.read(0, limit=100_000).events)


def places(store: Any) -> list[tuple[int, str, int]]:
    return [(each.position, each.stream, each.version) for each in everything(store)]


def fails(store: Any, *appends: Append) -> EventLogError:
    error = store.append(*appends).exception()
    assert isinstance(error, EventLogError)
    return error


def test_versions_count_a_stream_and_positions_the_log(store: Any) -> None:
    assert store.append(Append("a", [line("1"), line("2")])).result() == [
        Appended(position=2, first_position=1, version=2, count=2)
    ]
    assert store.append(Append("b", [line("3")])).result() == [
        Appended(position=3, first_position=3, version=1, count=1)
    ]
    assert store.append(Append("a", [line("4")])).result()[0].version == 3
    assert places(store) == [(1, "a", 1), (2, "a", 2), (3, "b", 1), (4, "a", 3)]
    assert (store.head, store.version("a"), store.version("b"), store.version("c")) == (4, 3, 1, 0)


def test_an_append_that_expects_another_version_is_refused_with_the_current_one(store: Any) -> None:
    store.append(Append("a", [line("1")], expected=NO_STREAM)).result()
    for expected in (NO_STREAM, 2):
        error = fails(store, Append("a", [line("2")], expected=expected))
        assert isinstance(error, WrongExpectedVersion)
        assert (error.stream, error.expected, error.current) == ("a", expected, 1)
    assert store.append(Append("a", [line("2")], expected=1)).result()[0].version == 2
    assert store.head == 2


def test_an_append_to_several_streams_is_all_or_nothing(store: Any) -> None:
    store.append(Append("b", [line("0")])).result()
    fails(store, Append("a", [line("1"), step(1)]), Append("b", [line("2")], expected=NO_STREAM))
    assert places(store) == [(1, "b", 1)]
    assert store.version("a") == 0
    answers = store.append(
        Append("a", [line("1"), step(1)]), Append("b", [line("2")], expected=1), Append("a", [line("3")], expected=2)
    ).result()
    assert answers == [
        Appended(position=3, first_position=2, version=2, count=2),
        Appended(position=4, first_position=4, version=2, count=1),
        Appended(position=5, first_position=5, version=3, count=1),
    ]
    assert places(store)[1:] == [(2, "a", 1), (3, "a", 2), (4, "b", 2), (5, "a", 3)]


def test_a_refused_append_leaves_no_hole_among_those_beside_it(store: Any) -> None:
    futures = [store.append(Append("a", [line(str(n))], expected=n if n % 3 else 10_000)) for n in range(1, 200)]
    futures += [store.append(Append("b", [step(n)])) for n in range(1, 200)]
    wait(futures)
    assert [position for position, _, _ in places(store)] == list(range(1, store.head + 1))
    assert store.version("b") == 199
    assert store.version("a") == 0
    assert store.append(Append("a", [line("first")], expected=0)).result()[0].position == store.head


def test_of_two_that_expect_the_same_version_one_wins(store: Any) -> None:
    barrier = threading.Barrier(8)
    outcomes: list[BaseException | None] = []

    def compete(number: int) -> None:
        barrier.wait()
        outcomes.append(store.append(Append("a", [line(str(number))], expected=0)).exception())

    threads = [threading.Thread(target=compete, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, WrongExpectedVersion) for outcome in outcomes) == 7
    assert store.head == 1


def test_an_append_of_nothing_checks_the_version_and_changes_nothing(store: Any) -> None:
    store.append(Append("a", [line("1")])).result()
    assert store.append(Append("a", [], expected=1)).result() == [
        Appended(position=1, first_position=1, version=1, count=0)
    ]
    assert isinstance(fails(store, Append("a", [], expected=0)), WrongExpectedVersion)
    assert store.append().result() == []
    assert store.head == 1


def test_actor_metadata_and_times_are_kept_with_cold_events(store: Any) -> None:
    before = now_us()
    store.append(
        Append("a", [line("1"), line("2")], occurred_at=[111, 222], actor="user:ada", metadata={"key": "4f"}),
        Append("a", [line("3")]),
    ).result()
    first, second, third = everything(store)
    assert (first.occurred_at, second.occurred_at) == (111, 222)
    assert (first.actor, first.metadata) == ("user:ada", {"key": "4f"})
    assert (third.actor, third.metadata) == (None, None)
    assert before <= third.occurred_at <= third.recorded_at <= now_us()
    assert first.recorded_at == third.recorded_at


def test_times_that_do_not_fit_the_events_are_refused(store: Any) -> None:
    error = store.append(Append("a", [line("1"), line("2")], occurred_at=[1])).exception()
    assert isinstance(error, ValueError)
    assert store.head == 0


def test_every_kind_of_event_comes_back_as_it_was(store: Any) -> None:
    sent: list[Event] = [
        step(1),
        line("ü\n\0"),
        step(2, sae=1, sparsity_coefficient=0.1, device_memory=2**40),
        MetricsLogged(step=2, values={"loss": 0.1, "bad": None}),
        UnknownEvent(name="FromTheFuture", data={"x": [1, {"y": None}]}),
        PauseRequested(),
        step(3),
    ]
    store.append(Append("a", sent)).result()
    found = everything(store)
    assert [each.type for each in found] == [
        "StepTrained", "LogWritten", "StepTrained", "MetricsLogged", "FromTheFuture", "PauseRequested", "StepTrained",
    ]  # fmt: skip
    assert [each.data for each in found if each.type != "StepTrained"] == [sent[1], *sent[3:6]]
    steps = [each.data for each in found if each.type == "StepTrained"]
    assert [each.step for each in steps] == [1, 2, 3]
    assert steps[1].sparsity_coefficient == 0.1
    assert steps[1].device_memory == 2**40
    assert steps[0].device_memory is None
    # Metrics are single precision, in memory and in the file alike.
    assert steps[2].loss == pytest.approx(1 / 3, rel=1e-7)
    assert steps[2].loss != 1 / 3


def test_what_is_not_a_finite_number_survives_in_columns_and_is_null_elsewhere(store: Any) -> None:
    odd = msgspec.structs.replace(step(1), loss=math.nan, l0=math.inf, fvu=-math.inf)
    evaluation = EvaluationMade(step=1, sae=0, tokens=8, fvu=math.nan, l0=1.0, dead_latents=0)
    store.append(Append("a", [odd, evaluation])).result()
    first, second = everything(store)
    assert math.isnan(first.data.loss)
    assert (first.data.l0, first.data.fvu) == (math.inf, -math.inf)
    assert second.data.fvu is None


def test_an_event_that_cannot_be_stored_is_refused_alone(store: Any) -> None:
    futures = [
        store.append(Append("a", [line("before")])),
        store.append(Append("a", [msgspec.structs.replace(step(1), step=-1)])),
        store.append(Append("a", [msgspec.structs.replace(step(1), loss=None)])),
        store.append(Append("a", [line("\ud800")])),
        store.append(Append("a", [EvaluationMade(step="one", sae=0, tokens=8, fvu=None, l0=None, dead_latents=0)])),  # type: ignore[arg-type]
        store.append(Append("b", [step(2)])),
    ]
    outcomes = [future.exception() for future in futures]
    assert outcomes[0] is None
    assert outcomes[5] is None
    assert all(outcome is not None for outcome in outcomes[1:5])
    assert places(store) == [(1, "a", 1), (2, "b", 1)]


def test_a_newer_programs_event_that_json_cannot_hold_keeps_its_place(store: Any) -> None:
    store.append(
        Append("a", [UnknownEvent(name="Odd", data={"x": msgspec.msgpack.Ext(5, b"?")}), line("next")])
    ).result()
    rejected, after = everything(store)
    assert rejected.type == "EventRejected"
    assert msgspec.msgpack.decode(rejected.data.raw)["type"] == "Odd"
    assert after.version == 2


# Epochs


def claimed(store: Any, **kwargs: Any) -> Claim:
    return store.claim(TRAINING, **kwargs).result()


def test_the_first_claim_gives_epoch_1_and_is_recorded(store: Any) -> None:
    store.append(Append(CONTROL, [TrainingCreated(name="x")])).result()
    assert claimed(store, host="box", pid=7, actor="trainer:1") == Claim(epoch=1, version=0, log_id=store.log_id)
    recorded = everything(store)[-1]
    assert (recorded.stream, recorded.version, recorded.actor) == (CONTROL, 2, "trainer:1")
    assert recorded.data == WriterClaimed(epoch=1, first_version=1, host="box", pid=7)
    assert (store.epoch(TRAINING), store.version(TRAINING)) == (1, 0)


def test_a_claim_of_the_current_epoch_goes_on_and_one_of_an_older_is_fenced(store: Any) -> None:
    claimed(store)
    store.append(Append(TRAINING, [step(1)], expected=0, epoch=1)).result()
    assert claimed(store) == Claim(epoch=2, version=1, log_id=store.log_id)
    head = store.head
    assert claimed(store, epoch=2) == Claim(epoch=2, version=1, log_id=store.log_id)
    assert store.head == head
    error = store.claim(TRAINING, epoch=1).exception()
    assert isinstance(error, Fenced)
    assert (error.epoch, error.current_epoch, error.current) == (1, 2, 1)


def test_an_epoch_that_was_given_elsewhere_is_taken_over(store: Any) -> None:
    assert claimed(store, epoch=5).epoch == 5
    assert everything(store)[-1].data == WriterClaimed(epoch=5, first_version=1)
    assert claimed(store).epoch == 6


def test_only_trainings_are_claimed(store: Any) -> None:
    assert isinstance(store.claim("catalog").exception(), ValueError)
    assert isinstance(store.claim(TRAINING, epoch=0).exception(), Fenced)
    assert isinstance(store.claim(TRAINING, epoch=2**31).exception(), ValueError)
    assert store.head == 0


def test_a_claim_is_not_smuggled_in_as_an_event(store: Any) -> None:
    claim = WriterClaimed(epoch=1, first_version=1)
    assert isinstance(store.append(Append(CONTROL, [line("1"), claim])).exception(), ValueError)
    assert (store.head, store.epoch(TRAINING)) == (0, 0)


def test_a_resend_is_answered_as_the_first_time(store: Any) -> None:
    claimed(store)
    first = store.append(Append(TRAINING, [step(1), line("1"), step(2)], expected=0, epoch=1)).result()
    store.append(Append("other", [line("between")])).result()
    second = store.append(Append(TRAINING, [step(3)], expected=3, epoch=1)).result()
    head = store.head
    assert store.append(Append(TRAINING, [step(1), line("1"), step(2)], expected=0, epoch=1)).result() == first
    assert store.append(Append(TRAINING, [step(3)], expected=3, epoch=1)).result() == second
    assert store.append(Append(TRAINING, [line("1"), step(2), step(3)], expected=1, epoch=1)).result() == [
        Appended(position=second[0].position, first_position=first[0].first_position + 1, version=4, count=3)
    ]
    assert store.head == head


def test_of_a_partial_resend_only_the_rest_is_appended(store: Any) -> None:
    claimed(store)
    store.append(Append(TRAINING, [step(1), step(2)], expected=0, epoch=1)).result()
    again = store.append(Append(TRAINING, [step(2), step(3), step(4)], expected=1, epoch=1, occurred_at=[2, 3, 4]))
    assert again.result() == [Appended(position=5, first_position=3, version=4, count=3)]
    trained = [each for each in everything(store) if each.stream == TRAINING]
    assert [(each.version, each.data.step) for each in trained] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert [each.occurred_at for each in trained[2:]] == [3, 4]


def test_a_resend_in_the_same_group_is_answered_as_the_first_time(store: Any) -> None:
    claimed(store)
    futures = [store.append(Append(TRAINING, [step(1), step(2)], expected=0, epoch=1)) for _ in range(5)]
    assert {future.result()[0] for future in futures} == {Appended(position=3, first_position=2, version=2, count=2)}
    assert store.version(TRAINING) == 2


def test_a_gap_is_refused_with_the_current_version(store: Any) -> None:
    claimed(store)
    store.append(Append(TRAINING, [step(1)], expected=0, epoch=1)).result()
    error = fails(store, Append(TRAINING, [step(3)], expected=2, epoch=1))
    assert isinstance(error, WrongExpectedVersion)
    assert error.current == 1


def test_a_writer_of_an_older_epoch_is_fenced_even_for_what_it_sent_before(store: Any) -> None:
    claimed(store)
    store.append(Append(TRAINING, [step(1)], expected=0, epoch=1)).result()
    claimed(store)
    for append in (
        Append(TRAINING, [step(2)], expected=1, epoch=1),
        Append(TRAINING, [step(1)], expected=0, epoch=1),
    ):
        error = fails(store, append)
        assert isinstance(error, Fenced)
        assert (error.current_epoch, error.current) == (2, 1)


def test_versions_of_an_older_epoch_are_not_written_over(store: Any) -> None:
    claimed(store)
    store.append(Append(TRAINING, [step(1), step(2)], expected=0, epoch=1)).result()
    claimed(store)
    error = fails(store, Append(TRAINING, [step(20), step(30)], expected=1, epoch=2))
    assert isinstance(error, WrongExpectedVersion)
    assert error.current == 2
    assert store.append(Append(TRAINING, [step(3)], expected=2, epoch=2)).result()[0].version == 3
    assert store.append(Append(TRAINING, [step(3)], expected=2, epoch=2)).result()[0].version == 3
    assert store.version(TRAINING) == 3


def test_a_claimed_stream_takes_nothing_without_its_epoch(store: Any) -> None:
    claimed(store)
    assert isinstance(fails(store, Append(TRAINING, [step(1)])), Fenced)
    assert isinstance(store.append(Append(TRAINING, [step(1)], expected=0, epoch=2)).exception(), ValueError)
    assert store.version(TRAINING) == 0


# Closing


def test_a_closed_log_says_so(store: Any) -> None:
    store.append(Append("a", [line("1")])).result()
    store.close()
    assert isinstance(store.append(Append("a", [line("2")])).exception(timeout=60), LogClosed)
    assert isinstance(store.claim(TRAINING).exception(timeout=60), LogClosed)
    for read in (lambda: store.read(0), lambda: store.read_stream("a"), lambda: store.tail_position(1)):
        with pytest.raises(LogClosed):
            read()
    store.close()
