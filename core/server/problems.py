"""Refusals over HTTP: RFC 9457 problem details."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from core.decide import Refused
from core.fields import Problem
from events.errors import LogClosed, LogFull, LogUnavailable

MEDIA_TYPE = "application/problem+json"


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request was refused: `detail` is one sentence, `errors` names every field that is to blame."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: tuple[Problem, ...] = ()


class ApiError(Exception):
    """A refusal with its HTTP status, one sentence, and the fields that are to blame."""

    def __init__(
        self, status: int, detail: str, errors: Iterable[Problem] = (), *, headers: dict[str, str] | None = None
    ) -> None:
        self.status = status
        self.headers = headers
        self.detail = detail
        self.errors = tuple(errors)
        super().__init__(detail)


def not_found(what: str, name: str) -> ApiError:
    """404 for one thing that is not there."""
    return ApiError(404, f"There is no {what} {name!r}.")


def invalid(errors: Iterable[Problem], status: int = 422) -> ApiError:
    """All problems of a body (422) or of a query (400)."""
    errors = tuple(errors)
    where = "The request" if status == 422 else "The query"
    if len(errors) == 1:
        return ApiError(status, errors[0].message, errors)
    named = ", ".join(dict.fromkeys(error.field for error in errors))
    return ApiError(status, f"{where} has {len(errors)} problems, in {named}.", errors)


def response(
    status: int, detail: str, errors: Iterable[Problem] = (), headers: dict[str, str] | None = None
) -> Response:
    """The problem as an answer."""
    details = ProblemDetails(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=tuple(errors))
    # `about:blank` is the default that RFC 9457 gives to a missing type, but readers look for the member.
    body = {"type": details.type, **msgspec.to_builtins(details)}
    return Response(msgspec.json.encode(body), status, headers=headers, media_type=MEDIA_TYPE)


async def on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return response(error.status, error.detail, error.errors, error.headers)


async def on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return response(409, error.reason)


async def on_unavailable(request: Request, error: Exception) -> Response:
    if isinstance(error, LogFull):
        return response(507, f"{error} Nothing was changed; free some space and do it again.")
    return response(503, str(error), headers={"Retry-After": "2"})


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path, a method that a path does not have."""
    assert isinstance(error, HTTPException)
    detail = {
        404: f"There is nothing at {request.url.path}.",
        405: f"{request.method} is not possible at {request.url.path}.",
    }.get(error.status_code, error.detail)
    return response(error.status_code, detail, headers=dict(error.headers or {}))


async def on_defect(request: Request, error: Exception) -> Response:
    """A fault of ours: the traceback goes to the server's log, the client gets a sentence."""
    return response(500, "The server could not answer because of a fault of its own; its log says more.")


HANDLERS = {
    ApiError: on_api_error,
    Refused: on_refused,
    LogUnavailable: on_unavailable,
    LogClosed: on_unavailable,
    HTTPException: on_http_exception,
    Exception: on_defect,
}
