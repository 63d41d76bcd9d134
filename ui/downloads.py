"""What the dashboard serves beside its page: runs in one file, made by a child process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import sys
from typing import Any
from urllib.parse import quote

from tornado.web import RequestHandler

from .export import EXITS
from .gateway import ApiError, Gateway
from .state.compare_asked import Asked

logger = logging.getLogger(__name__)

_AT_ONCE = asyncio.Semaphore(2)
"""So many files are made at the same time; others wait."""

_LONGEST = 120.0
"""Seconds after which a file that is still not made is given up."""


class ExportHandler(RequestHandler):
    """`GET export.html?training=ID,ID…`: the runs' file, to be kept. `ui.export` says what an id may look like."""

    def initialize(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def get(self) -> None:
        ids = self.get_query_argument("training", "").split(",")
        if not any(ids):
            self._refuse(400, "No training was named.")
            return
        async with _AT_ONCE:
            status, file, said = await _made(self._gateway, ids)
        if status != 200:
            self._refuse(status, said)
            return
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Disposition", await self._kept_as(ids))
        self.set_header("Cache-Control", "no-store")
        self.finish(file)

    async def _kept_as(self, ids: list[str]) -> str:
        once = set(Asked.of({"ids": ",".join(ids)}).ids.values())
        name = f"{len(once)} runs"
        if len(once) == 1:
            [name] = once
            with contextlib.suppress(ApiError):
                training, _ = await self._gateway.training(name)
                name = training.name or training.id
        plain = re.sub(r"[^A-Za-z0-9._ -]+", "_", name).strip("._ ")[:100] or "training"
        return f"attachment; filename=\"{plain}.html\"; filename*=UTF-8''{quote(name[:100], safe='')}.html"

    def _refuse(self, status: int, sentence: str) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(sentence + "\n")

    def data_received(self, chunk: bytes) -> Any:
        """Nothing is sent to this."""


async def _made(gateway: Gateway, ids: list[str]) -> tuple[int, bytes, str]:
    """The answer's HTTP status, the file, and why there is none."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "ui.export",
        "--api",
        gateway.url,
        "--",
        *ids,
        env={**os.environ, **({"SAESTUDIO_TOKEN": gateway.token} if gateway.token else {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        file, said = await asyncio.wait_for(process.communicate(), _LONGEST)
    except TimeoutError:
        return 504, b"", f"The file took longer to make than the {_LONGEST:.0f} s that it may."
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return outcome(process.returncode, file, said.decode("utf-8", "replace"))


def outcome(code: int, file: bytes, said: str) -> tuple[int, bytes, str]:
    """What a child's end means: an HTTP status, the file, and the sentence for who has asked."""
    if code == 0:
        return 200, file, ""
    status = next((status for status, exit in EXITS.items() if exit == code), 500)
    lines = said.strip().splitlines()
    if status != 500 and lines:
        return status, b"", lines[-1]
    logger.error("Making a file of runs ended with status %d: %s", code, said)
    return 500, b"", "The file could not be made because of a fault of the dashboard's; its log says more."
