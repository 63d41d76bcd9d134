"""The dashboard's HTTP client: what the API answers as structs, what it refuses as sentences."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from events.catalog import DatasetRegistered, ModelRegistered
from events.wire import ACTOR_HEADER

from .answers import (
    Accepted,
    ActivityPage,
    AllActivityPage,
    CatalogueUse,
    Check,
    CheckpointPage,
    Created,
    Deleted,
    Device,
    EvaluationPage,
    FieldProblem,
    History,
    Imported,
    ImportEntry,
    Inspecting,
    LogPage,
    MetricRow,
    SqlAnswer,
    SqlSchema,
    Suggestion,
    Template,
    TemplatePage,
    TemplateVersion,
    Training,
    TrainingPage,
)

_Answer = TypeVar("_Answer")

PREFIX = "/api/v1"

_INSPECTION = 150.0
"""Seconds for answers that may wait for a child process to look at a model or data set."""


_QUESTION = 120.0
"""Seconds for an answer in SQL, which the server ends by itself before."""


class ApiError(Exception):
    """Base of what a request can end with; `str()` is a sentence that can be shown."""


class ApiAway(ApiError):
    """Nobody answers at the API's address."""


class ApiRefused(ApiError):
    """The API answered with a problem; `status` is its HTTP status, `fields` what it says of single fields."""

    def __init__(self, sentence: str, status: int, fields: Sequence[FieldProblem] = ()) -> None:
        self.status = status
        self.fields = tuple(fields)
        super().__init__(sentence)


# Step, SAE and timestamp are in every answer.
_CHARTED = [name for name in MetricRow.__struct_fields__ if name not in ("step", "sae", "timestamp")]


class _TemplateHistory(msgspec.Struct, frozen=True, kw_only=True):
    data: tuple[TemplateVersion, ...]


class _ImportPreview(msgspec.Struct, frozen=True, kw_only=True):
    data: tuple[ImportEntry, ...]


class _Models(msgspec.Struct, frozen=True, kw_only=True):
    data: tuple[ModelRegistered, ...]


class _Datasets(msgspec.Struct, frozen=True, kw_only=True):
    data: tuple[DatasetRegistered, ...]


class _Devices(msgspec.Struct, frozen=True, kw_only=True):
    data: tuple[Device, ...]


class _InspectedModel(msgspec.Struct, frozen=True, kw_only=True):
    model: ModelRegistered


class _InspectedDataset(msgspec.Struct, frozen=True, kw_only=True):
    dataset: DatasetRegistered


class _Inspectings(msgspec.Struct, frozen=True, kw_only=True):
    data: tuple[Inspecting, ...]


class _Problem(msgspec.Struct, frozen=True, kw_only=True):
    title: str = ""
    detail: str = ""
    errors: tuple[FieldProblem, ...] = ()


class _TrainingAnswer(Training, frozen=True, kw_only=True):
    position: int = 0


