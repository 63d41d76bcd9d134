"""Models and data sets: list, inspect, register, remove and bring back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import msgspec
from duckdb import DuckDBPyConnection

from core.catalogue import BUILTIN_DATASETS, BUILTIN_MODELS, InspectionFailed
from core.commands import RegisterDataset, RegisterModel, RemoveFromCatalogue, RestoreToCatalogue
from core.config_rules import find_dataset, find_model
from core.decide import Refused
from core.fields import Problem
from events.catalog import DatasetRegistered, DatasetRemoved, ModelRegistered, ModelRemoved
from events.streams import Append
from projections import catalog

from .. import problems
from ..examination import CATALOG
from . import answers
from .operation import Call

_NOUNS = {"model": "model", "dataset": "data set"}

_SHIPPED = {
    "model": frozenset(one.model_id for one in BUILTIN_MODELS),
    "dataset": frozenset(one.dataset_id for one in BUILTIN_DATASETS),
}
"""Ids that every start of a server registers."""

_EVENTS_AT_ONCE = 1_000


async def list_models(call: Call) -> answers.Models:
    """The registered models."""
    rows, position = await call.studio.snapshot(catalog.models)
    return answers.Models(data=rows, position=position)


async def list_datasets(call: Call) -> answers.Datasets:
    """The registered data sets."""
    rows, position = await call.studio.snapshot(catalog.datasets)
    return answers.Datasets(data=rows, position=position)


async def list_catalogue_uses(call: Call) -> answers.CatalogueUse:
    """What models and data sets are used by: trainings that are not deleted, and templates."""

    def read(con: DuckDBPyConnection) -> tuple[dict[str, answers.Use], dict[str, answers.Use]]:
        models, datasets = catalog.models(con), catalog.datasets(con)

        def model(name: str) -> str | None:
            found = find_model(name, models)
            return found and found.model_id

        def dataset(name: str) -> str | None:
            found = find_dataset(name, datasets)
            return found and found.dataset_id

        return (
            _uses("model", catalog.model_uses(con, model)),
            _uses("dataset", catalog.dataset_uses(con, dataset)),
        )

    (models, datasets), position = await call.studio.snapshot(read)
    return answers.CatalogueUse(models=models, datasets=datasets, position=position)


async def list_inspections(call: Call) -> answers.Inspectings:
    """The inspections of models and data sets that go on now, the oldest first."""
    return answers.Inspectings(
        data=[
            answers.Inspecting(kind=one.kind, source=one.source, seconds=one.seconds, doing=one.doing)
            for one in call.studio.inspections.going_on()
        ]
    )


def _uses(kind: str, found: Iterable[catalog.Use]) -> dict[str, answers.Use]:
    return {
        one.id: answers.Use(
            registered_at=one.registered_at,
            registered_by=one.actor,
            removable=one.id not in _SHIPPED[kind],
            trainings=one.trainings,
            templates=one.templates,
        )
        for one in found
    }


async def inspect_model(call: Call) -> answers.InspectedModel:
    """Find out what a model is, from its configuration; registers nothing."""
    command = call.body(RegisterModel)
    try:
        found = await call.studio.inspections.model(command)
    except InspectionFailed as error:
        raise problems.invalid([Problem("source", str(error))]) from error
    return answers.InspectedModel(model=msgspec.structs.replace(found, title=command.title or found.title))


async def inspect_dataset(call: Call) -> answers.InspectedDataset:
    """Find out what a data set is, from its beginning; registers nothing."""
    command = call.body(RegisterDataset)
    try:
        found = await call.studio.inspections.dataset(command)
    except InspectionFailed as error:
        raise problems.invalid([Problem("source", str(error))]) from error
    return answers.InspectedDataset(dataset=msgspec.structs.replace(found, title=command.title or found.title))


async def register_model(call: Call) -> answers.Created:
    """Inspect a model and take it into the catalogue; one that has the id already is replaced."""
    found = (await inspect_model(call)).model
    (appended,) = await call.studio.append(Append(CATALOG, [found], actor=call.actor))
    return answers.Created(id=found.model_id, position=appended.position)


async def register_dataset(call: Call) -> answers.Created:
    """Inspect a data set and take it into the catalogue; one that has the id already is replaced."""
    found = (await inspect_dataset(call)).dataset
    (appended,) = await call.studio.append(Append(CATALOG, [found], actor=call.actor))
    return answers.Created(id=found.dataset_id, position=appended.position)


async def remove_from_catalogue(call: Call) -> answers.Accepted:
    """Take a model or data set out of the catalogue. It can be brought back.

    Trainings keep what they were started with, also those that are queued, at work or still to be resumed. What ships
    with SAE Studio stays.
    """
    command = call.body(RemoveFromCatalogue)
    async with call.studio.deciding:
        if command.id not in await _registered(call, command.kind):
            raise problems.not_found(f"registered {_NOUNS[command.kind]}", command.id)
        if command.id in _SHIPPED[command.kind]:
            raise Refused(
                f"{command.id} ships with SAE Studio, which registers it at every start: it cannot be removed."
            )
        removed = (
            ModelRemoved(model_id=command.id) if command.kind == "model" else DatasetRemoved(dataset_id=command.id)
        )
        (appended,) = await call.studio.append(Append(CATALOG, [removed], actor=call.actor))
    return answers.Accepted(position=appended.position)


async def restore_to_catalogue(call: Call) -> answers.Accepted:
    """Bring a removed model or data set back as it was registered last, without looking at it again."""
    command = call.body(RestoreToCatalogue)
    async with call.studio.deciding:
        if command.id in await _registered(call, command.kind):
            raise Refused(f"{command.id} is in the catalogue already.")
        known = (await asyncio.to_thread(_ever_registered, call, command.kind)).get(command.id)
        if known is None:
            raise problems.not_found(f"removed {_NOUNS[command.kind]}", command.id)
        (appended,) = await call.studio.append(Append(CATALOG, [known], actor=call.actor))
    return answers.Accepted(position=appended.position)


async def _registered(call: Call, kind: str) -> set[str]:
    """The ids that the catalogue holds."""
    if kind == "model":
        return {one.model_id for one in await call.studio.query(catalog.models)}
    return {one.dataset_id for one in await call.studio.query(catalog.datasets)}


def _ever_registered(call: Call, kind: str) -> Mapping[str, ModelRegistered | DatasetRegistered]:
    """The newest registration of every model or data set there ever was, by id."""
    found: dict[str, ModelRegistered | DatasetRegistered] = {}
    version = 0
    while page := call.studio.store.read_stream(CATALOG, version, _EVENTS_AT_ONCE):
        version = page[-1].version
        for recorded in page:
            match recorded.data:
                case ModelRegistered(model_id=id) if kind == "model":
                    found[id] = recorded.data
                case DatasetRegistered(dataset_id=id) if kind == "dataset":
                    found[id] = recorded.data
                case _:
                    pass
    return found
