"""Checkpoints, evaluations, templates, the catalogue, and who did what."""

from __future__ import annotations

from typing import Any

import pytest
from folded_log import CONFIG, Log, step

from events.catalog import DatasetRegistered, DatasetRemoved, ModelRegistered, ModelRemoved
from events.control import PauseRequested, TrainingCreated, TrainingDeleted, TrainingRenamed
from events.template import (
    TemplateDeleted,
    TemplateEdited,
    TemplateFavourited,
    TemplateRenamed,
    TemplateRestored,
    TemplateSaved,
)
from events.training import (
    CheckpointDeleted,
    CheckpointSaved,
    EvaluationMade,
    TrainingCompleted,
    TrainingConfig,
    TrainingResumed,
)
from projections import activity, catalog, checkpoints, evaluations, templates
from projections.projection import QueryRefused

T = "training-one"
DATASET = DatasetRegistered(dataset_id="stdlib", source="/usr/lib", format="text", pattern="*.py")


def saved(step: int, **more: Any) -> tuple[str, CheckpointSaved]:
    return T, CheckpointSaved(step=step, path=f"checkpoints/{step}", size=100, host="box", **more)


def evaluated(step: int, fvu: float | None, sae: int = 0) -> tuple[str, EvaluationMade]:
    return T, EvaluationMade(step=step, sae=sae, tokens=1_000, fvu=fvu, l0=16.0, dead_latents=3, reasons=("dense",))


def test_checkpoints_are_those_that_exist_newest_first(log: Log) -> None:
    log.append(saved(10), saved(20, reason="pause", loss=0.5), (T, CheckpointDeleted(step=10)), saved(30))
    rows = checkpoints.list_(log.con, "one")
    assert [(row.step, row.reason, row.loss, row.size, row.host) for row in rows] == [
        (30, "interval", None, 100, "box"),
        (20, "pause", 0.5, 100, "box"),
    ]
    newest = checkpoints.newest(log.con, "one")
    assert newest == rows[0]
    assert checkpoints.newest(log.con, "two") is None


def test_the_best_checkpoint_has_the_lowest_evaluation_fvu(log: Log) -> None:
    log.append(*(saved(n) for n in (10, 20, 30, 40)))
    log.append(evaluated(10, 0.3), evaluated(20, 0.1), evaluated(20, 0.3, sae=1), evaluated(30, 0.25))
    log.append(evaluated(40, None), evaluated(50, 0.01))
    rows = {row.step: (row.evaluation_fvu, row.best) for row in checkpoints.list_(log.con, "one")}
    assert rows == {10: (0.3, False), 20: (0.2, True), 30: (0.25, False), 40: (None, False)}


def test_checkpoints_and_evaluations_beyond_a_resume_no_longer_count(log: Log) -> None:
    log.append(saved(10), saved(20), evaluated(10, 0.5), evaluated(20, 0.4), (T, TrainingResumed(step=10)))
    assert [row.step for row in checkpoints.list_(log.con, "one")] == [10]
    assert [row.step for row in evaluations.list_(log.con, "one")] == [10]
    log.append(saved(20, reason="end"), evaluated(20, 0.3))
    assert [(row.step, row.reason) for row in checkpoints.list_(log.con, "one")] == [(20, "end"), (10, "interval")]
    assert [row.fvu for row in evaluations.list_(log.con, "one")] == [0.5, 0.3]


def test_a_later_resume_brings_nothing_back_that_an_earlier_one_took(log: Log) -> None:
    log.append(saved(10), saved(20), evaluated(20, 0.4))
    log.append((T, TrainingResumed(step=10)), saved(30), (T, TrainingResumed(step=20)))
    assert [row.step for row in checkpoints.list_(log.con, "one")] == [10]
    assert evaluations.list_(log.con, "one") == []


def test_a_deleted_training_has_no_checkpoints(log: Log) -> None:
    log.append(saved(0), saved(10), ("control-one", TrainingDeleted()))
    assert checkpoints.list_(log.con, "one") == []


def test_an_evaluation_shows_every_figure(log: Log) -> None:
    event = EvaluationMade(
        step=5, sae=1, tokens=9, fvu=0.1, l0=2.0, dead_latents=3, dense_latents=4, duplicate_latents=5, ce_clean=1.0,
        ce_spliced=1.5, ce_ablated_zero=9.0, ce_ablated_mean=8.0, kl_spliced=0.5, loss_recovered=0.9, shrinkage=0.97,
        density_histogram=(1, 2, 3), verdict="watch", reasons=("many dead latents",),
    )  # fmt: skip
    log.append((T, event), (T, step(6)))
    (row,) = evaluations.list_(log.con, "one", sae=1)
    for name in EvaluationMade.__struct_fields__:
        shown = getattr(row, name)
        assert (tuple(shown) if isinstance(shown, list) else shown) == getattr(event, name), name
    assert evaluations.list_(log.con, "one", sae=0) == []


