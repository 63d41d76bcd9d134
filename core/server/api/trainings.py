"""Trainings: create, check, list, look at, control, edit, delete."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from core import run as runs
from core.commands import CheckTraining, ControlTraining, CreateTraining, EditTraining
from core.decide import Refused, decide
from core.fields import Problem
from core.naming import template_name
from events.control import (
    TrainingCreated,
    TrainingDeleted,
    TrainingNoted,
    TrainingRenamed,
    TrainingTagged,
)
from events.event import Event, now_us
from events.ids import new_id
from events.streams import CONTROL, NO_STREAM, Append
from projections import filters, templates, trainings
from projections.trainings import TrainingRow

from .. import problems
from ..examination import CATALOG, examine
from ..files import remove_checkpoints
from ..idempotency import metadata, seen
from . import answers
from .operation import Call


class TrainingsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which trainings, and in which order."""

    status: Annotated[str | None, Meta(description="Only these, with commas between.")] = None
    q: Annotated[
        str | None, Meta(description="Every word is looked for in id, name, model, data sets, tags and note.")
    ] = None
    where: Annotated[
        str | None,
        Meta(
            description="Conditions on the configuration with semicolons between: k>=32; model~gpt2. Signs: = != < <= >"
            " >= and ~ (contains); of a list, = asks whether it holds a value; none stands for what is not set."
        ),
    ] = None
    tag: Annotated[
        tuple[str, ...],
        Meta(description="Trainings that have this tag, as it stands; given several times, those that have them all."),
    ] = ()
    tags: Annotated[str | None, Meta(description="The same, with commas between: for tags that hold none.")] = None
    group: Annotated[
        str | None, Meta(description="status, tag (the first one) or a field: what is the same in it stands together.")
    ] = None
    sort: Annotated[
        str, Meta(description="created, updated, name, status, step, loss, …; with - before it for descending.")
    ] = "-created"
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 50
    offset: Annotated[int, Meta(ge=0)] = 0


async def create_training(call: Call) -> answers.Created:
    """Create a training and start it as soon as a slot is free.

    A model or data set that the catalogue does not hold is looked at first, which takes some seconds. With an
    Idempotency-Key header a repeated request is answered as the first one and creates nothing.
    """
    studio, command = call.studio, call.body(CreateTraining)
    if (earlier := await seen(call)) is not None:
        return answers.Created(id=earlier.stream.removeprefix(CONTROL), position=earlier.position)
    found = await examine(studio, command.config)
    errors = [Problem(f"config.{one.field}", one.message) for one in found.problems]
    errors += await _reference_problems(call, command)
    if errors or found.config is None or (found.model is None and found.stored is None):
        raise problems.invalid(errors)
    training_id = new_id()
    async with studio.deciding:
        if (earlier := await seen(call)) is not None:
            return answers.Created(id=earlier.stream.removeprefix(CONTROL), position=earlier.position)
        name = command.name or await _suggested_name(call, msgspec.to_builtins(found.config))
        created = TrainingCreated(
            name=name, config=found.config, template_id=command.template_id, retry_of=command.retry_of
        )
        spec = runs.RunSpec(
            id=training_id,
            name=name,
            config=found.config,
            model=found.model,
            datasets=found.datasets,
            stored=found.stored,
            data_dir=studio.settings.data_dir,
            created_at=now_us(),
            created=created,
        )
        # The folder comes first: a training in the log can always be started.
        await asyncio.to_thread(runs.write, studio.settings.run_folder(training_id), spec)
        appended = await studio.append(
            *([Append(CATALOG, found.new, actor=call.actor)] if found.new else []),
            Append(
                CONTROL + training_id,
                [created],
                expected=NO_STREAM,
                occurred_at=[spec.created_at],
                actor=call.actor,
                metadata=metadata(call),
            ),
        )
    studio.launcher.wake()
    return answers.Created(id=training_id, position=appended[-1].position)


async def check_training(call: Call) -> answers.Checked:
    """Say everything that is wrong with a configuration, what it would need, and what it means with all defaults.

    Nothing is created or registered. An unknown model or data set is looked at, which takes some seconds the first
    time.
    """
    found = await examine(call.studio, call.body(CheckTraining).config)
    return answers.Checked(
        problems=found.problems, warnings=found.warnings, estimate=found.estimate, config=found.config
    )


