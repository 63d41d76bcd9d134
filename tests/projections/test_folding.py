"""What every projection promises: the same rows however batches are cut, and those that a plain fold gives."""

from __future__ import annotations

from math import isfinite
from typing import Any

import pytest
from folded_log import CONFIG, Log, Placed, models, step
from hypothesis import given, settings
from hypothesis import strategies as st

from events.catalog import DatasetRegistered, ModelRegistered
from events.control import (
    PauseRequested,
    ResumeRequested,
    StopRequested,
    TrainingCreated,
    TrainingDeleted,
    TrainingInterrupted,
    TrainingLaunched,
    TrainingRenamed,
    TrainingTagged,
    WriterClaimed,
)
from events.event import UnknownEvent
from events.log import LogWritten
from events.template import TemplateDeleted, TemplateEdited, TemplateFavourited, TemplateRenamed, TemplateSaved
from events.training import (
    CheckpointDeleted,
    CheckpointSaved,
    EvaluationMade,
    MetricsLogged,
    TrainingCompleted,
    TrainingFailed,
    TrainingPaused,
    TrainingResumed,
    TrainingStarted,
    TrainingStopped,
)
from projections import checkpoints, evaluations, logs, metrics, trainings

NUMBERS = st.integers(1, 9)
SAES = st.integers(0, 1)

FACTS = st.one_of(
    st.builds(step, NUMBERS, SAES),
    st.builds(step, NUMBERS, SAES),
    st.builds(step, NUMBERS, SAES, loss=st.sampled_from([float("nan"), float("inf"), -1.0])),
    st.builds(TrainingResumed, step=st.integers(0, 9)),
    st.builds(TrainingStarted, pid=NUMBERS, host=st.just("here"), device=st.just("cpu")),
    st.builds(
        LogWritten, level=st.sampled_from(["INFO", "ERROR"]), logger=st.just("core"), message=st.text(max_size=3)
    ),
    st.builds(CheckpointSaved, step=NUMBERS, path=st.just("p"), size=NUMBERS),
    st.builds(CheckpointDeleted, step=NUMBERS),
    st.builds(
        EvaluationMade, step=NUMBERS, sae=SAES, tokens=NUMBERS, fvu=st.floats(0, 1), l0=st.none(), dead_latents=NUMBERS
    ),
    st.builds(MetricsLogged, step=NUMBERS, values=st.dictionaries(st.sampled_from(["a", "b"]), st.floats(0, 1))),
    st.builds(TrainingPaused, step=NUMBERS),
    st.builds(TrainingStopped, step=NUMBERS),
    st.builds(TrainingCompleted, step=NUMBERS),
    st.builds(TrainingFailed, error=st.just("out of memory")),
    st.builds(UnknownEvent, name=st.just("FromTheFuture"), data=st.just({"step": -1})),
)
WISHES = st.one_of(
    st.builds(TrainingCreated, name=st.just("first"), config=st.sampled_from([None, CONFIG])),
    st.builds(TrainingCreated, name=st.just("other"), launcher=st.just("external")),
    st.builds(TrainingLaunched, launcher=st.just("local"), pid=NUMBERS),
    st.builds(WriterClaimed, epoch=NUMBERS, first_version=NUMBERS),
    st.builds(TrainingInterrupted, reason=st.just("killed")),
    st.builds(TrainingRenamed, name=st.text(max_size=3)),
    st.builds(TrainingTagged, tags=st.just(("a", "b"))),
    st.sampled_from([PauseRequested(), ResumeRequested(), StopRequested(), TrainingDeleted()]),
)
OTHERS = st.one_of(
    st.tuples(
        st.sampled_from(["template-a", "template-b"]),
        st.one_of(
            st.builds(TemplateSaved, name=st.text(max_size=3), config=st.just(CONFIG)),
            st.builds(TemplateEdited, description=st.text(max_size=3), config=st.just(CONFIG)),
            st.builds(TemplateRenamed, name=st.text(max_size=3)),
            st.builds(TemplateFavourited, favourite=st.booleans()),
            st.just(TemplateDeleted()),
        ),
    ),
    st.tuples(
        st.just("catalog"),
        st.one_of(
            st.builds(
                ModelRegistered,
                model_id=st.sampled_from(["m", "n"]),
                source=st.text(max_size=3),
                hidden_dim=NUMBERS,
                layers=NUMBERS,
                hooks=st.just(("resid_post",)),
                context_size=NUMBERS,
            ),
            st.builds(
                DatasetRegistered,
                dataset_id=st.sampled_from(["m", "n"]),
                source=st.text(max_size=3),
                format=st.just("text"),
            ),
        ),
    ),
)
TRAININGS = st.sampled_from(["one", "two"])
EVENTS = st.one_of(
    st.tuples(TRAININGS.map("training-{}".format), FACTS),
    st.tuples(TRAININGS.map("training-{}".format), FACTS),
    st.tuples(TRAININGS.map("control-{}".format), WISHES),
    OTHERS,
)
HISTORY = st.lists(st.lists(EVENTS, min_size=1, max_size=8), min_size=1, max_size=8)

