"""OpenAPI 3.1 from the table of operations and the structs that they name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from .api.operation import JSON, NoQuery, Operation
from .problems import MEDIA_TYPE, ProblemDetails

_REFUSALS = {
    400: "The query, or the body's syntax, cannot be understood.",
    401: "The server does not know who asks.",
    403: "The request comes from a page of another site.",
    404: "There is no such thing.",
    409: "What is asked for does not fit the present state; the detail says why.",
    413: "The body is too long.",
    415: "The body is not JSON.",
    422: "The body's fields have problems; `errors` names each.",
    503: "It cannot be answered at this moment; `Retry-After` says when to ask again.",
    507: "The disk of the log is full; nothing was changed.",
}


def document(operations: Iterable[Operation], version: str) -> bytes:
    """The OpenAPI document as JSON."""
    operations = list(operations)
    kinds = {ProblemDetails, *(operation.answer for operation in operations if operation.answer is not None)}
    kinds |= {operation.body for operation in operations if operation.body is not None}
    kinds |= {operation.query for operation in operations if operation.query is not NoQuery}
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    refs = dict(zip(ordered, schemas, strict=True))
    queries = {kind.__name__ for kind in (operation.query for operation in operations)}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.full_path, {})[operation.method.lower()] = _described(operation, refs, components)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "SAE Studio",
                "version": version,
                "description": (
                    "Trainings of sparse autoencoders, and the log that they write. Every answer with a `position` can"
                    " be followed from there at the WebSocket `/api/v1/events/follow?after=POSITION`."
                ),
            },
            "security": [{"token": []}, {}],
            "paths": paths,
            "components": {
                "schemas": {name: schema for name, schema in components.items() if name not in queries},
                "securitySchemes": {
                    "token": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "Not needed on loopback by the user who runs the server.",
                    }
                },
            },
        }
    )


def _described(
    operation: Operation, refs: dict[type[msgspec.Struct], dict[str, Any]], components: dict[str, Any]
) -> dict[str, Any]:
    summary, _, description = (inspect.getdoc(operation.handle) or "").partition("\n\n")
    content: dict[str, Any] = {} if operation.answer is None else {JSON: {"schema": refs[operation.answer]}}
    content |= {media_type: {} for media_type in operation.downloads}
    told = inspect.getdoc(operation.answer) if operation.answer is not None else None
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": " ".join(summary.split()),
        "tags": [operation.path.strip("/").partition("/")[0]],
        "parameters": [*_path_parameters(operation), *_query_parameters(operation, components)],
        "responses": {
            str(operation.status): {
                "description": told or "Done.",
                "content": content,
            }
        },
    }
    if description:
        described["description"] = description
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": refs[operation.body]}}}
    refusals = {401, 403, *operation.refusals}
    if operation.method != "GET":
        refusals.add(507)
    if operation.query is not NoQuery or operation.body is not None:
        refusals.add(400)
    for status in sorted(refusals):
        described["responses"][str(status)] = {
            "description": _REFUSALS[status],
            "content": {MEDIA_TYPE: {"schema": refs[ProblemDetails]}},
        }
    return described


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]


def _query_parameters(operation: Operation, components: dict[str, Any]) -> list[dict[str, Any]]:
    if operation.query is NoQuery:
        return []
    schema = components[operation.query.__name__]
    found: list[dict[str, Any]] = []
    for name, kind in schema["properties"].items():
        parameter: dict[str, Any] = {"name": name, "in": "query", "required": False, "schema": kind}
        described = next((one["description"] for one in (kind, *kind.get("anyOf", ())) if "description" in one), None)
        if described is not None:
            parameter["description"] = described
        found.append(parameter)
    return found
