"""How commands reach a server: the data directory, its server, and refusals turned into failures."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.api import Api, RequestRefused, ServerUnreachable, find_address
from core.settings import DEFAULT_DATA_DIR, Settings
from events.client import Follower, FollowRefused, LogReplaced, ServerAddress
from events.errors import EventLogError, LogDamaged
from events.event import Recorded
from events.streams import CONTROL, TRAINING

from .failure import Failure


def data_dir(options: argparse.Namespace) -> Path:
    """The data directory that the command line, the environment or the default names, as an absolute path."""
    chosen = options.data_dir or Path(os.environ.get("SAESTUDIO_DATA_DIR") or DEFAULT_DATA_DIR)
    return chosen.expanduser().absolute()


def prepared(settings: Settings) -> Settings:
    """The settings, once their data directory is there. Raises `Failure` where it cannot be made or written to."""
    folder = settings.data_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"The data directory {folder} cannot be made: {error.strerror}.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Failure(f"The data directory {folder} cannot be written to by this user.")
    from core.data_format import check

    try:
        check(settings)
    except EventLogError as error:
        raise Failure(str(error)) from error
    return settings


def run_folder(settings: Settings, wanted: str) -> Path:
    """The one run folder here whose name begins with `wanted`. Raises `Failure`."""
    folders = settings.trainings.iterdir() if settings.trainings.is_dir() else ()
    found = sorted(folder for folder in folders if folder.name.startswith(wanted.lower()))
    if len(found) == 1:
        return found[0]
    if not found:
        raise Failure(f"No training's id begins with {wanted!r} in {settings.trainings}.")
    raise Failure(f"{len(found)} trainings' ids begin with {wanted!r}: {', '.join(path.name for path in found[:5])}.")


def find_server(options: argparse.Namespace) -> ServerAddress | None:
    """The server that the command line names, else the one that runs on the data directory; None where none does."""
    with failures():
        if options.server is not None:
            return find_address(data_dir(options), server=options.server, token_file=options.token_file)
        return running_server(data_dir(options), options.token_file)


def running_server(folder: Path, token_file: Path | None = None) -> ServerAddress | None:
    """The server that runs on a data directory; None where none answers: one that was killed leaves its address."""
    address = find_address(folder, token_file=token_file)
    if address is None:
        return None
    try:
        with Api(address, timeout=10) as api:
            api.get("/healthz")
    except ServerUnreachable:
        return None
    return address


@contextmanager
def connected(options: argparse.Namespace) -> Iterator[Api]:
    """A client of the server in question. What the server refuses inside the block becomes a `Failure`."""
    address = find_server(options)
    if address is None:
        raise Failure(no_server(data_dir(options)))
    with failures(), Api(address) as api:
        yield api


@contextmanager
def failures() -> Iterator[None]:
    """Turns what the API client raises inside the block into a `Failure`."""
    try:
        yield
    except ServerUnreachable as error:
        raise Failure(str(error)) from error
    except RequestRefused as error:
        # One field's sentence is the whole sentence already.
        raise Failure(str(error), problems=error.problems if len(error.problems) > 1 else ()) from error
    except FollowRefused as error:
        raise Failure(str(error)) from error


def follow(
    api: Api, *streams: str, after: int, types: Sequence[str] | None = None, seconds: float | None = None
) -> Iterator[Recorded]:
    """What is recorded in some streams after a position, in order, for ever or for so many seconds."""
    follower = Follower(
        api.address.url,
        token=api.address.token,
        log_id=api.address.log_id,
        after=after,
        stream=streams,
        types=types,
    )
    alarm = threading.Timer(seconds, follower.close) if seconds is not None else None
    if alarm is not None:
        alarm.daemon = True
        alarm.start()
    try:
        yield from follower
    except LogReplaced as error:
        raise Failure("The server's log was replaced by another one meanwhile; run the command again.") from error
    finally:
        if alarm is not None:
            alarm.cancel()


def streams_of(training_id: str) -> tuple[str, str]:
    """The streams of a training: its facts and the server's decisions."""
    return TRAINING + training_id, CONTROL + training_id


def no_server(folder: Path) -> str:
    """The sentence for a data directory without a server."""
    return f"No server runs on {folder}; start one with {command('up', folder)}."


def damaged(error: LogDamaged, settings: Settings) -> Failure:
    """What a damaged log can be met with."""
    salvage, restore = (command(words, settings.data_dir) for words in ("salvage", "restore FOLDER"))
    return Failure(
        f"{str(error).rstrip('.')}. Nothing was changed. {salvage} sets it aside and begins a new log with what can be"
        f" read of it; after that, {restore} would bring a backup back into an empty data directory."
    )


def command(words: str, folder: Path) -> str:
    """A command as one would type it here, with the data directory where it is not the default one."""
    named = "" if folder == DEFAULT_DATA_DIR.absolute() else f" --data-dir {shlex.quote(str(folder))}"
    return f"'{program()} {words}{named}'"


def program(name: str = "saestudio") -> str:
    """A program of this installation as one would type it here: by its name where that is found, else by its path."""
    path = Path(sys.prefix) / "bin" / name
    if not path.exists() or shutil.which(name) == str(path):
        return name
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
