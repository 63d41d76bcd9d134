from __future__ import annotations

from math import nan
from typing import Any

import pytest
from folded_log import CONFIG, Log, step

from events.control import (
    PauseRequested,
    ResumeRequested,
    StopRequested,
    TrainingCreated,
    TrainingDeleted,
    TrainingInterrupted,
    TrainingLaunched,
    TrainingNoted,
    TrainingRenamed,
    TrainingTagged,
    WriterClaimed,
)
from events.training import (
    EvaluationMade,
    MetricsLogged,
    Sae,
    TrainingCompleted,
    TrainingConfig,
    TrainingFailed,
    TrainingPaused,
    TrainingResumed,
    TrainingStarted,
)
from projections import filters, trainings
from projections.projection import QueryRefused
from projections.trainings import TrainingRow

C, T = "control-one", "training-one"
CREATED = (C, TrainingCreated(name="first", config=CONFIG, template_id="t", retry_of="r"))
SAES = (Sae(layer=1, hook="mlp_out"),)
STARTED = (T, TrainingStarted(pid=7, host="box", device="cuda:0", device_name="H100", saes=SAES))


def row(log: Log, id: str = "one") -> TrainingRow:
    found = trainings.get(log.con, id)
    assert found is not None
    return found


def names(log: Log, **query: Any) -> list[str]:
    return [each.name for each in trainings.list_(log.con, **query)[0]]


def test_a_training_is_what_its_creation_says(log: Log) -> None:
    log.append(CREATED, actor="user:ada")
    found = row(log)
    assert (found.id, found.name, found.status, found.actor, found.created_at) == (
        "one",
        "first",
        "queued",
        "user:ada",
        1_000,
    )
    assert (found.config, found.total_steps, found.template_id, found.retry_of) == (CONFIG, 100, "t", "r")
    assert (found.step, found.progress, found.loss, found.started_at, found.ended_at) == (0, 0.0, None, None, None)


def test_there_is_no_training_before_its_creation(log: Log) -> None:
    log.append((T, step(1)))
    assert trainings.get(log.con, "one") is None
    assert trainings.state(log.con, "one") is None
    assert trainings.list_(log.con) == ([], {})


def test_a_start_tells_process_device_saes_and_the_resolved_configuration(log: Log) -> None:
    resolved = TrainingConfig(model="demo", datasets=("stdlib",), total_steps=200, k=16)
    log.append(CREATED, (C, TrainingLaunched(launcher="local", pid=7)), (C, WriterClaimed(epoch=2, first_version=1)))
    assert (row(log).pid, row(log).epoch, row(log).status) == (7, 2, "starting")
    log.append((T, TrainingStarted(pid=8, host="box", device="cpu", saes=SAES, config=resolved)))
    found = row(log)
    assert (found.status, found.pid, found.host, found.device) == ("running", 8, "box", "cpu")
    assert (found.config, found.total_steps, found.saes) == (resolved, 200, SAES)
    assert found.started_at == 4_000


def test_the_latest_figures_are_means_over_the_saes(log: Log) -> None:
    log.append(CREATED, STARTED, *((T, step(n, sae, dead_latents=sae + 1)) for n in (1, 2) for sae in (0, 1)))
    log.append((T, step(3, 0, loss=0.5, fvu=0.25, l0=1.0)))
    found = row(log)
    assert (found.step, found.progress, found.updated_at) == (3, 0.03, 7_000)
    assert (found.loss, found.fvu, found.l0) == (0.5, 0.375, 1.5)
    # One that has diverged has no numbers any more; what the others say stays.
    log.append((T, step(4, 0, loss=0.5, fvu=0.25, l0=1.0)), (T, step(4, 1, loss=nan, fvu=nan, l0=nan)))
    assert (row(log).loss, row(log).fvu, row(log).l0) == (0.5, 0.25, 1.0)
    assert (found.dead_latents, found.tokens, found.tokens_per_second) == (2, 192, 10.0)


def test_figures_beyond_a_resume_no_longer_count(log: Log) -> None:
    log.append(CREATED, STARTED, *((T, step(n, sae)) for n in range(1, 9) for sae in (0, 1)))
    log.append((C, TrainingInterrupted(reason="killed")), (C, ResumeRequested()), (T, TrainingResumed(step=4)))
    found = row(log)
    assert (found.step, found.loss, found.tokens, found.status) == (4, 0.25, 4 * 64, "running")
    log.append((T, step(5)), (T, TrainingResumed(step=2)), (T, step(3, 1, loss=0.5)))
    assert (row(log).step, row(log).loss) == (3, 0.5)
    log.append((T, TrainingResumed(step=0)))
    assert (row(log).step, row(log).loss, row(log).tokens) == (0, None, None)