QUICK = settings(max_examples=20)


@pytest.mark.slow
@given(HISTORY)
@QUICK
def test_folding_in_any_cuts_at_once_and_again_gives_the_same_rows(batches: list[list[Placed]]) -> None:
    log, whole = Log(), Log()
    try:
        for batch in batches:
            log.append(*batch)
        whole.append(*(event for batch in batches for event in batch))
        rows = log.rows()
        assert rows == whole.rows()
        assert rows == log.rows(log.replay(1_000))
        assert rows == log.rows(log.replay(3))
    finally:
        log.close()
        whole.close()


@pytest.mark.slow
@given(HISTORY)
@QUICK
def test_queries_show_what_the_events_add_up_to_one_by_one(batches: list[list[Placed]]) -> None:
    log = Log()
    try:
        created = [("control-one", TrainingCreated(name="one")), ("control-two", TrainingCreated(name="two"))]
        for batch in [created, *batches]:
            log.append(*batch)
        for id, model in models(log.recorded()).items():
            assert trainings.state(log.con, id) == model.state
            latest = model.latest()
            row = trainings.get(log.con, id)
            assert row is not None
            assert row.tokens == max((each.tokens for each in latest.values()), default=None)
            if latest:
                finite = [each.loss for each in latest.values() if isfinite(each.loss)]
                assert row.loss == (pytest.approx(sum(finite) / len(finite)) if finite else None)
            rows = metrics.history(log.con, id).to_pylist()
            places = [(each["step"], each["sae"]) for each in rows]
            assert places == sorted(places)
            assert sorted(
                (each["step"], each["sae"], repr(each["loss"]), each["timestamp"]) for each in rows
            ) == sorted((each.data.step, each.data.sae, repr(each.data.loss), each.occurred_at) for each in model.steps)
            assert [line.position for line in logs.lines(log.con, id, limit=1_000, order="asc")] == [
                each.position for each in model.lines
            ]
            assert {(each.step, each.position) for each in checkpoints.list_(log.con, id)} == {
                (number, each.position) for number, each in model.checkpoints.items()
            }
            assert {(each.step, each.sae, each.position) for each in evaluations.list_(log.con, id)} == {
                (*key, each.position) for key, each in model.evaluations.items()
            }
            logged: dict[int, dict[str, Any]] = {}
            for each in model.logged:
                if each.data.values:
                    logged.setdefault(each.data.step, {}).update(each.data.values)
            assert {
                row.pop("step"): {name: value for name, value in row.items() if value is not None}
                for row in metrics.logged(log.con, id, fields=["a", "b"]).drop(["timestamp"]).to_pylist()
            } == logged
    finally:
        log.close()
