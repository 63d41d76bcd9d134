"""`python -m core.server.sql_child --socket PATH --api URL --folder DIR`: answers SQL, in a process that may be lost.

It holds a replica in a file of its own and nothing else. Statements come from people; whatever one of them does to this
process, the log is elsewhere, and another process begins with what is in the file. The token is in SAESTUDIO_TOKEN.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec
import pyarrow as _pyarrow  # pyright: ignore[reportMissingTypeStubs]
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from core.fields import Problem
from events.client import ServerAddress
from projections import forms
from projections.ask import DatabaseFallen, Limits, Question
from projections.replica import Replica, ReplicaFailed
from projections.statements import StatementRefused

from . import problems
from .arrow import ARROW, MEDIA_TYPES, Pieces, encoded

pa: Any = _pyarrow

MEMORY = "1GB"
TEMPORARY = "4GB"
THREADS = 2
ADDRESS_SPACE = 4 << 30
"""Bytes that the process may map: DuckDB's own limit does not cover all of its functions."""

NICE = 15
PATIENCE = 5.0
"""Seconds that a question waits for the position that it asks for, or for the end of filling."""

NO_MEMORY = "The answer needs more memory than there is for it; ask for less."

OVERRUN = 3
"""Exit status of a process that one of its questions would not leave."""

_logger = logging.getLogger("core.server.sql_child")
_encoder = msgspec.json.Encoder(enc_hook=str, decimal_format="number")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A question as the server passes it on; `head` is the log's at that moment."""

    statement: str
    parameters: list[Any] | dict[str, Any]
    format: Literal["json", "arrow", "csv", "parquet"]
    rows: int
    size: int
    seconds: float
    after: int
    head: int


class _Database:
    """The replica, once it is open."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica

    async def ask(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=Asked)
        if (away := await self._awaited(asked)) is not None:
            return away
        limits = Limits(rows=asked.rows, size=asked.size, seconds=asked.seconds)
        question = Question(self.replica, asked.statement, asked.parameters, limits, _overrun)
        try:
            answer = await _unless_gone(request, question, self._answer(asked, question))
        except StatementRefused as refused:
            question.close()
            return _refused(str(refused))
        except MemoryError:
            question.close()
            return _refused(NO_MEMORY)
        except DatabaseFallen as error:
            _fallen(error)
        except BaseException:
            question.close()
            raise
        return answer

    async def _awaited(self, asked: Asked) -> Response | None:
        """None once the replica may be asked; else why not yet."""
        replica = self.replica
        if await asyncio.to_thread(replica.wait, asked.after, PATIENCE):
            return None
        standing = replica.standing
        if standing.ready:
            said = f"The SQL database has come to position {standing.position:,} and not yet to {asked.after:,}."
        else:
            said = f"The SQL database is rebuilding, {standing.share:.0%}; the log is not affected."
        return problems.response(503, said, headers={"Retry-After": "1"})

    async def _answer(self, asked: Asked, question: Question) -> Response:
        began = time.monotonic()
        await asyncio.to_thread(question.begin)
        if asked.format == "arrow":
            return _Streamed(question, _arrow(question, asked.head), ARROW)
        if asked.format != "json":
            return _Streamed(question, _file(question, asked.format), MEDIA_TYPES[asked.format])
        rows = await asyncio.to_thread(_rows, question)
        body = {
            "columns": [{"name": name, "type": kind} for name, kind in question.columns],
            "data": rows,
            "rows": question.rows,
            "cut": question.cut,
            "position": question.position,
            "head": max(asked.head, question.position),
            "seconds": round(time.monotonic() - began, 4),
        }
        content = await asyncio.to_thread(_encoder.encode, body)
        question.close()
        return Response(content, media_type="application/json")


def _refused(sentence: str) -> Response:
    return problems.response(422, sentence, [Problem("statement", sentence)])


async def _unless_gone(request: Request, question: Question, answering: Any) -> Response:
    """The answer, unless the client goes before: then the question is given up."""
    answer = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_gone(request))
    await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
    if not answer.done():
        question.give_up()
    gone.cancel()
    return await answer


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Streamed(StreamingResponse):
    """An answer, a piece at a time, each made in a thread when the one before has been taken."""

    def __init__(self, question: Question, pieces: Iterator[bytes], media_type: str) -> None:
        super().__init__(self._made(pieces), media_type=media_type)
        self._question = question
        self._working: asyncio.Future[bytes | None] | None = None

    async def _made(self, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        while True:
            self._working = asyncio.ensure_future(asyncio.to_thread(next, pieces, None))
            # The thread goes on where this is cancelled.
            piece = await asyncio.shield(self._working)
            if piece is None:
                return
            if piece:
                yield piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not in the body's iterator: it is never begun where the client has gone meanwhile.
        try:
            await super().__call__(scope, receive, send)
        except (StatementRefused, pa.ArrowException) as refused:
            # The form has no place for a sentence; a file without its end is the only sign that there is.
            _logger.info("An answer ends before its end: %s", refused)
        except DatabaseFallen as error:
            _fallen(error)
        finally:
            self._question.give_up()
            if self._working is None or self._working.done():
                self._question.close()
            else:
                self._working.add_done_callback(self._left)

    def _left(self, working: asyncio.Future[bytes | None]) -> None:
        """The thread has noticed that nobody waits any more."""
        working.exception()
        self._question.close()


def _fallen(error: DatabaseFallen) -> NoReturn:
    _logger.error("The database has fallen: %s", error)
    os._exit(1)


def _arrow(question: Question, head: int) -> Iterator[bytes]:
    metadata = {"position": str(question.position), "head": str(max(head, question.position))}
    schema = question.schema.with_metadata(metadata)

    def batches() -> Iterator[Any]:
        error = None
        try:
            for batch in question.batches():
                yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
        except StatementRefused as refused:
            error = str(refused)
        except MemoryError:
            error = NO_MEMORY
        # What is known at the end only comes with a last batch, without rows.
        end = {"rows": str(question.rows)}
        end |= {name: said for name, said in (("cut", question.cut), ("error", error)) if said}
        yield pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema), end

    return encoded(schema, batches())


def _file(question: Question, form: forms.Form) -> Iterator[bytes]:
    """The pieces of a file that cannot say that rows are missing: where some are, it has no end."""
    pieces = Pieces()
    try:
        writer = forms.Writer(form, question.schema, pieces)
    except (forms.Unfit, pa.ArrowException) as error:
        raise StatementRefused(str(error)) from error

    def made() -> Iterator[bytes]:
        for batch in question.batches():
            writer.write(batch)
            yield pieces.take()
        if question.cut is not None:
            raise StatementRefused(question.cut)
        writer.close()
        yield pieces.take()

    return made()


def _rows(question: Question) -> list[list[Any]]:
    rows: list[list[Any]] = []
    try:
        for batch in question.batches():
            rows += map(list, zip(*(column.to_pylist() for column in batch.columns), strict=True))
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise StatementRefused(
            f"The answer has a value that JSON cannot show; cast it to VARCHAR ({error})."
        ) from error
    return rows


def _overrun() -> None:
    _logger.error("A question did not end when it was told to; this process ends, and another takes its place.")
    os._exit(OVERRUN)


def _limit() -> None:
    """What this process may take from its machine."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICE)
    with contextlib.suppress(OSError):
        # Where memory runs out, this one goes before a trainer and before the server.
        Path("/proc/self/oom_score_adj").write_text("1000")