def test_times_and_pid_follow_the_process(log: Log) -> None:
    log.append(CREATED, STARTED)
    assert (row(log).started_at, row(log).ended_at, row(log).pid) == (2_000, None, 7)
    log.append((C, PauseRequested()), (T, TrainingPaused(step=0)))
    assert (row(log).status, row(log).ended_at, row(log).pid) == ("paused", 4_000, None)
    log.append((C, StopRequested()))
    assert (row(log).status, row(log).ended_at) == ("stopped", 4_000)
    log.append((C, ResumeRequested()))
    assert (row(log).status, row(log).started_at, row(log).ended_at) == ("resuming", 2_000, None)
    log.append((T, TrainingFailed(error="no memory")))
    assert (row(log).status, row(log).reason, row(log).ended_at) == ("failed", "no memory", 7_000)


def test_a_step_after_an_interruption_means_that_the_trainer_lives(log: Log) -> None:
    log.append(CREATED, STARTED, (T, step(1)))
    log.append((T, step(2)), (C, TrainingInterrupted(reason="lost")))
    assert (row(log).status, row(log).ended_at) == ("interrupted", 5_000)
    log.append((T, step(3)))
    assert (row(log).status, row(log).reason, row(log).ended_at) == ("running", None, None)
    log.append((T, step(4)), (C, TrainingInterrupted(reason="lost")), (T, step(5)))
    assert row(log).status == "running"


def test_a_batch_that_was_rolled_back_leaves_no_trace(log: Log) -> None:
    log.append(CREATED)
    before = log.rows()
    batch = log.make((T, step(1)))
    log.con.begin()
    log.fold(batch)
    log.con.rollback()
    assert log.rows() == before
    log.append((T, step(1)))
    assert row(log).status == "running"


def test_completion_is_all_of_the_progress(log: Log) -> None:
    log.append(CREATED, STARTED, (T, step(60)))
    assert row(log).progress == pytest.approx(0.6)
    log.append((T, TrainingCompleted(step=60)))
    assert (row(log).status, row(log).progress) == ("completed", 1.0)


def test_another_trainers_metrics_move_its_step(log: Log) -> None:
    log.append((C, TrainingCreated(name="theirs", kind="external", launcher="external")))
    log.append((T, MetricsLogged(step=41, values={"reward": 1.0})))
    assert (row(log).kind, row(log).step, row(log).updated_at) == ("external", 41, 2_000)


def test_name_tags_and_note_can_be_changed_and_found(log: Log) -> None:
    log.append(CREATED, (C, TrainingRenamed(name="Übung")), (C, TrainingTagged(tags=("wide", "50%"))))
    log.append((C, TrainingNoted(note="Look at LATENT 7.")), ("control-two", TrainingCreated(name="other")))
    assert (row(log).name, row(log).tags, row(log).note) == ("Übung", ("wide", "50%"), "Look at LATENT 7.")
    for q in ("übung", "WIDE", "50%", "latent 7", "demo", "stdlib demo", "one"):
        assert names(log, q=q) == ["Übung"], q
    for q in ("demo other", "%", "_"):
        assert names(log, q=q) == (["Übung"] if q == "%" else []), q


def test_a_deleted_training_is_shown_only_when_asked_for(log: Log) -> None:
    log.append(CREATED, ("control-two", TrainingCreated(name="second")), (C, TrainingDeleted()))
    assert names(log) == ["second"]
    assert names(log, deleted=True) == ["first"]
    assert row(log).deleted
    state = trainings.state(log.con, "one")
    assert state is not None
    assert state.deleted


def test_counts_are_of_all_that_match_whatever_page_and_status_are_shown(log: Log) -> None:
    for number in range(7):
        log.append((f"control-{number}", TrainingCreated(name=f"n{number}")))
    log.append(("training-3", step(1)), ("training-4", step(1)), ("control-5", StopRequested()))
    rows, counts = trainings.list_(log.con, status="running", limit=1)
    assert (len(rows), counts) == (1, {"queued": 4, "running": 2, "stopped": 1})
    assert names(log, status="running,stopped", sort="name") == ["n3", "n4", "n5"]
    assert names(log, limit=3, offset=2) == ["n4", "n3", "n2"]
    assert trainings.list_(log.con, q="n3")[1] == {"running": 1}


def test_a_list_is_sorted_as_asked_with_unknown_values_last(log: Log) -> None:
    for number, loss in ((1, 0.3), (2, 0.1), (3, None), (4, 0.2)):
        log.append((f"control-{number}", TrainingCreated(name=f"n{number}")))
        if loss is not None:
            log.append((f"training-{number}", step(number, loss=loss)))
    assert names(log, sort="loss") == ["n2", "n4", "n1", "n3"]
    assert names(log, sort="-loss") == ["n1", "n4", "n2", "n3"]
    assert names(log, sort="-step") == ["n4", "n2", "n1", "n3"]
    for sort in trainings.SORTS:
        assert len(names(log, sort=sort)) == 4


