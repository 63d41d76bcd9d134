"""The REST API as the command line uses it: where the server is, its token, and its refusals as sentences."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import msgspec

from events.client import ServerAddress, read_address
from events.ids import LENGTH

PREFIX = "/api/v1"

_PAGE = 500


class ServerUnreachable(Exception):
    """No server answers where one was looked for; the sentence says where, and what to do."""


class RequestRefused(Exception):
    """The server refused a request. `problems` holds a sentence for each field that is to blame."""

    def __init__(self, message: str, *, status: int, problems: tuple[str, ...] = ()) -> None:
        self.status = status
        self.problems = problems
        super().__init__(message)


class ServerFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a running server writes into its data directory as `server.json`; clients read it with `read_address`."""

    url: str
    pid: int
    log_id: str
    token_file: str


def read_token(file: Path) -> str:
    """The token in `file`. Raises `ServerUnreachable` with one sentence where it cannot be read."""
    try:
        token = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerUnreachable(f"The token file {file} cannot be read: {error}.") from error
    if not token:
        raise ServerUnreachable(f"The token file {file} is empty.")
    return token


def find_address(
    data_dir: Path,
    *,
    server: str | None = None,
    token_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ServerAddress | None:
    """The server to talk to: `server` where given, else the one that `data_dir` names; None where it names none.

    The token comes from `token_file`, else from `SAESTUDIO_TOKEN` in `environ`, else from the data directory, whose
    token is shown to its own server only. Raises `ServerUnreachable`.
    """
    token = read_token(token_file) if token_file is not None else environ.get("SAESTUDIO_TOKEN") or None
    if server is None:
        known = read_address(data_dir)
        return known if known is None or token is None else msgspec.structs.replace(known, token=token)
    url = server.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ServerUnreachable(f"--server must be a URL such as http://127.0.0.1:8420, not {server!r}.")
    return ServerAddress(url, token)


class Api:
    """A synchronous client of one server. Raises `ServerUnreachable` and `RequestRefused`, nothing else."""

    def __init__(self, address: ServerAddress, *, timeout: float = 60.0) -> None:
        self.address = address
        headers = {"Accept": "application/json"}
        if address.token is not None:
            headers["Authorization"] = f"Bearer {address.token}"
        # A proxy from the environment has no business between a command and a server on this machine.
        self._client = httpx.Client(base_url=address.url, headers=headers, timeout=timeout, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, **query: Any) -> Any:
        """The decoded answer to `GET path`; queries that are None are left out."""
        return self.request("GET", path, query=query)

    def post(self, path: str, body: Any = None) -> Any:
        """The decoded answer to `POST path`."""
        return self.request("POST", path, body=body)

    def request(self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Any = None) -> Any:
        """The decoded answer; `path` is below the API's prefix unless it begins with a slash."""
        target = path if path.startswith("/") else f"{PREFIX}/{path}"
        parameters = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            response = self._client.request(
                method, self.address.url + target, params=parameters, json=body if body is not None else None
            )
        except httpx.TimeoutException as error:
            raise ServerUnreachable(f"{self.address.url} did not answer in time.") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ServerUnreachable(f"No server answers at {self.address.url} ({error}).") from error
        if response.is_success:
            return _decoded(response, self.address.url)
        raise _refusal(response, self.address.url)

    @contextmanager
    def streamed(self, path: str, body: Any, *, timeout: float) -> Iterator[httpx.Response]:
        """The answer to `POST path`, whose body comes piece by piece, each within `timeout` seconds."""
        begun = False
        try:
            with self._client.stream(
                "POST", f"{self.address.url}{PREFIX}/{path}", json=body, timeout=timeout
            ) as response:
                if not response.is_success:
                    response.read()
                    raise _refusal(response, self.address.url)
                begun = True
                yield response
        except httpx.TimeoutException as error:
            raise ServerUnreachable(f"{self.address.url} did not answer in time.") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            if begun:
                raise ServerUnreachable(f"The answer of {self.address.url} broke off ({error}).") from error
            raise ServerUnreachable(f"No server answers at {self.address.url} ({error}).") from error

    def training_id(self, wanted: str) -> str:
        """The id of the one training whose id begins with `wanted`.

        Raises `RequestRefused` where there is none or more than one.
        """
        if len(wanted) >= LENGTH:
            return wanted
        found: list[str] = []
        offset = 0
        while True:
            page = self.get("trainings", q=wanted, limit=_PAGE, offset=offset)["data"]
            found += [row["id"] for row in page if row["id"].startswith(wanted.lower())]
            if len(page) < _PAGE:
                break
            offset += _PAGE
        if len(found) == 1:
            return found[0]
        if not found:
            raise RequestRefused(f"No training's id begins with {wanted!r}.", status=404)
        shown = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
        raise RequestRefused(f"{len(found)} trainings' ids begin with {wanted!r}: {shown}.", status=409)

    def training(self, training_id: str) -> dict[str, Any]:
        """The training as the API gives it."""
        return self.get(f"trainings/{quote(training_id, safe='')}")

    def control(self, training_id: str, action: str) -> dict[str, Any]:
        """Ask for `pause`, `resume`, `stop` or `checkpoint`; the answer holds the position of what was recorded."""
        return self.post(f"trainings/{quote(training_id, safe='')}/control", {"action": action})


def _decoded(response: httpx.Response, url: str) -> Any:
    if not response.content:
        return None
    try:
        return msgspec.json.decode(response.content)
    except msgspec.DecodeError as error:
        raise ServerUnreachable(f"What answers at {url} is not SAE Studio (it sent no JSON).") from error


def _refusal(response: httpx.Response, url: str) -> RequestRefused:
    """An RFC 9457 problem as one sentence, with the fields that it names."""
    try:
        problem: Any = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not ("title" in problem or "detail" in problem):
        return RequestRefused(
            f"{url} answered {response.status_code} {response.reason_phrase}".rstrip() + ".",
            status=response.status_code,
        )
    sentence = str(problem.get("detail") or problem.get("title"))
    fields = [str(entry["message"]) for entry in problem.get("errors", ()) if "message" in entry]
    if response.status_code == httpx.codes.UNAUTHORIZED:
        sentence += " Give the token with --token-file or in SAESTUDIO_TOKEN."
    return RequestRefused(sentence, status=response.status_code, problems=tuple(fields))