async def list_trainings(call: Call) -> answers.Trainings:
    """List trainings.

    `counts` says how many there are of each status in all that `q`, `where`, `tag` and `tags` find; `tags`, how many of
    all trainings have which tag.
    """
    query = call.query(TrainingsQuery)

    def read(con: Any) -> tuple[list[TrainingRow], dict[str, int], dict[str, int]]:
        rows, counts = trainings.list_(
            con,
            status=query.status,
            q=query.q,
            conditions=query.where,
            tags=(*query.tag, *filters.tags(query.tags)),
            group=query.group,
            sort=query.sort,
            limit=query.limit,
            offset=query.offset,
        )
        return rows, counts, trainings.tags_in_use(con)

    (rows, counts, tags), position = await call.studio.snapshot(read)
    return answers.Trainings(data=await _explained(call, rows), counts=counts, tags=tags, position=position)


async def get_training(call: Call) -> answers.Training:
    """Look at one training."""
    row, position = await call.studio.training(call.path["id"])
    (row,) = await _explained(call, [row])
    return answers.Training(**msgspec.structs.asdict(row), position=position)


async def edit_training(call: Call) -> answers.Training:
    """Change a training's name, tags or note."""
    studio, command = call.studio, call.body(EditTraining)
    async with studio.deciding:
        row, _ = await studio.training(call.path["id"])
        events: list[Event] = []
        if command.name is not None and command.name != row.name:
            events.append(TrainingRenamed(name=command.name))
        if command.tags is not None and command.tags != row.tags:
            events.append(TrainingTagged(tags=tuple(dict.fromkeys(command.tags))))
        if command.note is not None and command.note != row.note:
            events.append(TrainingNoted(note=command.note))
        if events:
            await studio.record(row.id, events, actor=call.actor)
    return await get_training(call)


async def control_training(call: Call) -> answers.Accepted:
    """Ask for a pause, resume, stop or checkpoint.

    The answer says that the wish was recorded; what becomes of it is told by the training's events. An Idempotency-Key
    header makes repeating safe.
    """
    studio, command, training_id = call.studio, call.body(ControlTraining), call.path["id"]
    async with studio.deciding:
        if (earlier := await seen(call)) is not None:
            return answers.Accepted(position=earlier.position)
        events = decide(await studio.state(training_id), command.action)
        if command.action == "resume" and not studio.launcher.has_run(training_id):
            raise Refused("This training's files are not on this machine; resume it where it ran.")
        position = await studio.record(training_id, events, actor=call.actor, metadata=metadata(call))
    studio.launcher.wake()
    return answers.Accepted(position=position)


async def delete_training(call: Call) -> answers.DeletedTraining:
    """Hide a training that is not running and remove its checkpoints. Its events stay."""
    studio, training_id = call.studio, call.path["id"]
    async with studio.deciding:
        decide(await studio.state(training_id), "delete")
        removed, freed = await asyncio.to_thread(remove_checkpoints, studio.settings.run_folder(training_id))
        deleted = TrainingDeleted(removed=removed, bytes_freed=freed)
        position = await studio.record(training_id, [deleted], actor=call.actor)
    return answers.DeletedTraining(removed=removed, bytes_freed=freed, position=position)


async def _reference_problems(call: Call, command: CreateTraining) -> list[Problem]:
    found: list[Problem] = []
    if command.retry_of is not None:
        wanted = command.retry_of
        if await call.studio.query(lambda con: trainings.get(con, wanted)) is None:
            found.append(Problem("retry_of", f"retry_of names {wanted!r}, and there is no such training."))
    if command.template_id is not None:
        template = command.template_id
        if await call.studio.query(lambda con: templates.get(con, template)) is None:
            found.append(Problem("template_id", f"template_id names {template!r}, and there is no such template."))
    return found


async def _suggested_name(call: Call, config: dict[str, object]) -> str:
    rows, _ = await call.studio.query(lambda con: trainings.list_(con, limit=1_000_000))
    return template_name(config, {row.name for row in rows})


async def _explained(call: Call, rows: list[TrainingRow]) -> list[TrainingRow]:
    """The rows, those that wait for a slot with what they wait for as `reason`."""
    if not any(row.status in ("queued", "resuming") and not row.launched for row in rows):
        return rows
    launcher = call.studio.launcher
    holders, waiting = await launcher.occupying(), [row.id for row in await launcher.waiting()]
    taken = f"{len(holders)} of {launcher.slots} slots {'is' if len(holders) == 1 else 'are'} taken" + (
        f", by {', '.join(row.name for row in holders[:3])}{'…' if len(holders) > 3 else ''}" if holders else ""
    )
    explained: list[TrainingRow] = []
    for row in rows:
        if row.id in waiting:
            before = waiting.index(row.id)
            queue = f"; {before} before it in the queue" if before else ""
            row = msgspec.structs.replace(row, reason=f"Waits for a slot: {taken}{queue}.")
        explained.append(row)
    return explained
