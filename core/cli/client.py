"""How commands reach a server: the data directory, its server, and refusals turned into failures."""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.api import Api, RequestRefused, ServerUnreachable, find_address
from core.settings import DEFAULT_DATA_DIR
from events.client import Follower, FollowRefused, LogReplaced, ServerAddress
from events.event import Recorded

from .failure import Failure


def data_dir(options: argparse.Namespace) -> Path:
    """The data directory that the command line, the environment or the default names, as an absolute path."""
    chosen = options.data_dir or Path(os.environ.get("SAESTUDIO_DATA_DIR") or DEFAULT_DATA_DIR)
    return chosen.expanduser().absolute()


def find_server(options: argparse.Namespace) -> ServerAddress | None:
    """The server that the command line or the data directory names; None where there is none to be found."""
    with failures():
        return find_address(data_dir(options), server=options.server, token_file=options.token_file)


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


async def follow(
    api: Api, training_id: str, *, after: int, types: Sequence[str] | None = None
) -> AsyncIterator[Recorded]:
    """What happens to a training after a position: its facts and the server's decisions, in order, for ever."""
    follower = Follower(
        api.address.url,
        token=api.address.token,
        log_id=api.address.log_id,
        after=after,
        stream=(f"training-{training_id}", f"control-{training_id}"),
        types=types,
    )
    try:
        async for recorded in follower:
            yield recorded
    except LogReplaced as error:
        raise Failure("The server's log was replaced by another one meanwhile; run the command again.") from error


def no_server(folder: Path) -> str:
    """The sentence for a data directory without a server."""
    return f"No server runs on {folder}; start one with {command('up', folder)}."


def command(words: str, folder: Path) -> str:
    """A command as one would type it, with the data directory where it is not the default one."""
    named = "" if folder == DEFAULT_DATA_DIR.absolute() else f" --data-dir {_quoted(folder)}"
    return f"'saestudio {words}{named}'"


def _quoted(folder: Path) -> str:
    import shlex

    return shlex.quote(str(folder))
