"""An operation of the API: what it takes and answers, as structs; from it routing, validation and OpenAPI follow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from msgspec import inspect
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from core.fields import convert_fields
from projections.projection import QueryRefused

from .. import problems
from ..problems import ApiError
from ..studio import Studio

PREFIX = "/api/v1"
JSON = "application/json"
CSV = "text/csv"
TEXT = "text/plain"
TAR = "application/x-tar"
MAX_BODY = 4 * 2**20
"""Bytes that a request body may have."""

S = TypeVar("S", bound=msgspec.Struct)


class NoQuery(msgspec.Struct, frozen=True):
    """An operation without query parameters."""


@dataclass(frozen=True)
class Call:
    """One request to an operation. `key` is its Idempotency-Key."""

    request: Request
    studio: Studio
    actor: str
    path: dict[str, str]
    key: str | None
    _query: msgspec.Struct
    _body: msgspec.Struct | None

    @property
    def sent(self) -> msgspec.Struct | None:
        """The request's body."""
        return self._body

    def query(self, kind: type[S]) -> S:
        assert isinstance(self._query, kind)
        return self._query

    def body(self, kind: type[S]) -> S:
        assert isinstance(self._body, kind)
        return self._body


@dataclass(frozen=True)
class Operation:
    """`path` is below `PREFIX`, or absolute where it begins with a slash. The handler's docstring describes it.

    `answer` is what a success holds (None: no JSON); a handler may also return a whole `Response`, of one of the
    `downloads`' media types where these are asked for.
    """

    method: str
    path: str
    handle: Callable[[Call], Awaitable[msgspec.Struct | Response]]
    answer: type[msgspec.Struct] | None
    status: int = 200
    query: type[msgspec.Struct] = NoQuery
    body: type[msgspec.Struct] | None = None
    refusals: tuple[int, ...] = ()
    downloads: tuple[str, ...] = ()

    @property
    def full_path(self) -> str:
        return self.path if self.path.startswith("/") else f"{PREFIX}/{self.path}"

    @property
    def name(self) -> str:
        return self.handle.__name__  # type: ignore[attr-defined]

    async def __call__(self, request: Request) -> Response:
        call = Call(
            request=request,
            studio=request.app.state.studio,
            actor=request.state.actor,
            path=dict(request.path_params),
            key=_key(request),
            _query=_query(request, self.query),
            _body=None if self.body is None else _converted(await _json(request), self.body),
        )
        try:
            answer = await self.handle(call)
        except QueryRefused as refused:
            raise problems.invalid([problems.Problem(refused.field, str(refused))], 400) from refused
        if isinstance(answer, Response):
            return answer
        return Response(msgspec.json.encode(answer), self.status, media_type=JSON)


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= 255:
        raise ApiError(400, f"Idempotency-Key must have 1 to 255 characters, not {len(key)}.")
    return key


@cache
def _lists(kind: type[msgspec.Struct]) -> frozenset[str]:
    """The parameters that may be given more than once."""
    return frozenset(
        field.encode_name for field in msgspec.structs.fields(kind) if _is_list(inspect.type_info(field.type))
    )


def _query(request: Request, kind: type[msgspec.Struct]) -> msgspec.Struct:
    lists = _lists(kind)
    raw: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name in lists:
            raw.setdefault(name, []).append(value)
            continue
        if name in raw:
            raise problems.invalid([problems.Problem(name, f"{name} is given twice.")], 400)
        raw[name] = value
    values, found = convert_fields(raw, kind, what="this query", strict=False)
    if found:
        raise problems.invalid(found, 400)
    return cast(msgspec.Struct, kind(**values))


def _is_list(kind: inspect.Type) -> bool:
    """Whether a parameter of this type may be given several times."""
    return isinstance(kind.type if isinstance(kind, inspect.Metadata) else kind, inspect.VarTupleType)


async def _json(request: Request) -> dict[str, Any]:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON:
        raise ApiError(415, f"The body must be {JSON}, not {media_type or 'of an unnamed type'}.")
    try:
        body = msgspec.json.decode(await read_body(request))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise ApiError(422, "The body must be a JSON object.")
    return body


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """The whole body. Raises a 413 `ApiError` where it is too long.

    Somewhat more than the limit is read and dropped: a client that is still sending would not see the answer.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > 4 * limit:
                break
            if size <= limit:
                parts.append(chunk)
    except ClientDisconnect as error:
        raise ApiError(400, "The connection ended before the body did.") from error
    if size > limit:
        raise ApiError(413, f"The body may have at most {limit:,} bytes.", headers={"Connection": "close"})
    return b"".join(parts)


def _converted(raw: dict[str, Any], kind: type[msgspec.Struct]) -> msgspec.Struct:
    values, found = convert_fields(raw, kind, what="this request")
    if found:
        raise problems.invalid(found)
    return cast(msgspec.Struct, kind(**values))