class Gateway:
    """One process's client of the API at `url`, which it shows `token`.

    Every method raises `ApiAway` where nobody answers and `ApiRefused` where the API answers with a problem.
    """

    def __init__(
        self, url: str, token: str | None = None, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self.token = token
        self._acting: dict[str, str] = {}
        headers = {"Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.AsyncClient(
            base_url=self.url + PREFIX + "/",
            headers=headers,
            timeout=httpx.Timeout(30.0, connect=5.0),
            transport=transport,
            # A proxy from the environment has no business between two processes of one machine.
            trust_env=False,
        )

    def acting_for(self, assertion: str) -> Gateway:
        """The same client, for a person for whom the server vouches with `assertion` (empty: for itself)."""
        gateway = copy.copy(self)
        gateway._acting = {ACTOR_HEADER: assertion} if assertion else {}
        return gateway

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def trainings(
        self,
        *,
        statuses: Sequence[str] = (),
        q: str = "",
        where: Sequence[str] = (),
        tags: Sequence[str] = (),
        group: str = "",
        sort: str = "",
        limit: int = 50,
    ) -> TrainingPage:
        """Trainings in one of `statuses` (all where empty) that match `q`, have all `tags` and meet all of `where`.

        Newest first, or as `sort` and `group` say.
        """
        asked = {
            "status": ",".join(statuses),
            "q": q,
            "where": ";".join(where),
            "tag": list(tags),
            "group": group,
            "sort": sort,
        }
        query = {"limit": limit, **{name: value for name, value in asked.items() if value}}
        return await self._get("trainings", TrainingPage, query)

    async def training(self, training_id: str) -> tuple[Training, int]:
        """One training, and the position that this is true at."""
        answer = await self._get(f"trainings/{quote(training_id, safe='')}", _TrainingAnswer)
        return answer, answer.position

    async def history(
        self, training_id: str, *, points: int, from_step: int | None = None, to_step: int | None = None
    ) -> History:
        """The training's metrics in at most `points` rows an SAE, which keep the extremes of each metric.

        From the first step to the last, or from `from_step` to `to_step`, both included.
        """
        query: dict[str, Any] = {"points": points, "fields": ",".join(_CHARTED)}
        if from_step is not None:
            query["from_step"] = from_step
        if to_step is not None:
            query["to_step"] = to_step
        return await self._get(f"trainings/{quote(training_id, safe='')}/metrics", History, query)

    async def logs(
        self, training_id: str, *, limit: int = 50, before: int | None = None, level: str = "", q: str = ""
    ) -> LogPage:
        """The last log lines (before version `before`), oldest first."""
        query: dict[str, Any] = {"limit": limit, "order": "desc"}
        if before is not None:
            query["before"] = before
        if level:
            query["level"] = level
        if q:
            query["q"] = q
        page = await self._get(f"trainings/{quote(training_id, safe='')}/logs", LogPage, query)
        return LogPage(data=page.data[::-1], position=page.position)

    async def checkpoints(self, training_id: str) -> CheckpointPage:
        """The training's checkpoints, the newest step first."""
        return await self._get(f"trainings/{quote(training_id, safe='')}/checkpoints", CheckpointPage)

    async def delete_checkpoint(self, training_id: str, step: int) -> None:
        """Remove a checkpoint's files."""
        await self._send("DELETE", f"trainings/{quote(training_id, safe='')}/checkpoints/{step}")

    async def evaluations(self, training_id: str) -> EvaluationPage:
        """The training's evaluations, in order of step and SAE."""
        return await self._get(f"trainings/{quote(training_id, safe='')}/evaluations", EvaluationPage)

    async def activity(self, training_id: str, *, limit: int = 50, before: int | None = None) -> ActivityPage:
        """The newest of what was done with the training (before a position), the newest first."""
        query = {"limit": limit} if before is None else {"limit": limit, "before": before}
        return await self._get(f"trainings/{quote(training_id, safe='')}/activity", ActivityPage, query)

    async def everything_done(
        self, *, actor: str = "", kind: str = "", limit: int = 50, before: int | None = None
    ) -> AllActivityPage:
        """The newest of what anybody did (before a position), the newest first.

        Of one `actor` (`trainer` is all of them), or about one `kind` (training, template, catalogue, server), where
        these are given.
        """
        asked = {"actor": actor, "kind": kind, "before": before}
        query = {"limit": limit, **{name: value for name, value in asked.items() if value not in ("", None)}}
        return await self._get("activity", AllActivityPage, query)

    async def retry_training(self, training: Training, *, name: str, key: str) -> str:
        """Start a new training with the configuration of `training`, linked to it; its id.

        With the same `key` a repeated request creates nothing more.
        """
        config = msgspec.json.decode(msgspec.json.encode(training.config))
        body = {"config": config, "name": name, "retry_of": training.id}
        response = await self._send("POST", "trainings", json=body, key=key)
        return self._decode(response, Created).id

    async def rename_training(self, training_id: str, name: str) -> None:
        """Give the training another name."""
        await self._send("PATCH", f"trainings/{quote(training_id, safe='')}", json={"name": name})

    async def edit_training(self, training_id: str, **changes: str) -> None:
        """Change the training's name or note."""
        await self._send("PATCH", f"trainings/{quote(training_id, safe='')}", json=changes)

    async def tag_training(self, training_id: str, tags: Sequence[str]) -> None:
        """Give the training these tags and no others."""
        await self._send("PATCH", f"trainings/{quote(training_id, safe='')}", json={"tags": list(tags)})

    async def delete_training(self, training_id: str) -> Deleted:
        """Hide a training that is not at work and remove its checkpoints."""
        return self._decode(await self._send("DELETE", f"trainings/{quote(training_id, safe='')}"), Deleted)

    async def control(self, training_id: str, action: str) -> int:
        """Ask for `pause`, `resume`, `stop` or `checkpoint`; the position at which the wish was recorded."""
        response = await self._send("POST", f"trainings/{quote(training_id, safe='')}/control", json={"action": action})
        return self._decode(response, Accepted).position

    async def create_training(
        self, config: dict[str, Any], *, name: str = "", template_id: str | None = None, key: str | None = None
    ) -> Created:
        """Start a training as soon as a slot is free; with the same `key` a repeated request creates nothing more."""
        body: dict[str, Any] = {"config": config}
        if name:
            body["name"] = name
        if template_id:
            body["template_id"] = template_id
        return self._decode(await self._send("POST", "trainings", json=body, key=key), Created)

    async def check(self, config: dict[str, Any]) -> Check:
        """What the server says of a configuration; an unknown model or data set is looked at, which takes seconds."""
        response = await self._send("POST", "trainings/check", json={"config": config}, timeout=_INSPECTION)
        return self._decode(response, Check)

    async def models(self) -> tuple[ModelRegistered, ...]:
        """The registered models."""
        return (await self._get("models", _Models)).data

    async def datasets(self) -> tuple[DatasetRegistered, ...]:
        """The registered data sets."""
        return (await self._get("datasets", _Datasets)).data

    async def devices(self) -> tuple[Device, ...]:
        """What the server's machine has to train on."""
        return (await self._get("devices", _Devices)).data

    async def inspect_model(self, source: str) -> ModelRegistered:
        """What a model that is not registered is; takes seconds."""
        response = await self._send("POST", "models/inspect", json={"source": source}, timeout=_INSPECTION)
        return self._decode(response, _InspectedModel).model

    async def inspect(self, kind: str, wanted: dict[str, str]) -> ModelRegistered | DatasetRegistered:
        """What a `model` or `dataset` is that `wanted` describes; registers nothing, takes seconds."""
        response = await self._send("POST", f"{kind}s/inspect", json=wanted, timeout=_INSPECTION)
        if kind == "model":
            return self._decode(response, _InspectedModel).model
        return self._decode(response, _InspectedDataset).dataset

    async def register(self, kind: str, wanted: dict[str, str]) -> Created:
        """Take a `model` or `dataset` into the catalogue, after an inspection that may take seconds."""
        return self._decode(await self._send("POST", f"{kind}s", json=wanted, timeout=_INSPECTION), Created)

    async def remove_from_catalogue(self, kind: str, id: str) -> None:
        """Take a `model` or `dataset` out of the catalogue; `restore_to_catalogue` brings it back."""
        await self._send("POST", "catalogue/remove", json={"kind": kind, "id": id})

    async def restore_to_catalogue(self, kind: str, id: str) -> None:
        """Bring a removed `model` or `dataset` back as it was registered last."""
        await self._send("POST", "catalogue/restore", json={"kind": kind, "id": id})

    async def inspections(self) -> tuple[Inspecting, ...]:
        """The inspections that go on now."""
        return (await self._get("catalogue/inspections", _Inspectings)).data

    async def catalogue_uses(self) -> CatalogueUse:
        """What models and data sets are used by."""
        return await self._get("catalogue/uses", CatalogueUse)

    async def templates(self, *, q: str = "", sort: str = "") -> TemplatePage:
        """The templates that `q` finds, favourites first or as `sort` says."""
        asked = {"q": q, "sort": sort}
        return await self._get("templates", TemplatePage, {name: value for name, value in asked.items() if value})

    async def suggest_template(self, config: dict[str, Any]) -> Suggestion:
        """A name and a description for a template of this configuration, however incomplete it is."""
        response = await self._send("POST", "templates/suggestion", json={"config": config})
        return self._decode(response, Suggestion)

    async def save_template(self, name: str, description: str, config: dict[str, Any]) -> Created:
        """A new template."""
        body = {"name": name, "description": description, "config": config}
        return self._decode(await self._send("POST", "templates", json=body), Created)

    async def edit_template(self, template_id: str, expected_version: int, **changes: Any) -> Template:
        """Change name, description, config or favourite of a template that nobody has changed since."""
        body = {"expected_version": expected_version, **changes}
        return self._decode(await self._send("PATCH", _template(template_id), json=body), Template)

    async def delete_template(self, template_id: str) -> None:
        """Take a template from every list; `restore_template` brings it back."""
        await self._send("DELETE", _template(template_id))

    async def restore_template(
        self, template_id: str, version: int | None = None, *, expected_version: int | None = None
    ) -> Template:
        """Bring a deleted template back, or make a template again what it was at `version`.

        Refused where it is not at `expected_version` any more.
        """
        asked = {"version": version, "expected_version": expected_version}
        body = {name: value for name, value in asked.items() if value is not None}
        return self._decode(await self._send("POST", f"{_template(template_id)}/restore", json=body), Template)

    async def template_history(self, template_id: str) -> tuple[TemplateVersion, ...]:
        """Who made what of a template, the newest first."""
        return (await self._get(f"{_template(template_id)}/history", _TemplateHistory)).data

    async def preview_import(self, document: dict[str, Any]) -> tuple[ImportEntry, ...]:
        """What an import would make of every template in a document; nothing is written."""
        response = await self._send("POST", "templates/import/preview", json={"document": document})
        return self._decode(response, _ImportPreview).data

    async def import_templates(
        self, document: dict[str, Any], choices: dict[str, str], versions: dict[str, int]
    ) -> Imported:
        """Take in a document's templates.

        `choices` says by index what becomes of those that need a choice, `versions` what was looked at for it.
        """
        body = {"document": document, "choices": choices, "versions": versions}
        return self._decode(await self._send("POST", "templates/import", json=body), Imported)

    async def duplicate_template(self, template_id: str) -> Created:
        """A copy of a template, under a name of its own."""
        return self._decode(await self._send("POST", f"{_template(template_id)}/duplicate", json={}), Created)

    async def sql(self, statement: str, *, limit: int) -> SqlAnswer:
        """The answer to a question, of so many rows at most; refused with 503 while its database is not there yet."""
        body = {"statement": statement, "limit": limit}
        return self._decode(await self._send("POST", "sql", json=body, timeout=_QUESTION), SqlAnswer)

    async def sql_schema(self) -> SqlSchema:
        """What can be asked in SQL."""
        return await self._get("sql/schema", SqlSchema)

    async def _get(self, path: str, answer: type[_Answer], query: dict[str, Any] | None = None) -> _Answer:
        return self._decode(await self._send("GET", path, params=query), answer)

    async def _send(self, method: str, path: str, *, key: str | None = None, **request: Any) -> httpx.Response:
        try:
            response = await self._client.request(
                method, path, headers={**self._acting, **({"Idempotency-Key": key} if key else {})}, **request
            )
        except httpx.TimeoutException as error:
            raise ApiAway("The server did not answer in time.") from error
        except httpx.TransportError as error:
            raise ApiAway("The server cannot be reached.") from error
        if response.is_success:
            return response
        problem = _problem(response)
        sentence = problem.detail or problem.title
        if not sentence:
            sentence = f"The server answered {response.status_code} {response.reason_phrase}."
        raise ApiRefused(sentence, response.status_code, problem.errors)

    def _decode(self, response: httpx.Response, answer: type[_Answer]) -> _Answer:
        try:
            return msgspec.json.decode(response.content, type=answer)
        except msgspec.DecodeError as error:
            raise ApiRefused(f"The server's answer could not be read: {error}.", response.status_code) from error


def _template(template_id: str) -> str:
    return f"templates/{quote(template_id, safe='')}"


def _problem(response: httpx.Response) -> _Problem:
    """The RFC 9457 problem of an answer; an empty one where the answer holds none."""
    try:
        return msgspec.json.decode(response.content, type=_Problem)
    except msgspec.DecodeError:
        return _Problem()
