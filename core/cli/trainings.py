"""Commands on trainings that a server knows: `ls`, `show`, `pause`, `resume`, `stop`, `checkpoint`, `wait`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Set
from typing import Any

import msgspec

from core.api import Api
from events.status import TrainingState, evolve

from . import output
from .client import connected, find_server, follow, streams_of
from .failure import Failure

TIMED_OUT = 124

FINAL = frozenset({"completed", "failed", "stopped", "interrupted"})
"""Statuses that a training does not leave by itself, and that nobody enters in order to leave them again."""

_DONE = {"pause": "is pausing", "resume": "is resuming", "stop": "is stopping", "checkpoint": "saves a checkpoint"}


def ls(options: argparse.Namespace) -> int:
    """List trainings, newest first."""
    with connected(options) as api:
        answer = api.get("trainings", status=",".join(options.status) if options.status else None, limit=options.limit)
    if options.json:
        output.print_json(answer)
        return 0
    rows = answer["data"]
    if not rows:
        wanted = f" {' or '.join(options.status)}" if options.status else ""
        output.err().print(f"There is no{wanted} training." if wanted else "There is no training yet.")
        return 0
    output.print_table(
        ("ID", "STATUS", "NAME", "STEP", "LOSS", "L0", "FVU", "DEAD", "CREATED"),
        [
            (
                row["id"],
                output.status(row["status"]),
                row["name"],
                _steps(row),
                output.number(row.get("loss")),
                output.number(row.get("l0")),
                output.number(row.get("fvu")),
                output.number(row.get("dead_latents")),
                output.moment(row.get("created_at")),
            )
            for row in rows
        ],
    )
    return 0


def show(options: argparse.Namespace) -> int:
    """Show one training: how it goes and what it was configured to do."""
    with connected(options) as api:
        row = api.training(api.training_id(options.id))
    if options.json:
        output.print_json(row)
        return 0
    config: dict[str, Any] = row.get("config") or {}
    facts: list[tuple[str, Any]] = [
        ("id", row["id"]),
        ("name", row["name"]),
        ("status", output.status(row["status"])),
        ("reason", row.get("reason")),
        ("step", _steps(row)),
        ("loss", _figure(row.get("loss"))),
        ("L0", _figure(row.get("l0"))),
        ("FVU", _figure(row.get("fvu"))),
        ("dead latents", _figure(row.get("dead_latents"))),
        ("tokens", _figure(row.get("tokens"))),
        ("tokens/s", _figure(row.get("tokens_per_second"))),
        ("process", f"{row['pid']} on {row['host']}" if row.get("pid") else None),
        ("device", row.get("device_name") or row.get("device")),
        ("created", output.moment(row.get("created_at"))),
        ("started", output.moment(row["started_at"]) if row.get("started_at") else None),
        ("ended", output.moment(row["ended_at"]) if row.get("ended_at") else None),
        ("by", row.get("actor")),
        ("tags", ", ".join(row.get("tags") or ())),
        ("note", row.get("note")),
    ]
    output.print_facts(facts)
    output.out().print()
    output.print_facts([(name, value) for name, value in config.items() if value is not None])
    return 0


def pause(options: argparse.Namespace) -> int:
    """Ask a training to save a checkpoint and end."""
    return _control(options, "pause")


def stop(options: argparse.Namespace) -> int:
    """Ask a training to save a checkpoint and end for good."""
    return _control(options, "stop")


def checkpoint(options: argparse.Namespace) -> int:
    """Ask a running training for a checkpoint."""
    return _control(options, "checkpoint")


def resume(options: argparse.Namespace) -> int:
    """Go on with a training: through the server, or in this terminal where there is none."""
    if find_server(options) is None:
        from .train import resume_here

        return resume_here(options)
    return _control(options, "resume")


def _control(options: argparse.Namespace, action: str) -> int:
    with connected(options) as api:
        training_id = api.training_id(options.id)
        answer = api.control(training_id, action)
    if options.json:
        output.print_json({"id": training_id, **answer})
    else:
        output.out().print(f"Training {training_id} {_DONE[action]}.")
    return 0


def wait(options: argparse.Namespace) -> int:
    """Wait for a status; 0 when it is reached, 1 when it no longer can be, 124 when time is up."""
    wanted = set(options.until)
    with connected(options) as api:
        training_id = api.training_id(options.id)
        state = _follow_until(api, training_id, wanted, options.timeout)
    reached = state.status in wanted
    if options.json:
        output.print_json({"id": training_id, "status": state.status, "reason": state.reason, "reached": reached})
    elif reached:
        output.out().print(f"Training {training_id} is {state.status}.")
    if reached:
        return 0
    hoped = " or ".join(options.until)
    if state.status in FINAL:
        because = f": {state.reason}" if state.reason else "."
        raise Failure(f"Training {training_id} is {state.status}, not {hoped}{because}")
    raise Failure(
        f"Training {training_id} is still {state.status}, not {hoped}, after {options.timeout:g} seconds.",
        status=TIMED_OUT,
    )


def _follow_until(api: Api, training_id: str, wanted: Set[str], seconds: float | None) -> TrainingState:
    """The training's state when it first has a wanted or a final status, or when time is up."""
    row = api.training(training_id)
    state = msgspec.convert({name: row[name] for name in TrainingState.__struct_fields__}, TrainingState)
    statuses = wanted | FINAL
    if state.status in statuses:
        return state
    output.err().print(f"Training {training_id} is {state.status}; waiting until it is {' or '.join(sorted(wanted))}.")
    for recorded in follow(api, *streams_of(training_id), after=row["position"], seconds=seconds):
        state = evolve(state, recorded.data)
        if state.status in statuses:
            break
    return state


def _steps(row: Mapping[str, Any]) -> str:
    total = row.get("total_steps")
    return f"{row.get('step') or 0:,}" + (f" / {total:,}" if total else "")


def _figure(value: float | None) -> str | None:
    return None if value is None else output.number(value)
