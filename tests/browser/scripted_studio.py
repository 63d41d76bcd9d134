"""An API in memory whose every answer a test decides: what the dashboard sees of a server, and nothing behind it.

For what a real server cannot be made to do on demand: histories of a hundred thousand steps, requests that fail,
a connection that breaks at a chosen moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from events.codec import encode
from events.control import TrainingCreated, TrainingDeleted, TrainingNoted, TrainingRenamed, TrainingTagged
from events.event import Event, event_type
from events.log import LogWritten
from events.training import (
    CheckpointDeleted,
    CheckpointSaved,
    EvaluationMade,
    Sae,
    StepTrained,
    TrainingConfig,
    TrainingResumed,
    TrainingStarted,
)
from events.wire import CLOSE_OTHER_LOG, CaughtUp, Events, RawRecorded, Subscribed

CONFIG = TrainingConfig(
    model="demo",
    datasets=("stdlib",),
    training_layers=(1, 2),
    hook_types=("resid_post",),
    architecture_type="topk",
    hidden_dim=128,
    latent_dim=2048,
    k=16,
    total_steps=2_000,
    batch_size=1_024,
    learning_rate=3e-4,
)
SAES = (Sae(layer=1, hook="resid_post"), Sae(layer=2, hook="resid_post"))


def step_of(step: int, sae: int = 0, *, total: int = 2_000, loss: float | None = None) -> StepTrained:
    """A step such as a trainer reports: losses that fall, dead latents that rise and fall."""
    fallen = 0.9 * 2.0 ** (-step / (total / 9)) + 0.08 + 0.03 * sae + 0.012 * ((step * 7919) % 13) / 13
    return StepTrained(
        step=step,
        sae=sae,
        loss=fallen if loss is None else loss,
        loss_reconstruction=fallen,
        l0=16.0 + 30 * 2.0 ** (-step / 60) + ((step * 31) % 7) / 20,
        l0_fraction=16 / 2048,
        fvu=fallen * 0.96,
        dead_latents=int(400 * (step / total) * 2.718 ** (1 - 6 * step / total)) + 12 * sae,
        learning_rate=3e-4 * min(1.0, step / 100) * min(1.0, max(0.02, (total - step) / (total * 0.2))),
        grad_norm=0.4,
        tokens=step * 1024,
        tokens_per_second=38_000 + 900 * ((step * 17) % 11) / 11,
    )


def evaluation_of(step: int, sae: int = 0, *, total: int = 2_000, **figures: Any) -> EvaluationMade:
    """An evaluation as a trainer makes it: all gets better, and some latents never fire."""
    left = 2.0 ** (-step / (total / 5))
    never = int(40 + 400 * left)
    bins = [round(220 * 2.718 ** (-(((index - 33 - 3 * sae) / 7) ** 2))) for index in range(60)]
    bins[53] = 6
    made = EvaluationMade(
        step=step,
        sae=sae,
        tokens=16_384,
        fvu=0.12 + 0.03 * sae + 0.5 * left,
        l0=16.0 + 20 * left,
        dead_latents=never // 2,
        dense_latents=6,
        duplicate_latents=11 + sae,
        ce_clean=3.41,
        ce_spliced=3.47 + 0.8 * left,
        ce_ablated_zero=9.2,
        ce_ablated_mean=7.9,
        kl_spliced=0.04 + 0.6 * left,
        loss_recovered=1 - (0.06 + 0.8 * left) / 5.79,
        shrinkage=0.98 - 0.1 * left,
        density_histogram=(*bins, never),
        verdict="good",
    )
    return msgspec.structs.replace(made, **figures)


class Studio:
    """The log, the answers made from it, and what goes wrong.

    `fail` maps a word in a path to the sentence that requests of such paths are refused with; `refuse` is the reason
    with which the next command is refused. `defaults` are the fields that a configuration lacks when it is checked.
    `requests` has the paths that were asked for, `succeeded` those of them that were answered with what they asked for.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.events: list[tuple[Event, RawRecorded]] = []
        self.trainings: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, int] = {}
        self.fail: dict[str, str] = {}
        self.refuse: str | None = None
        self.defaults: dict[str, Any] = {}
        self.created: list[dict[str, Any]] = []
        self.controls: list[tuple[str, str]] = []
        self.requests: list[str] = []
        self.succeeded: list[str] = []
        self.log_id = "log-1"
        self.sockets: set[WebSocket] = set()
        self._free = threading.Event()
        self._free.set()
        self.url = ""

    # What a test makes happen

    def create(self, training_id: str, *, name: str = "", config: TrainingConfig | None = CONFIG, **fields: Any) -> str:
        """A training that waits for its slot."""
        now = int(time.time() * 1e6)
        with self.lock:
            self.trainings[training_id] = {
                "id": training_id,
                "name": name or training_id,
                "status": "queued",
                "config": config,
                "step": 0,
                "total_steps": config.total_steps if config else None,
                "created_at": now,
                "saes": (),
                **fields,
            }
            self._append(f"control-{training_id}", TrainingCreated(name=name or training_id, config=config))
        return training_id

    def start(self, training_id: str, saes: tuple[Sae, ...] = SAES) -> None:
        """Its process begins."""
        self.set(training_id, status="running", saes=saes, started_at=int(time.time() * 1e6), device="cpu", pid=4711)
        self.emit(training_id, TrainingStarted(pid=4711, host="here", device="cpu", saes=saes))

    def set(self, training_id: str, **fields: Any) -> None:
        """Change what the API says of a training."""
        with self.lock:
            self.trainings[training_id].update(fields, updated_at=int(time.time() * 1e6))

    def emit(self, training_id: str, *events: Event, stream: str = "training", actor: str | None = None) -> None:
        """Append events of a training."""
        with self.lock:
            for event in events:
                self._append(f"{stream}-{training_id}", event, actor)
                row = self.trainings[training_id]
                if isinstance(event, StepTrained):
                    row.update(
                        step=max(row["step"], event.step),
                        loss=event.loss,
                        l0=event.l0,
                        fvu=event.fvu,
                        dead_latents=event.dead_latents,
                        tokens=event.tokens,
                        tokens_per_second=event.tokens_per_second,
                    )

    def train(self, training_id: str, first: int, last: int, *, saes: int = 2, **shape: Any) -> None:
        """Emit the steps from `first` to `last`, of every SAE."""
        self.emit(training_id, *(step_of(step, sae, **shape) for step in range(first, last + 1) for sae in range(saes)))

    def say(self, training_id: str, *messages: str, level: Any = "INFO") -> None:
        """Write log lines."""
        self.emit(training_id, *(LogWritten(level=level, logger="trainer", message=message) for message in messages))

    def hold(self) -> None:
        """Let requests for changes wait until `let_go`."""
        self._free.clear()

    def let_go(self) -> None:
        """Answer what waits."""
        self._free.set()

    def replace_log(self) -> None:
        """Put an empty log in the place of this one, as a restored backup might be."""
        with self.lock:
            self.events.clear()
            self.versions.clear()
            self.trainings.clear()
            self.log_id += "'"

    @property
    def head(self) -> int:
        return len(self.events)

    def save_checkpoint(self, training_id: str, step: int, *, reason: Any = "interval") -> None:
        """A checkpoint is whole on disk."""
        path = f"/data/{training_id}/{step}"
        saved = CheckpointSaved(step=step, path=path, size=6_370_000, host="here", loss=0.25, fvu=0.22, reason=reason)
        self.emit(training_id, saved)

    def _append(self, stream: str, event: Event, actor: str | None = None) -> None:
        version = self.versions[stream] = self.versions.get(stream, 0) + 1
        now = int(time.time() * 1e6)
        self.events.append(
            (
                event,
                RawRecorded(
                    position=len(self.events) + 1,
                    stream=stream,
                    version=version,
                    type=event_type(event),
                    occurred_at=now,
                    recorded_at=now,
                    actor=actor,
                    data=msgspec.Raw(encode(event, "msgpack")),
                ),
            )
        )

    # The API

    def history(
        self, training_id: str, points: int, from_step: int = 1, to_step: int = 1 << 32
    ) -> list[dict[str, Any]]:
        """Steps in `points / 2` buckets: two rows each, one with every column's least and one with its greatest."""
        preempted = [
            (event.step, raw.position)
            for event, raw in self.events
            if isinstance(event, TrainingResumed) and raw.stream == f"training-{training_id}"
        ]
        steps: dict[int, list[tuple[StepTrained, int]]] = {}
        for event, raw in self.events:
            if not isinstance(event, StepTrained) or raw.stream != f"training-{training_id}":
                continue
            if not from_step <= event.step <= to_step:
                continue
            if not any(event.step > step and raw.position < position for step, position in preempted):
                steps.setdefault(event.sae, []).append((event, raw.occurred_at))
        rows: list[dict[str, Any]] = []
        for sae, events in steps.items():
            size = max(1, -(-len(events) * 2 // points)) if len(events) > points else 1
            for begin in range(0, len(events), size):
                bucket = events[begin : begin + size]
                fields = [name for name in StepTrained.__struct_fields__ if name not in ("step", "sae")]
                values = {name: [getattr(event, name) for event, _ in bucket] for name in fields}
                values["timestamp"] = [occurred_at for _, occurred_at in bucket]
                for (end, _), pick in ((bucket[0], min), (bucket[-1], max))[: len(bucket)]:
                    picked = {name: None if column[0] is None else pick(column) for name, column in values.items()}
                    rows.append({"step": end.step, "sae": sae, **picked})
        return sorted(rows, key=lambda row: (row["step"], row["sae"]))

    def application(self) -> Starlette:
        """The API as an application."""
        prefix = "/api/v1"
        return Starlette(
            routes=[
                Route("/healthz", self._healthz),
                Route(f"{prefix}/trainings", self._trainings),
                Route(f"{prefix}/trainings", self._create, methods=["POST"]),
                Route(f"{prefix}/trainings/check", self._check, methods=["POST"]),
                Route(f"{prefix}/trainings/{{id}}", self._training),
                Route(f"{prefix}/trainings/{{id}}", self._change, methods=["PATCH", "DELETE"]),
                Route(f"{prefix}/trainings/{{id}}/checkpoints", self._checkpoints),
                Route(f"{prefix}/trainings/{{id}}/checkpoints/{{step}}", self._delete_checkpoint, methods=["DELETE"]),
                Route(f"{prefix}/trainings/{{id}}/evaluations", self._evaluations),
                Route(f"{prefix}/trainings/{{id}}/activity", self._activity),
                Route(f"{prefix}/activity", self._everything_done),
                Route(f"{prefix}/trainings/{{id}}/metrics", self._metrics),
                Route(f"{prefix}/trainings/{{id}}/logs", self._logs),
                Route(f"{prefix}/trainings/{{id}}/control", self._control, methods=["POST"]),
                WebSocketRoute(f"{prefix}/events/follow", self._follow),
            ]
        )

    def _answer(self, request: Request, body: Any, status: int = 200) -> Response:
        self.requests.append(f"{request.url.path}?{request.url.query}")
        for word, sentence in list(self.fail.items()):
            if word in request.url.path:
                body, status = {"title": "Failed", "detail": sentence, "status": 500}, 500
        if status < 400:
            self.succeeded.append(request.url.path)
        return Response(msgspec.json.encode(body), status, media_type="application/json")

    def _missing(self, request: Request) -> Response | None:
        if request.path_params["id"] in self.trainings:
            return None
        return self._answer(request, {"title": "Not found", "detail": "There is no such training."}, 404)

    async def _healthz(self, request: Request) -> Response:
        return self._answer(request, {"status": "ok", "log_id": self.log_id, "head": self.head})

    async def _trainings(self, request: Request) -> Response:
        with self.lock:
            query = request.query_params
            q = query.get("q", "").lower()
            statuses = [name for name in query.get("status", "").split(",") if name]
            wanted = set(query.getlist("tag"))
            found = [
                row
                for row in self.trainings.values()
                if q in row["name"].lower()
                and wanted <= set(row.get("tags", ()))
                and all(self._meets(row, one) for one in query.get("where", "").split(";") if one)
            ]
            counts: dict[str, int] = {}
            tags: dict[str, int] = {}
            for row in found:
                counts[row["status"]] = counts.get(row["status"], 0) + 1
            for tag in (tag for row in self.trainings.values() for tag in row.get("tags", ())):
                tags[tag] = tags.get(tag, 0) + 1
            shown = [row for row in found if not statuses or row["status"] in statuses]
            shown.sort(key=lambda row: -row["created_at"])
            sort, group = query.get("sort", "-created"), query.get("group")
            if sort.removeprefix("-") != "created":
                shown.sort(key=lambda row: row[sort.removeprefix("-")], reverse=sort.startswith("-"))
            if group:
                shown.sort(key=lambda row: str(getattr(row["config"], group, row.get(group))))
            shown = shown[: int(query.get("limit", 50))]
            return self._answer(request, {"data": shown, "counts": counts, "tags": tags, "position": self.head})

    @staticmethod
    def _meets(row: dict[str, Any], condition: str) -> bool:
        """Whether a configuration has what `FIELD=VALUE` says; of `FIELD>=VALUE`, at least that."""
        name, sign, value = condition.partition(">=" if ">=" in condition else "=")
        held = getattr(row["config"], name, None)
        return str(held) == value if sign == "=" else held is not None and held >= float(value)

    async def _training(self, request: Request) -> Response:
        with self.lock:
            row = self.trainings.get(request.path_params["id"])
            return self._missing(request) or self._answer(request, {**(row or {}), "position": self.head})

    async def _metrics(self, request: Request) -> Response:
        with self.lock:
            if missing := self._missing(request):
                return missing
            query = request.query_params
            known = {name: int(query[name]) for name in ("points", "from_step", "to_step") if name in query}
            rows = self.history(request.path_params["id"], **known)
            return self._answer(request, {"data": rows, "position": self.head})

    async def _logs(self, request: Request) -> Response:
        levels = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
        with self.lock:
            if missing := self._missing(request):
                return missing
            query = request.query_params
            lowest = levels.index(query.get("level", "DEBUG"))
            lines = [
                {
                    "version": raw.version,
                    "position": raw.position,
                    "timestamp": raw.occurred_at,
                    "level": event.level,
                    "logger": event.logger,
                    "message": event.message,
                }
                for event, raw in self.events
                if isinstance(event, LogWritten)
                and raw.stream == f"training-{request.path_params['id']}"
                and levels.index(event.level) >= lowest
                and query.get("q", "").lower() in event.message.lower()
                and raw.version < int(query.get("before", 1 << 60))
            ]
            return self._answer(request, {"data": lines[::-1][: int(query["limit"])], "position": self.head})

    def _refused(self, request: Request) -> Response | None:
        if self.refuse is None:
            return None
        reason, self.refuse = self.refuse, None
        return self._answer(request, {"title": "Refused", "detail": reason}, 409)

    async def _check(self, request: Request) -> Response:
        asked = (await request.json())["config"]
        return self._answer(request, {"problems": [], "warnings": [], "config": {**self.defaults, **asked}})

    async def _create(self, request: Request) -> Response:
        body = await request.json()
        if refused := self._refused(request):
            return refused
        self.created.append(body)
        config = msgspec.convert(body["config"], TrainingConfig)
        one = self.create(f"retry{len(self.created):09}", name=body["name"], config=config, retry_of=body["retry_of"])
        return self._answer(request, {"id": one, "position": self.head}, 201)

    async def _change(self, request: Request) -> Response:
        await asyncio.to_thread(self._free.wait, 30)
        one = request.path_params["id"]
        body = await request.json() if request.method == "PATCH" else None
        if answer := self._missing(request) or self._refused(request):
            return answer
        if body is not None and "tags" in body:
            self.set(one, tags=body["tags"])
            self.emit(one, TrainingTagged(tags=tuple(body["tags"])), stream="control", actor="user:ada")
            return self._answer(request, {**self.trainings[one], "position": self.head})
        if body is not None:
            self.set(one, **body)
            if "name" in body:
                self.emit(one, TrainingRenamed(name=body["name"]), stream="control", actor="user:ada")
            if "note" in body:
                self.emit(one, TrainingNoted(note=body["note"]), stream="control", actor="user:ada")
            return self._answer(request, {**self.trainings[one], "position": self.head})
        removed = tuple(row["path"] for row in self.checkpoints(one))
        deleted = TrainingDeleted(removed=removed, bytes_freed=6_370_000 * len(removed))
        self.emit(one, deleted, stream="control", actor="user:ada")
        with self.lock:
            del self.trainings[one]
        return self._answer(request, {"removed": removed, "bytes_freed": deleted.bytes_freed, "position": self.head})

    def checkpoints(self, training_id: str) -> list[dict[str, Any]]:
        """The checkpoints that exist, the newest step first."""
        found: dict[int, dict[str, Any]] = {}
        for event, raw in self.events:
            if not raw.stream.endswith(f"-{training_id}"):
                continue
            match event:
                case CheckpointSaved():
                    found[event.step] = {**msgspec.structs.asdict(event), "timestamp": raw.occurred_at}
                case CheckpointDeleted(step=step):
                    found.pop(step, None)
                case EvaluationMade(step=step, fvu=fvu) if step in found:
                    found[step]["evaluation_fvu"] = fvu
                case _:
                    pass
        evaluated = [row for row in found.values() if "evaluation_fvu" in row]
        if evaluated:
            min(evaluated, key=lambda row: row["evaluation_fvu"])["best"] = True
        return [found[step] for step in sorted(found, reverse=True)]

    async def _checkpoints(self, request: Request) -> Response:
        with self.lock:
            found = self.checkpoints(request.path_params["id"])
            return self._missing(request) or self._answer(request, {"data": found, "position": self.head})

    async def _evaluations(self, request: Request) -> Response:
        stream = f"training-{request.path_params['id']}"
        with self.lock:
            found = {
                (event.step, event.sae): {**msgspec.to_builtins(event), "timestamp": raw.occurred_at}
                for event, raw in self.events
                if isinstance(event, EvaluationMade) and raw.stream == stream
            }
            rows = [found[key] for key in sorted(found)]
            return self._missing(request) or self._answer(request, {"data": rows, "position": self.head})

    async def _delete_checkpoint(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        deleted = CheckpointDeleted(step=int(request.path_params["step"]), reason="request")
        self.emit(request.path_params["id"], deleted, stream="control", actor="user:ada")
        return self._answer(request, {"position": self.head})

    def deeds(self, wanted: Callable[[RawRecorded], bool], limit: int = 1 << 60) -> list[dict[str, Any]]:
        """What was done, the newest first."""
        found: list[dict[str, Any]] = []
        for event, raw in reversed(self.events):
            if raw.stream.startswith("training-") or not wanted(raw):
                continue
            id = raw.stream.removeprefix("control-")
            found.append(
                {
                    "position": raw.position,
                    "timestamp": raw.occurred_at,
                    "actor": raw.actor,
                    "stream": raw.stream,
                    "training": id,
                    "training_name": self.trainings.get(id, {}).get("name"),
                    "type": raw.type,
                    "data": msgspec.to_builtins(event),
                }
            )
        return found[:limit]

    async def _activity(self, request: Request) -> Response:
        stream = f"control-{request.path_params['id']}"
        with self.lock:
            found = self.deeds(lambda raw: raw.stream == stream, int(request.query_params["limit"]))
            return self._missing(request) or self._answer(request, {"data": found, "position": self.head})

    async def _everything_done(self, request: Request) -> Response:
        query = request.query_params
        before, actor = int(query.get("before", 1 << 60)), query.get("actor")
        with self.lock:
            found = self.deeds(lambda raw: raw.position < before and actor in (None, raw.actor), int(query["limit"]))
            actors = sorted({raw.actor for _, raw in self.events if raw.actor})
            return self._answer(request, {"data": found, "actors": actors, "position": self.head})

    async def _control(self, request: Request) -> Response:
        action = (await request.json())["action"]
        if self.refuse is not None:
            reason, self.refuse = self.refuse, None
            return self._answer(request, {"title": "Refused", "detail": reason}, 409)
        self.controls.append((request.path_params["id"], action))
        return self._answer(request, {"position": self.head}, 202)

    async def _follow(self, socket: WebSocket) -> None:
        await socket.accept()
        self.sockets.add(socket)
        query = socket.query_params
        position = self.head - int(query["tail"]) if "tail" in query else int(query["after"])
        if query.get("log_id", self.log_id) != self.log_id or position > self.head:
            await socket.close(CLOSE_OTHER_LOG)
            return
        encoder = msgspec.msgpack.Encoder()
        try:
            await socket.send_bytes(encoder.encode(Subscribed(log_id=self.log_id, after=position, head=self.head)))
            caught_up = False
            while True:
                with self.lock:
                    page = [raw for _, raw in self.events[position : position + 1000]]
                if page:
                    await socket.send_bytes(
                        encoder.encode(Events(events=[msgspec.Raw(encoder.encode(raw)) for raw in page]))
                    )
                    position = page[-1].position
                elif not caught_up:
                    caught_up = True
                    await socket.send_bytes(encoder.encode(CaughtUp(position=position)))
                else:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(socket.receive(), 0.02)
                        return
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            self.sockets.discard(socket)


@contextlib.contextmanager
def serving(application: Any, port: int = 0) -> Iterator[int]:
    """Serve an application on a loopback port until the block ends, when every connection is cut."""
    config = uvicorn.Config(
        application, port=port, log_level="error", ws="websockets-sansio", timeout_graceful_shutdown=0
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("The server did not start.")
            time.sleep(0.005)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(60)
