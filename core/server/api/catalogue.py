"""Models and data sets: list, inspect, register."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from duckdb import DuckDBPyConnection

from core.catalogue import InspectionFailed
from core.commands import RegisterDataset, RegisterModel
from core.config_rules import find_dataset, find_model
from core.fields import Problem
from events.streams import Append
from projections import catalog

from .. import problems
from ..examination import CATALOG
from . import answers
from .operation import Call


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

        return _uses(catalog.model_uses(con, model)), _uses(catalog.dataset_uses(con, dataset))

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


def _uses(found: Iterable[catalog.Use]) -> dict[str, answers.Use]:
    return {
        one.id: answers.Use(
            registered_at=one.registered_at,
            registered_by=one.actor,
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
