"""What the sections below the charts show: the whole configuration, the checkpoints, who did what."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import msgspec
import pytest

from events.training import TrainingConfig
from ui import text
from ui.answers import Checkpoint, Deed
from ui.state import activity, checkpoints, hyperparameters
from ui.state.config_fields import FIELDS
from ui.state.trainings import retry_name

CONFIG = TrainingConfig(
    model="demo",
    datasets=("stdlib",),
    training_layers=(2,),
    latent_dim=4096,
    k=16,
    learning_rate=2.7e-4,
    weight_decay=0.1,
)


def fields(config: TrainingConfig, differing: set[str] | None = None) -> dict[str, dict[str, Any]]:
    groups = hyperparameters.groups(config, differing or set())
    return {field["name"]: field for group in groups for field in group["fields"]}


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "transcoder"])
def test_every_field_that_applies_is_shown_once_with_its_label_and_help(architecture: Any) -> None:
    config = TrainingConfig(architecture_type=architecture)
    groups = hyperparameters.groups(config, set())
    names = [field["name"] for group in groups for field in group["fields"]]
    assert sorted(names) == sorted(field.name for field in FIELDS if field.applies_to(architecture, "text"))
    assert all(field["label"] and field["help"] for group in groups for field in group["fields"])


def test_a_value_of_a_field_that_does_not_apply_is_not_hidden() -> None:
    assert "bandwidth" in fields(TrainingConfig(architecture_type="topk", bandwidth=0.1))


def test_values_have_their_unit_and_what_is_unset_says_its_default() -> None:
    shown = fields(CONFIG, {"latent_dim"})
    assert (shown["latent_dim"]["value"], shown["latent_dim"]["unit"]) == ("4,096", "latents")
    assert shown["latent_dim"]["differs"] and not shown["k"]["differs"]
    assert shown["learning_rate"]["value"] == "0.00027"
    assert shown["auto_resume"]["value"] == "off"
    assert shown["hidden_dim"] | {"help": ""} == {
        "name": "hidden_dim",
        "label": "Hidden dim",
        "value": "read from the model",
        "unit": "",
        "set": False,
        "differs": False,
        "help": "",
    }


def test_what_is_copied_is_the_configuration_again() -> None:
    for copied in (tomllib.loads(hyperparameters.in_toml(CONFIG)), json.loads(hyperparameters.in_json(CONFIG))):
        assert msgspec.convert(copied, TrainingConfig) == CONFIG


def test_only_what_somebody_set_differs_not_what_follows_from_it() -> None:
    def completed(asked: dict[str, Any]) -> TrainingConfig:
        width = asked.get("latent_dim", 2048)
        return msgspec.convert(
            {"training_layers": [2], "latent_dim": width, "k": 16, "learning_rate": 1.0 / width, **asked},
            TrainingConfig,
        )

    config = completed({**hyperparameters.fixed(CONFIG), "latent_dim": 4096})
    asked = hyperparameters.fixed(config)
    found: list[str] = []
    while (name := hyperparameters.next_set(config, completed(asked), asked)) is not None:
        found.append(name)
        asked[name] = getattr(config, name)
    assert found == ["latent_dim"]
    assert hyperparameters.changed(config, found) == {"latent_dim", "weight_decay"}
    assert "2 not at their default" in hyperparameters.summary(config, {"latent_dim", "weight_decay"})


def test_checkpoints_are_rows_with_a_download_and_a_deletion_that_asks() -> None:
    one = Checkpoint(step=1_000, timestamp=5, path="/run/1000", size=6_370_000, loss=0.25, fvu=0.2, reason="pause")
    (row,) = checkpoints.table("a/b", [one])["rows"]
    assert {name: cell.get("text") for name, cell in row["cells"].items()} == {
        "step": "1,000",
        "when": None,
        "loss": "0.250",
        "fvu": "0.200",
        "size": "6.37 MB",
        "reason": "before the pause",
    }
    assert row["actions"][0]["href"] == "api/v1/trainings/a%2Fb/checkpoints/1000/download"
    assert row["actions"][1]["href"] == "api/v1/trainings/a%2Fb/checkpoints/1000/export?format=saelens"
    assert row["actions"][2]["sure"]
    assert "mark" not in row["cells"]["step"]
    best = msgspec.structs.replace(one, best=True, evaluation_fvu=0.1834)
    mark = checkpoints.table("a/b", [best])["rows"][0]["cells"]["step"]["mark"]
    assert mark == {"label": "best", "title": "The lowest FVU on held-out text: 0.183"}
    assert checkpoints.summary([one, one]) == "2 checkpoints, 12.7 MB"


def test_deleting_says_what_goes_before_and_after() -> None:
    one = Checkpoint(step=1, timestamp=0, path="", size=6_370_000)
    assert "Its 1 checkpoint (6.37 MB) will be removed" in checkpoints.what_deleting_removes("run", [one])
    assert "no checkpoints on disk" in checkpoints.what_deleting_removes("run", [])
    said = checkpoints.what_was_deleted(2, 12_740_000, "user:ada")
    assert said.startswith("This training was deleted by user:ada. 2 checkpoints (12.7 MB) were removed")


@pytest.mark.parametrize(
    ("type_", "data", "said"),
    [
        ("TrainingCreated", {"retry_of": "old"}, "Created as a retry of old"),
        ("TrainingCreated", {"retry_of": None}, "Created"),
        ("TrainingLaunched", {"pid": 7, "device": "cuda:0"}, "Process 7 started on cuda:0"),
        ("WriterClaimed", {"epoch": 2, "host": "box"}, "Attempt 2 began to report on box"),
        ("PauseRequested", {}, "Paused"),
        ("CheckpointDeleted", {"step": 1000}, "Checkpoint of step 1,000 deleted"),
        ("TrainingInterrupted", {"reason": "Killed."}, "Found interrupted: Killed."),
        ("TrainingRenamed", {"name": "<b>"}, "Renamed to “<b>”"),
        ("TrainingTagged", {"tags": []}, "Tags set to none"),
        ("SomethingNewHappened", {}, "Something new happened"),
    ],
)
def test_what_was_done_is_said_in_words(type_: str, data: dict[str, Any], said: str) -> None:
    assert activity.what(Deed(position=1, timestamp=0, type=type_, data=data)) == said


def test_who_did_it_is_said_where_it_is_known() -> None:
    deeds = [
        Deed(position=2, timestamp=0, type="PauseRequested", actor="user:root"),
        Deed(position=1, timestamp=0, type="TrainingCreated"),
    ]
    rows = activity.table(deeds)["rows"]
    assert [row["cells"]["what"]["quiet"] for row in rows] == ["by user:root", ""]


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("run", "run (retry)"),
        ("run (retry)", "run (retry 2)"),
        ("run (retry 9)", "run (retry 10)"),
        ("x" * 255, "x" * 247 + " (retry)"),
    ],
)
def test_a_retry_is_named_after_what_it_repeats(name: str, again: str) -> None:
    assert retry_name(name) == again


@pytest.mark.parametrize(("size", "said"), [(0, "0 B"), (512, "512 B"), (6_370_000, "6.37 MB"), (None, text.NOTHING)])
def test_sizes_are_read_in_three_digits(size: int | None, said: str) -> None:
    assert text.size(size) == said


def test_newest_deeds_join_those_that_are_known_only_where_nothing_is_between() -> None:
    def deeds(*positions: int, name: str = "old") -> list[Deed]:
        return [
            Deed(position=one, timestamp=0, type="PauseRequested", training="a", training_name=name)
            for one in positions
        ]

    both = activity.joined(deeds(7, 5, 3, 1), deeds(9, 7, 5, name="new"))
    assert both is not None
    assert [(one.position, one.training_name) for one in both] == [(one, "new") for one in (9, 7, 5, 3, 1)]
    assert activity.joined(deeds(7, 5), deeds(12, 11, 9)) is None
    assert activity.joined([], deeds(9)) is None


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        (Deed(position=1, timestamp=0, type="TrainingStopped", actor="trainer:a", training="a b", training_name="wide",
              data={"step": 1_200}), ("Stopped at step 1,200", "wide", "?training=a%20b", "its trainer")),
        (Deed(position=1, timestamp=0, type="TrainingFailed", actor="trainer:a", training="a", data={"error": "No."}),
         ("Failed: No.", "a", "", "its trainer")),
        (Deed(position=1, timestamp=0, type="TemplateSaved", actor="user:ada", template="t", template_name="kept"),
         ("Template saved", "kept", "?page=templates", "ada")),
        (Deed(position=1, timestamp=0, type="ModelRegistered", actor="token:ci", data={"model_id": "demo"}),
         ("Model registered", "demo", "?page=catalogue", "token:ci")),
    ],
)  # fmt: skip
def test_everything_that_was_done_says_with_what_and_by_whom(deed: Deed, said: tuple[str, str, str, str]) -> None:
    row = activity.row(deed)
    assert (row["what"], row["subject"], row["href"], row["who"]) == said
