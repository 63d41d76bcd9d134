"""`saestudio train`: a training in this terminal, with a server or without one."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from core import run as runs
from core.activations.sources import StoredActivations
from core.api import Api, ServerUnreachable
from core.catalogue import (
    BUILTIN_DATASETS,
    BUILTIN_MODELS,
    InspectionFailed,
    inspect_activations,
    inspect_model,
    resolve_dataset,
    resolve_model,
)
from core.config_rules import Checked, check, find_dataset, find_model
from core.naming import template_name
from core.settings import Settings
from events.catalog import DatasetRegistered, ModelRegistered
from events.client import ServerAddress
from events.control import TrainingCreated
from events.errors import SpoolLocked
from events.event import now_us
from events.ids import new_id
from events.spool import hold

from . import headless, output
from .client import command, data_dir, failures, find_server, prepared, run_folder
from .failure import Failure

T = TypeVar("T")

INVALID = 2
INTERRUPTED = 130

DEMO = {
    "model": "demo",
    "datasets": ["stdlib"],
    "architecture_type": "topk",
    "training_layers": [1, 2],
    "k": 16,
    "batch_size": 2_048,
    "total_steps": 580,
    "checkpoint_interval": 100,
}
"""A training of two or three minutes on two cores: 1.19 million tokens."""


def train(options: argparse.Namespace) -> int:
    """Make a training and run it to its end."""
    raw, name, problems = _configuration(options)
    address = find_server(options)
    models, datasets = _catalogue(address)
    checked, known = _checked(raw, models, datasets, quiet=options.json)
    problems += [problem.message for problem in checked.problems]
    config = checked.config
    if problems or config is None:
        raise Failure(
            f"The configuration has {'a problem' if len(problems) == 1 else f'{len(problems)} problems'}:",
            status=INVALID,
            problems=problems,
        )
    for warning in checked.warnings:
        output.err().print(f"[yellow]Warning:[/] {output.escape(warning.message)}")
    chosen = tuple(found for one in config.datasets if (found := find_dataset(one, known.datasets)) is not None)
    settings = prepared(Settings(data_dir=data_dir(options)))
    name = name or template_name(raw)
    created = TrainingCreated(name=name, config=config, launcher="external")
    spec = runs.RunSpec(
        id=new_id(),
        name=name,
        config=config,
        model=None if config.activations else find_model(config.model, known.models),
        datasets=chosen,
        stored=known.stored,
        data_dir=settings.data_dir,
        created_at=now_us(),
        created=created,
    )
    runs.write(settings.run_folder(spec.id), spec)
    return _run(spec, settings, address, options, resume=False)


def resume_here(options: argparse.Namespace) -> int:
    """Go on with a training whose run folder lies here, without a server."""
    settings = Settings(data_dir=data_dir(options))
    folder = run_folder(settings, options.id)
    try:
        spec = runs.read(folder)
        # Asked before anything is said; the trainer takes the lock for itself.
        hold(folder).release()
    except runs.RunSpecError as error:
        raise Failure(str(error)) from error
    except SpoolLocked as error:
        raise Failure(f"Training {folder.name} is being trained already. {error}") from error
    total = spec.config.total_steps
    if (folder / runs.CHECKPOINTS / f"step-{total:08d}").is_dir():
        raise Failure(f"Training {folder.name} has trained all its {total:,} steps; there is nothing to resume.")
    return _run(spec, settings, None, options, resume=True)


def _run(
    spec: runs.RunSpec, settings: Settings, address: ServerAddress | None, options: argparse.Namespace, *, resume: bool
) -> int:
    """Run the trainer and say what came of it."""
    folder = settings.run_folder(spec.id)
    environment: dict[str, str] = {}
    # A server that the data directory names is looked up by the trainer itself: the next one may have another token.
    if address is not None and options.server is not None:
        environment["SAESTUDIO_SERVER"] = address.url
    if address is not None and address.token is not None and (options.server or options.token_file):
        environment["SAESTUDIO_TOKEN"] = address.token
    if address is None and not options.json:
        remark = f"No server runs on {settings.data_dir}; the next one takes this training in, also while it runs."
        output.err().print(remark, markup=False)
    title = f"{'Resuming' if resume else 'Training'} {spec.name} ({spec.id})"
    ended = headless.run(folder, title, resume=resume, environment=environment, quiet=options.json)
    outcome, status = _outcome(ended)
    last = ended.last
    if options.json:
        facts = {"id": spec.id, "name": spec.name, "status": outcome, "seconds": round(ended.seconds, 1)}
        shown = ("step", "total_steps", "loss", "l0", "fvu", "error")
        output.print_json(facts | {field: getattr(last, field) for field in shown} | {"folder": str(folder)})
        return status
    if outcome == "completed":
        took = output.duration(ended.seconds)
        output.out().print(f"Training {spec.id} completed {last.step:,} steps in {took}: {headless.summary(last)}.")
        return status
    go_on = command(f"resume {spec.id}", settings.data_dir)
    if outcome in ("paused", "stopped"):
        where = f" after step {last.step:,}, with a checkpoint" if last.step else " before its first step"
        output.out().print(f"Training {spec.id} {outcome}{where}. Go on with {go_on}.")
        return status
    if ended.code == headless.LOCK_HELD:
        raise Failure(f"Training {spec.id} is being trained by another process already.")
    because = f": {last.error}" if last.error else f"; its last words are in {folder / runs.STDERR}."
    raise Failure(f"Training {spec.id} {outcome}{because}\nGo on from its newest checkpoint with {go_on}.")


def _outcome(ended: headless.Ended) -> tuple[str, int]:
    """The status in which a trainer left its training, and the command's exit status for it."""
    outcome = ended.last.ended or ("failed" if ended.code > 0 else "interrupted")
    if outcome == "completed":
        return outcome, 0
    if ended.interrupts:
        return outcome, INTERRUPTED
    return outcome, 0 if outcome in ("paused", "stopped") else 1


