"""The worked questions: each is asked of a replica of a real log, and gives what the log's history says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from folded_log import step
from server_harness import Client
from test_replica import of, running

from events.control import TrainingCreated
from events.event import Event
from events.log import LogWritten
from events.streams import Append
from events.template import TemplateRenamed, TemplateSaved
from events.training import (
    CheckpointSaved,
    EvaluationMade,
    TrainingCompleted,
    TrainingConfig,
    TrainingResumed,
    TrainingStarted,
)
from projections.questions import QUESTIONS, page

pytestmark = pytest.mark.slow

ONE = TrainingConfig(
    model="demo", datasets=("stdlib",), architecture_type="topk", total_steps=1_200, latent_dim=100,
    learning_rate=1e-3, target_l0=0.1,
)  # fmt: skip
OTHER = TrainingConfig(
    model="demo", datasets=("stdlib",), architecture_type="gated", total_steps=10, latent_dim=200,
    learning_rate=2e-3, target_l0=0.1,
)  # fmt: skip


def started(config: TrainingConfig, device: str) -> TrainingStarted:
    return TrainingStarted(pid=1, host="box", device="cuda:0", device_name=device, config=config)


def one() -> list[Event]:
    """Dead latents are above 30 % from step 201 on; steps 1,101 to 1,150 are lost and done again; one loss jumps."""
    return [
        started(ONE, "A100"),
        *(
            step(n, l0=20.0 - min(n, 100) / 10, l0_fraction=0.1995 - min(n, 100) / 1_000, dead_latents=_dead(n))
            for n in range(1, 1_151)
        ),
        LogWritten(level="WARNING", logger="core", message="slow"),
        LogWritten(level="WARNING", logger="core", message="slow"),
        CheckpointSaved(step=1_100, path="p", size=2_000_000_000, fvu=0.1),
        EvaluationMade(step=1_100, sae=0, tokens=64, fvu=0.25, l0=3.0, dead_latents=1, loss_recovered=0.9),
        TrainingResumed(step=1_100),
        started(ONE, "A100"),
        *(
            step(n, loss=9.0 if n == 1_150 else 1 / n, l0=10.0, l0_fraction=0.1, dead_latents=_dead(n))
            for n in range(1_101, 1_201)
        ),
        TrainingCompleted(step=1_200),
    ]


def _dead(n: int) -> int:
    return 10 if n <= 200 else 50


def other() -> list[Event]:
    steps = [step(n, l0=30.0, l0_fraction=0.15, grad_norm=float("nan") if n > 8 else 1.0) for n in range(1, 11)]
    return [started(OTHER, "T4"), *steps, TrainingCompleted(step=10)]


async def fill(client: Client) -> None:
    store = client.server.studio.store
    for id, config, events in (("one", ONE, one()), ("other", OTHER, other())):
        created = TrainingCreated(name=f"the {id}", config=config, template_id="t")
        store.append(Append(f"control-{id}", [created], actor="user:ada")).result()
        store.append(Append(f"training-{id}", events, occurred_at=[1_000_000 * n for n, _ in enumerate(events, 1)]))
    saved = TemplateSaved(name="mine", description="", config=ONE)
    store.append(Append("template-t", [saved], actor="user:ada"))
    store.append(Append("template-t", [TemplateRenamed(name="ours")], actor="user:bob")).result()


def facts(title: str, rows: list[tuple[Any, ...]]) -> Any:
    """What is known about the answer of a question, made comparable."""
    first = title.split(",")[0]
    match first:
        case "How far is every training":
            return [row[:4] for row in rows]
        case "Who changed a template":
            return [row[1:4] for row in rows]
        case "Which errors and warnings were there":
            return [row[:4] for row in rows]
        case "What does the log hold":
            return {row[0]: row[1] for row in rows}["StepTrained"]
        case "How long did each attempt last until it ended or the next one began?":
            return [(row[0], row[2].total_seconds(), row[3]) for row in rows]
        case "How long did trainings wait for a device?":
            return sorted(row[0] for row in rows)
        case _:
            return [tuple(round(value, 6) if isinstance(value, float) else value for value in row) for row in rows]


EXPECTED: dict[str, Any] = {
    "How far is every training, and how good?": [
        ("the other", "completed", 10, 10),
        ("the one", "completed", 1_200, 1_200),
    ],
    "How do dead latents grow, by learning rate?": [
        (0.001, 0, round((200 * 0.1 + 799 * 0.5) / 999, 6)),
        (0.001, 1_000, 0.5),
        (0.002, 0, 0.0),
    ],
    "How many steps were lost to interruptions?": [("one", 50)],
    "How fast is each device?": [("box", "A100", 1_200, 10.0), ("box", "T4", 10, 10.0)],
    "Who changed a template, when, and how?": [
        ("user:ada", "TemplateSaved", "ours"),
        ("user:bob", "TemplateRenamed", "ours"),
    ],
    "Which trainings would a rule 'dead latents above 30 % for 500 steps' have stopped, and at which step?": [
        ("one", 0, 700)
    ],
    "What did each architecture reach at about the same L0?": [("gated", 30.0, 0.1, 1), ("topk", 10.0, 0.000833, 1)],
    "Which training has the best evaluation, of which checkpoint?": [("one", 1_100, 0.25, 0.9)],
    "Where is the gradient not a number?": [("other", 0, 9, 2)],
    "How much disk do checkpoints take, by training?": [("one", "the one", 1, 2.0)],
    "Which errors and warnings were there, and how often?": [("WARNING", "core", "slow", 2)],
    "How long did trainings wait for a device?": ["the one", "the other"],
    "How many tokens were trained on each day?": None,
    "Which fields differ between two trainings?": [
        ("architecture_type", '"topk"', '"gated"'),
        ("latent_dim", "100", "200"),
        ("learning_rate", "0.001", "0.002"),
        ("total_steps", "1200", "10"),
    ],
    "How long did each attempt last until it ended or the next one began?": [
        ("training-one", 1_156.0, "TrainingStarted"),
        ("training-one", 101.0, "TrainingCompleted"),
        ("training-other", 11.0, "TrainingCompleted"),
    ],
    "What does the log hold, by type?": 1_260,
}


async def test_every_question_gives_what_the_history_says(client: Client) -> None:
    assert len(QUESTIONS) == 20
    await fill(client)
    values = {"training": "one", "one": "one", "other": "other"}
    async with running(of(client)) as replica:
        assert await asyncio.to_thread(replica.wait, client.server.studio.store.head, 20)
        answers: dict[str, Any] = {}
        for title, statement in QUESTIONS.items():
            named = {name: value for name, value in values.items() if f"${name}" in statement}
            with replica.snapshot() as (con, _):
                answers[title] = con.sql(statement, params=named or None).fetchall()
    for title, expected in EXPECTED.items():
        if expected is not None:
            assert (
                sorted(facts(title, answers[title])) == sorted(expected)
                if isinstance(expected, list)
                else (facts(title, answers[title]) == expected)
            ), title
    reached = {row[:3] for row in answers["When did each training first come within 10 % of its target L0?"]}
    assert reached == {("the one", 0, 90)}
    jumps = answers["Where did the loss jump?"]
    assert jumps[0][:3] == ("one", 0, 1_150)
    drawn = answers["What does a training look like in a hundred points?"]
    assert len(drawn) == 100
    assert max(row[3] for row in drawn[1:]) == 9.0
    tokens = answers["How many tokens were trained on each day?"]
    assert sum(row[1] for row in tokens) == 1_200 * 64 + 10 * 64
    correlation = answers["Does a higher L0 mean a lower FVU here?"]
    assert {row[0] for row in correlation} == {"one", "other"}


def test_the_page_about_sql_is_what_the_catalogue_says() -> None:
    written = Path(__file__).parents[2] / "projections" / "sql.md"
    assert written.read_text("utf-8") == page(), "run: saestudio sql --schema > projections/sql.md"
