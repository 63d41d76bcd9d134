"""The dashboard's HTTP client: what the API answers as structs, what it refuses as sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from events.training import Sae, TrainingConfig

_Answer = TypeVar("_Answer")

PREFIX = "/api/v1"


class ApiError(Exception):
    """Base of what a request can end with; `str()` is a sentence that can be shown."""


class ApiAway(ApiError):
    """Nobody answers at the API's address."""


class ApiRefused(ApiError):
    """The API answered with a problem; `status` is its HTTP status."""

    def __init__(self, sentence: str, status: int) -> None:
        self.status = status
        super().__init__(sentence)


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """A training as the API gives it.

    Times are in µs since 1970; `loss`, `l0` and `fvu` are the newest, the mean over the SAEs, `dead_latents` their sum.
    """

    id: str
    name: str
    status: str
    reason: str | None = None
    launched: bool = False
    step: int = 0
    total_steps: int | None = None
    config: TrainingConfig | None = None
    saes: tuple[Sae, ...] = ()
    pid: int | None = None
    host: str | None = None
    device: str | None = None
    device_name: str | None = None
    created_at: int | None = None
    started_at: int | None = None
    updated_at: int | None = None
    ended_at: int | None = None
    actor: str | None = None
    loss: float | None = None
    l0: float | None = None
    fvu: float | None = None
    dead_latents: int | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None


class MetricRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The charted metrics of one SAE at one step; None where the log has no finite value.

    `timestamp` is in µs since 1970, `device_memory` in bytes.
    """

    step: int
    sae: int = 0
    timestamp: int = 0
    tokens: float | None = None
    loss: float | None = None
    loss_reconstruction: float | None = None
    loss_sparsity: float | None = None
    loss_auxiliary: float | None = None
    l0: float | None = None
    fvu: float | None = None
    dead_latents: float | None = None
    learning_rate: float | None = None
    sparsity_coefficient: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    device_memory: float | None = None


# Step, SAE and timestamp are in every answer.
_CHARTED = [name for name in MetricRow.__struct_fields__ if name not in ("step", "sae", "timestamp")]


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One log line; `version` orders a training's lines, `timestamp` is in µs since 1970."""

    version: int
    timestamp: int
    level: str
    logger: str
    message: str
    position: int = 0


class TrainingPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the trainings, the number of all that the search finds by status, and the position they are true at."""

    data: tuple[Training, ...]
    counts: dict[str, int] = {}
    position: int = 0


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A training's metrics, complete up to `position`."""

    data: list[MetricRow]
    position: int


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """Log lines in the order asked for; with those after `position` they are complete."""

    data: list[LogLine]
    position: int


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A command was recorded at `position`."""

    position: int


class _Problem(msgspec.Struct, frozen=True, kw_only=True):
    title: str = ""
    detail: str = ""


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

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def trainings(
        self, *, statuses: Sequence[str] = (), q: str = "", limit: int = 50, offset: int = 0
    ) -> TrainingPage:
        """Trainings, newest first: those in one of `statuses` (all where empty) that match `q`."""
        query: dict[str, Any] = {"limit": limit, "offset": offset}
        if statuses:
            query["status"] = ",".join(statuses)
        if q:
            query["q"] = q
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

    async def control(self, training_id: str, action: str) -> int:
        """Ask for `pause`, `resume`, `stop` or `checkpoint`; the position at which the wish was recorded."""
        response = await self._send("POST", f"trainings/{quote(training_id, safe='')}/control", json={"action": action})
        return self._decode(response, Accepted).position

    async def _get(self, path: str, answer: type[_Answer], query: dict[str, Any] | None = None) -> _Answer:
        return self._decode(await self._send("GET", path, params=query), answer)

    async def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = await self._client.request(method, path, **request)
        except httpx.TimeoutException as error:
            raise ApiAway("The server did not answer in time.") from error
        except httpx.TransportError as error:
            raise ApiAway("The server cannot be reached.") from error
        if response.is_success:
            return response
        raise ApiRefused(_sentence(response), response.status_code)

    def _decode(self, response: httpx.Response, answer: type[_Answer]) -> _Answer:
        try:
            return msgspec.json.decode(response.content, type=answer)
        except msgspec.DecodeError as error:
            raise ApiRefused(f"The server's answer could not be read: {error}.", response.status_code) from error


def _sentence(response: httpx.Response) -> str:
    """What an RFC 9457 problem says, or the status where the answer is none."""
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem()
    return problem.detail or problem.title or f"The server answered {response.status_code} {response.reason_phrase}."