def test_a_template_is_what_its_events_made_of_it(log: Log) -> None:
    other = TrainingConfig(model="gpt2", k=8)
    log.append(("template-a", TemplateSaved(name="wide", config=CONFIG)), actor="user:ada")
    log.append(("template-a", TemplateEdited(description="for demo", config=other)), actor="user:bob")
    log.append(("template-a", TemplateRenamed(name="Wider")), ("template-b", TemplateSaved(name="b", config=CONFIG)))
    log.append(("template-b", TemplateFavourited(favourite=True)))
    found = templates.get(log.con, "a")
    assert found is not None
    assert (found.name, found.description, found.config, found.version) == ("Wider", "for demo", other, 3)
    assert (found.actor, found.created_at, found.updated_at) == ("user:ada", 1_000, 3_000)
    assert [row.id for row in templates.list_(log.con)] == ["b", "a"]
    assert [row.id for row in templates.list_(log.con, q="GPT2 wider")] == ["a"]


def test_a_deleted_template_comes_back_as_it_was(log: Log) -> None:
    log.append(("template-a", TemplateSaved(name="a", config=CONFIG)), ("template-a", TemplateDeleted()))
    assert templates.list_(log.con) == []
    assert [row.id for row in templates.list_(log.con, deleted=True)] == ["a"]
    log.append(("template-a", TemplateRestored()))
    assert [row.config for row in templates.list_(log.con)] == [CONFIG]


def test_the_catalogue_has_the_newest_registration_of_everything(log: Log) -> None:
    def model(id: str, layers: int) -> tuple[str, ModelRegistered]:
        return "catalog", ModelRegistered(
            model_id=id, source=id, hidden_dim=8, layers=layers, hooks=("mlp_out",), context_size=16
        )

    log.append(model("b", 1), model("a", 2), ("catalog", DATASET))
    log.append(model("b", 3))
    assert [(each.model_id, each.layers) for each in catalog.models(log.con)] == [("a", 2), ("b", 3)]
    assert catalog.datasets(log.con) == [DATASET]
    removed = ("catalog", ModelRemoved(model_id="a")), ("catalog", DatasetRemoved(dataset_id="stdlib"))
    # What was never there changes nothing, and what is registered again in the same breath is there.
    log.append(
        *removed, ("catalog", ModelRemoved(model_id="c")), model("d", 4), ("catalog", ModelRemoved(model_id="d"))
    )
    assert ([each.model_id for each in catalog.models(log.con)], catalog.datasets(log.con)) == (["b"], [])
    log.append(("catalog", ModelRemoved(model_id="b")), model("b", 5))
    assert [(each.model_id, each.layers) for each in catalog.models(log.con)] == [("b", 5)]


def test_activity_tells_who_did_what(log: Log) -> None:
    log.append(("control-one", TrainingCreated(name="first")), (T, saved(1)[1]), actor="user:ada")
    log.append(("control-one", PauseRequested()), ("template-a", TemplateDeleted()), actor="token:ci")
    rows = activity.list_(log.con)
    assert [(row.position, row.actor, row.training, row.type) for row in rows] == [
        (4, "token:ci", None, "TemplateDeleted"),
        (3, "token:ci", "one", "PauseRequested"),
        (1, "user:ada", "one", "TrainingCreated"),
    ]
    assert (rows[2].data["name"], rows[2].timestamp) == ("first", 1_000)
    assert [row.position for row in activity.list_(log.con, training="one", limit=1)] == [3]
    assert [row.position for row in activity.list_(log.con, before=4)] == [3, 1]


def test_activity_tells_how_trainings_ended_and_is_of_one_actor_or_kind(log: Log) -> None:
    log.append(("control-one", TrainingCreated(name="first")), ("catalog", DATASET), actor="user:ada")
    log.append((T, saved(1)[1]), (T, TrainingCompleted(step=9)), actor="trainer:one")
    log.append(("template-a", TemplateSaved(name="wide", config=CONFIG)), actor="user:bob")

    def found(**asked: Any) -> list[int]:
        return [row.position for row in activity.list_(log.con, **asked)]

    assert found() == [5, 4, 2, 1]
    assert found(training="one") == [4, 1]
    assert (found(kind="training"), found(kind="template"), found(kind="catalogue")) == ([4, 1], [5], [2])
    assert (found(actor="user:ada"), found(actor="user"), found(actor="trainer")) == ([2, 1], [5, 2, 1], [4])
    assert found(actor="use") == []
    assert activity.actors(log.con) == ["trainer", "user:ada", "user:bob"]
    assert activity.actors(log.con, training="one") == ["trainer", "user:ada"]
    with pytest.raises(QueryRefused, match="allowed: training, template, catalogue, server"):
        found(kind="weather")


def test_activity_names_what_it_is_about_as_it_is_called_by_now(log: Log) -> None:
    log.append(("template-a", TemplateSaved(name="wide", config=CONFIG)))
    log.append(("control-one", TrainingCreated(name="first", template_id="a")), ("template-a", TemplateDeleted()))
    log.append(("control-one", TrainingRenamed(name="later")), ("template-a", TemplateRenamed(name="Wider")))
    log.append(("control-two", TrainingCreated(name="other", template_id="gone")), ("catalog", DATASET))
    rows = activity.list_(log.con)[::-1]
    assert [(row.training, row.training_name, row.template, row.template_name) for row in rows] == [
        (None, None, "a", "Wider"),
        ("one", "later", "a", "Wider"),
        (None, None, "a", "Wider"),
        ("one", "later", None, None),
        (None, None, "a", "Wider"),
        ("two", "other", "gone", None),
        (None, None, None, None),
    ]
