"""`saestudio rebuild` and `verify`: asked of the running server, done here where there is none."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from core import lock
from core.api import Api
from core.settings import Settings
from events.errors import EventLogError

from . import output
from .client import command, connected, data_dir, find_server, follow
from .failure import Failure

Show = Callable[[float], None]


Verified = dict[str, Any]
"""How a projection's table compares with what the log adds up to: `table`, `matches`, `rows`, `expected`."""


def rebuild(options: argparse.Namespace) -> int:
    """Make every projection anew from the log."""
    return _run(options, "rebuild")


def verify(options: argparse.Namespace) -> int:
    """See whether the log is whole, and compare every projection with one made anew; 1 where something differs."""
    return _run(options, "verify")


def _run(options: argparse.Namespace, name: str) -> int:
    with _bar(name, quiet=options.json) as show:
        if find_server(options) is None:
            verified = _here(Settings(data_dir=data_dir(options)), name, show)
        else:
            with connected(options) as api:
                verified = _asked(api, name, show)
    wrong = [
        f"{one['table']} ({one['rows']:,} rows, {one['expected']:,} expected)" for one in verified if not one["matches"]
    ]
    if options.json:
        output.print_json({"name": name, "matches": not wrong, "verified": verified} if verified else {"name": name})
    elif not verified:
        output.out().print("Every projection was made anew from the log.")
    elif broken := next((one["difference"] for one in verified if one["difference"]), None):
        output.out().print(f"The log itself is not whole: {broken}.", markup=False)
    elif not wrong:
        output.out().print(f"All {len(verified)} tables are what the log adds up to.")
    else:
        output.out().print(f"{len(wrong)} of {len(verified)} tables differ from the log: {', '.join(wrong)}.")
        output.out().print(f"{command('rebuild', data_dir(options))} makes them anew.", markup=False)
    return int(bool(wrong))


def _here(settings: Settings, name: str, show: Show) -> list[Verified]:
    """Do the job in this process, which holds the data directory meanwhile; what `verify` found, else nothing."""
    if not settings.database.exists():
        raise Failure(f"There is no log in {settings.data_dir}.")
    from events.store import EventStore
    from projections.runner import Projections

    def progress(done: int, total: int) -> None:
        show(done / total if total else 1.0)

    try:
        with lock.hold(settings), EventStore.open(settings.database, temp_directory=settings.temporary) as store:
            projections = Projections(store)
            projections.start()
            if name == "rebuild":
                projections.rebuild(progress=progress)
                return []
            found = projections.verify(progress=progress)
    except EventLogError as error:
        raise Failure(str(error)) from error
    return msgspec.to_builtins(found)


def _asked(api: Api, name: str, show: Show) -> list[Verified]:
    """Have the server do the job, following what it says about it; what `verify` found, else nothing."""
    after = api.get("maintenance")["position"]
    job = api.post(f"maintenance/{name}")
    for _ in follow(api, "maintenance", after=after):
        job = api.get(f"maintenance/{job['id']}")
        show(job["progress"])
        if job["status"] != "running":
            break
    if job["status"] != "completed":
        raise Failure(job["detail"])
    return job["verified"] or []


@contextmanager
def _bar(name: str, *, quiet: bool) -> Iterator[Show]:
    """A progress bar that is told shares of the whole; nothing if `quiet`."""
    if quiet:
        yield lambda share: None
        return
    columns = (TextColumn(name), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=output.err(), transient=True) as progress:
        task = progress.add_task(name, total=1.0)
        yield lambda share: progress.update(task, completed=share)