def _configuration(options: argparse.Namespace) -> tuple[dict[str, Any], str | None, list[str]]:
    """The configuration's fields as the file and `--set` give them, the training's name if any, and what is wrong."""
    problems: list[str] = []
    if options.demo:
        raw: dict[str, Any] = {**DEMO}
    else:
        try:
            raw = tomllib.loads(options.config.read_text("utf-8"))
        except OSError as error:
            raise Failure(f"{options.config} cannot be read: {error.strerror}.", status=INVALID) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Failure(f"{options.config} is not TOML: {error}.", status=INVALID) from error
    for setting in options.settings:
        field, equals, text = setting.partition("=")
        if not equals or not field.strip():
            problems.append(f"--set takes KEY=VALUE, not {setting!r}.")
            continue
        raw[field.strip()] = _value(text.strip())
    given = raw.pop("name", "Demo" if options.demo else None)
    name = given if options.name is None else options.name
    if name is not None and not (isinstance(name, str) and 0 < len(name.strip()) <= 255):
        problems.append(f"name must be text of 1 to 255 characters, not {name!r}.")
    return raw, name, problems


def _value(text: str) -> Any:
    """A TOML value; text that is none stands for itself, so that `device=cpu` needs no quotes."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def _catalogue(address: ServerAddress | None) -> tuple[list[ModelRegistered], list[DatasetRegistered]]:
    """What the server has registered, where one answers, and what ships with the program."""
    models, datasets = list(BUILTIN_MODELS), list(BUILTIN_DATASETS)
    if address is None:
        return models, datasets
    with failures():
        try:
            with Api(address) as api:
                known_models, known_datasets = api.get("models")["data"], api.get("datasets")["data"]
        except ServerUnreachable as error:
            output.err().print(f"{error} Training all the same; what happens is kept until one does.", markup=False)
            return models, datasets
    # Registered again by somebody: theirs is meant.
    models = [_converted(row, ModelRegistered) for row in known_models] + models
    datasets = [_converted(row, DatasetRegistered) for row in known_datasets] + datasets
    return models, datasets


def _converted(row: dict[str, Any], kind: type[Any]) -> Any:
    return msgspec.convert({**row, "type": kind.__name__}, kind)


class _Known(NamedTuple):
    """What a configuration may name."""

    models: list[ModelRegistered]
    datasets: list[DatasetRegistered]
    stored: StoredActivations | None = None


def _checked(
    raw: dict[str, Any], models: list[ModelRegistered], datasets: list[DatasetRegistered], *, quiet: bool
) -> tuple[Checked, _Known]:
    """The check of a configuration once everything that it names has been looked at, and what is known by then."""
    checked = check(raw, models, datasets)
    if not checked.unregistered:
        return checked, _Known(models, datasets)
    failed, folder = [], None
    for reference in checked.unregistered:
        try:
            if reference.field == "activations":
                folder = _looked_at(reference.message, inspect_activations, quiet=quiet)
            elif reference.field == "model":
                models = [*models, _model(reference.message, models, quiet=quiet)]
            else:
                known = resolve_dataset(reference.message, datasets)
                datasets = [*datasets, msgspec.structs.replace(known, dataset_id=reference.message)]
        except InspectionFailed as error:
            failed.append(msgspec.structs.replace(reference, message=f"{reference.field}: {error}"))
    checked = check(raw, models, datasets, folders=[folder] if folder is not None else [])
    checked = msgspec.structs.replace(checked, problems=(*failed, *checked.problems))
    return checked, _Known(models, datasets, folder)


def _model(reference: str, models: list[ModelRegistered], *, quiet: bool) -> ModelRegistered:
    """What is known of a model, or what a look at it tells, under the name that the configuration gives it."""
    known = resolve_model(reference, models)
    if known is None:
        return _looked_at(reference, inspect_model, quiet=quiet)
    return msgspec.structs.replace(known, model_id=reference)


def _looked_at(reference: str, inspect: Callable[..., T], *, quiet: bool) -> T:
    """What a look at it tells, with a word on the terminal meanwhile. Raises `InspectionFailed`."""
    if quiet:
        return inspect(reference)
    with output.err().status(f"Looking at {output.escape(reference)}") as status:
        return inspect(reference, on_progress=lambda text: status.update(output.escape(text)))
