"""A configuration against the rules, the catalogue and, where that does not know enough, the disk or the hub."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from duckdb import DuckDBPyConnection

from core.activations.sources import StoredActivations
from core.catalogue import InspectionFailed
from core.commands import RegisterDataset, RegisterModel
from core.config_rules import Checked, Estimate, check, find_dataset, find_model, flops_per_token
from core.fields import Problem
from events.catalog import DatasetRegistered, ModelRegistered
from events.training import TrainingConfig
from projections import catalog, trainings

from .devices import names_to_check
from .studio import Studio

Found = ModelRegistered | DatasetRegistered | StoredActivations

CATALOG = "catalog"
"""The stream of models and data sets."""


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `model` and `datasets`, or `stored`, are those that the configuration names; `new` are those
    models and data sets that the catalogue does not hold yet."""

    config: TrainingConfig | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    estimate: Estimate | None
    model: ModelRegistered | None = None
    datasets: tuple[DatasetRegistered, ...] = ()
    stored: StoredActivations | None = None
    new: tuple[ModelRegistered | DatasetRegistered, ...] = ()


async def examine(studio: Studio, raw: Mapping[str, Any]) -> Examination:
    """Check a configuration; models and data sets that are not registered are inspected, which takes seconds."""
    (models, datasets), speed = await studio.query(lambda con: (_catalogue(con), _speed(con)))
    devices = names_to_check(studio.devices)

    def checked(more: Sequence[Found]) -> Checked:
        return check(
            raw,
            [*models, *(one for one in more if isinstance(one, ModelRegistered))],
            [*datasets, *(one for one in more if isinstance(one, DatasetRegistered))],
            folders=[one for one in more if isinstance(one, StoredActivations)],
            devices=devices,
            flops_per_second=speed,
        )

    outcome = await asyncio.to_thread(checked, ())
    failed: list[Problem] = []
    found: list[Found] = []
    if outcome.unregistered:
        inspected = await asyncio.gather(
            *(_inspect(studio, one) for one in outcome.unregistered), return_exceptions=True
        )
        for wanted, result in zip(outcome.unregistered, inspected, strict=True):
            if isinstance(result, InspectionFailed):
                failed.append(Problem(wanted.field, str(result)))
            elif isinstance(result, BaseException):
                raise result
            else:
                found.append(result)
        outcome = await asyncio.to_thread(checked, found)
    config = None if failed else outcome.config
    return Examination(
        config=config,
        problems=(*outcome.problems, *failed),
        warnings=outcome.warnings,
        estimate=outcome.estimate,
        model=_named_model(config, models, found),
        datasets=_named_datasets(config, datasets, found),
        stored=next((one for one in found if isinstance(one, StoredActivations)), None),
        new=tuple(one for one in found if not isinstance(one, StoredActivations)),
    )


async def _inspect(studio: Studio, wanted: Problem) -> Found:
    if wanted.field == "activations":
        return await studio.inspections.activations(wanted.message)
    if wanted.field == "model":
        return await studio.inspections.model(RegisterModel(source=wanted.message))
    return await studio.inspections.dataset(RegisterDataset(source=wanted.message))


def _catalogue(con: DuckDBPyConnection) -> tuple[list[ModelRegistered], list[DatasetRegistered]]:
    return catalog.models(con), catalog.datasets(con)


def _named_model(
    config: TrainingConfig | None, models: Sequence[ModelRegistered], new: Sequence[object]
) -> ModelRegistered | None:
    if config is None or config.activations:
        return None
    return find_model(config.model, [*models, *(one for one in new if isinstance(one, ModelRegistered))])


def _named_datasets(
    config: TrainingConfig | None, datasets: Sequence[DatasetRegistered], new: Sequence[object]
) -> tuple[DatasetRegistered, ...]:
    if config is None:
        return ()
    known = [*datasets, *(one for one in new if isinstance(one, DatasetRegistered))]
    found = (find_dataset(one, known) for one in config.datasets)
    return tuple(one for one in found if one is not None)


def _speed(con: DuckDBPyConnection) -> float | None:
    """Floating-point operations a second that the newest training with a speed reached; None where there is none."""
    models = {model.model_id: model for model in catalog.models(con)}
    rows, _ = trainings.list_(con, sort="-updated", limit=20)
    for row in rows:
        if row.tokens_per_second and row.config is not None and (model := models.get(row.config.model)) is not None:
            return row.tokens_per_second * flops_per_token(row.config, model)
    return None