def test_a_row_has_the_worst_of_its_newest_verdicts_with_every_reason(log: Log) -> None:
    saes = (Sae(layer=1, hook="resid_post"), Sae(layer=2, hook="resid_post"))
    started = TrainingStarted(pid=7, host="box", device="cpu", saes=saes)
    for name in ("a", "b"):
        log.append((f"control-{name}", TrainingCreated(name=name)), (f"training-{name}", started))

    def judged(step: int, sae: int, verdict: Any, *reasons: str) -> EvaluationMade:
        return EvaluationMade(
            step=step, sae=sae, tokens=9, fvu=0.1, l0=2.0, dead_latents=3, verdict=verdict, reasons=reasons
        )

    log.append(("training-a", judged(10, 0, "bad", "dead")), ("training-a", judged(10, 1, "good")))
    log.append(("training-a", judged(20, 0, "good")), ("training-a", judged(20, 1, "watch", "dense", "shrunk")))
    assert [(one.name, one.verdict, one.reasons) for one in trainings.list_(log.con, sort="name")[0]] == [
        ("a", "watch", ("L2.resid_post: dense", "L2.resid_post: shrunk")),
        ("b", None, ()),
    ]
    # Not judged is no verdict, and takes an older one's place.
    log.append(("training-a", judged(30, 1, None)))
    assert (row(log, "a").verdict, row(log, "a").reasons) == ("good", ())


def test_trainings_are_found_by_any_field_of_their_configuration(log: Log) -> None:
    common: dict[str, Any] = {"model": "Owner/Model's", "datasets": ("one",)}
    for name, config in (
        ("a", TrainingConfig(**common, k=16, learning_rate=1e-4, training_layers=(6, 8))),
        ("b", TrainingConfig(**{**common, "datasets": ("one", "two")}, k=32, learning_rate=2e-4)),
        ("c", TrainingConfig(**common, architecture_type="batchtopk", auto_resume=True, learning_rate=0.005)),
        ("d", None),
    ):
        log.append((f"control-{name}", TrainingCreated(name=name, config=config)))
    for conditions, found in {
        "k=32": "b",
        "k>=16; learning_rate<0.00015": "a",
        "k != 16": "bcd",
        "architecture_type=TopK": "ab",
        "architecture_type~TOP": "abc",
        "datasets=two": "b",
        "datasets!=two": "acd",
        "training_layers=6": "a",
        "auto_resume=on": "c",
        "k=none": "cd",
        "k!=none": "ab",
        "model=none": "d",
        "datasets!=none": "abc",
        "activations=none": "abcd",
        "model=Owner/Model's; k=16": "a",
        "batch_size=4,096": "abc",
        "total_steps>1e6": "",
        " ; ": "abcd",
    }.items():
        assert names(log, conditions=conditions, sort="name") == list(found), conditions
        assert sum(trainings.list_(log.con, conditions=conditions, limit=1)[1].values()) == len(found)


def test_every_field_can_be_asked_for_and_grouped_by(log: Log) -> None:
    log.append((C, TrainingCreated(name="a", config=CONFIG)))
    for field in filters.KINDS:
        assert names(log, conditions=f"{field}=none") + names(log, conditions=f"{field}!=none") == ["a"]
        assert names(log, group=field) == ["a"]


def test_trainings_are_found_and_grouped_by_tag(log: Log) -> None:
    for name, tags in (("a", ("wide", "kept")), ("b", ("old",)), ("c", ()), ("d", ("wide",))):
        log.append((f"control-{name}", TrainingCreated(name=name)), (f"control-{name}", TrainingTagged(tags=tags)))
    assert names(log, tags=["wide"], sort="name") == ["a", "d"]
    assert names(log, tags=["wide", "kept"]) == ["a"]
    assert names(log, tags=["wid"]) == []
    assert filters.tags("wide, kept,,wide") == ("wide", "kept")
    assert names(log, group="tag", sort="name") == ["b", "a", "d", "c"]
    assert trainings.tags_in_use(log.con) == {"wide": 2, "kept": 1, "old": 1}
    log.append(("control-a", TrainingDeleted()))
    assert trainings.tags_in_use(log.con) == {"old": 1, "wide": 1}


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ("k", "is not FIELD"),
        ("depth=3", "is not known"),
        ("k=many", "k is a number"),
        ("datasets>a", "datasets is a list"),
        ("model>a", "model is not a number"),
        ("k<none", "only = and !="),
        ("k'=1", "is not FIELD"),
        (";".join(["k=1"] * 21), "at most 20"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused_with_what_is_allowed(log: Log, conditions: str, said: str) -> None:
    with pytest.raises(QueryRefused, match=said) as refused:
        trainings.list_(log.con, conditions=conditions)
    assert refused.value.field == "where"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"group": "mood"}, "group"),
        ({"status": "asleep"}, "status"),
        ({"sort": "mood"}, "sort"),
        ({"limit": 0}, "limit"),
        ({"offset": -1}, "offset"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(log: Log, query: dict[str, Any], field: str) -> None:
    with pytest.raises(QueryRefused) as refused:
        trainings.list_(log.con, **query)
    assert refused.value.field == field