def _opened(address: ServerAddress, folder: Path) -> Replica:
    """The replica in the folder; one that cannot be used is made anew, for nothing is in it that is not in the log."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = {
        "memory_limit": MEMORY,
        "threads": THREADS,
        "temp_directory": str(folder / "tmp"),
        "max_temp_directory_size": TEMPORARY,
        "autoload_known_extensions": False,
        "autoinstall_known_extensions": False,
        "allow_community_extensions": False,
    }
    try:
        return Replica(address, folder / "replica.duckdb", config=config, sealed=True)
    except ReplicaFailed as error:
        _logger.warning("The replica is made anew: %s", error)
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        return Replica(address, folder / "replica.duckdb", config=config, sealed=True)


async def _serve(socket: Path, address: ServerAddress, folder: Path) -> int:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: None if os.read(sys.stdin.fileno(), 4096) else over.set())
    replica = (await asyncio.to_thread(_opened, address, folder)).start()
    failed = asyncio.create_task(asyncio.to_thread(_failure, replica))
    app = Starlette(routes=[Route("/", _Database(replica).ask, methods=["POST"])])
    config = uvicorn.Config(app, uds=str(socket), lifespan="off", log_config=None, access_log=False, http="h11")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    ended = asyncio.create_task(over.wait())
    await asyncio.wait((serving, failed, ended), return_when=asyncio.FIRST_COMPLETED)
    loop.remove_reader(sys.stdin)
    if failed.done():
        _logger.error("%s", failed.result())
    # Questions that still run are nobody's any more, and some do not end when they are told to.
    os._exit(1 if failed.done() else 0)


def _failure(replica: Replica) -> str:
    """Waits until the replica cannot go on; the reason."""
    while True:
        try:
            replica.wait(2**63, 3600)
        except ReplicaFailed as error:
            return str(error)


def main() -> None:
    """Answer until standard input closes."""
    parser = argparse.ArgumentParser(prog="python -m core.server.sql_child", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="the Unix socket to answer on")
    parser.add_argument("--api", required=True, help="the URL of SAE Studio's server")
    parser.add_argument("--folder", type=Path, required=True, help="where the database lies")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _limit()
    address = ServerAddress(arguments.api, os.environ.pop("SAESTUDIO_TOKEN", None))
    asyncio.run(_serve(arguments.socket, address, arguments.folder))


if __name__ == "__main__":
    main()
