"""`saestudio rebuild`, `verify` and `backup`: asked of the running server, done here where there is none. `restore`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from core import lock
from core.api import Api
from core.data_format import bring_up_to_date
from core.settings import Settings
from events import backup as backups
from events.errors import EventLogError, LogDamaged

from . import output
from .client import command, connected, damaged, data_dir, find_server, follow
from .failure import Failure

if TYPE_CHECKING:
    from events.store import EventStore

Verified = dict[str, Any]
"""How a projection's table compares with what the log adds up to: `table`, `matches`, `rows`, `expected`."""


def rebuild(options: argparse.Namespace) -> int:
    """Make every projection anew from the log."""
    return _run(options, "rebuild")


def verify(options: argparse.Namespace) -> int:
    """See whether the log is whole, and compare every projection with one made anew; 1 where something differs."""
    return _run(options, "verify")


def backup(options: argparse.Namespace) -> int:
    """Copy the log into a new folder, whole and with its hash."""
    folder: Path | None = options.folder
    wanted = {"folder": str(folder.absolute())} if folder is not None else {}
    with output.bar("backup", quiet=options.json) as show:
        if find_server(options) is not None:
            with connected(options) as api:
                job = _asked(api, "backup", show, wanted)
            where, made = job["folder"], job["manifest"]
        else:
            settings = Settings(data_dir=data_dir(options))
            where = wanted.get("folder") or str(settings.new_backup())
            with _log(settings) as store:
                made = msgspec.to_builtins(backups.make(store, Path(where), output.share(show)))
    if options.json:
        output.print_json({"folder": where, **made})
    else:
        output.out().print(f"{where} holds the log up to position {made['position']:,}.", markup=False)
    return 0


def restore(options: argparse.Namespace) -> int:
    """Put a backup into a data directory that has no log; it begins a new incarnation of the log there."""
    settings = Settings(data_dir=data_dir(options))
    try:
        with output.bar("restore", quiet=options.json) as show, lock.hold(settings):
            manifest = backups.restore(options.folder.absolute(), settings.database, output.share(show))
            # The backup may be in an older format than this directory was: the log itself says which.
            settings.format_file.unlink(missing_ok=True)
    except EventLogError as error:
        raise Failure(str(error)) from error
    if options.json:
        output.print_json({"data_dir": str(settings.data_dir), **msgspec.to_builtins(manifest)})
    else:
        output.out().print(
            f"{settings.data_dir} holds the log up to position {manifest.position:,}."
            f" {command('up', settings.data_dir)} goes on with it; followers of the old one start again.",
            markup=False,
        )
    return 0


def _run(options: argparse.Namespace, name: str) -> int:
    with output.bar(name, quiet=options.json) as show:
        if find_server(options) is None:
            verified = _here(Settings(data_dir=data_dir(options)), name, show)
        else:
            with connected(options) as api:
                verified = _asked(api, name, show)["verified"] or []
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


def _here(settings: Settings, name: str, show: output.Show) -> list[Verified]:
    """Do the job in this process, which holds the data directory meanwhile; what `verify` found, else nothing."""
    from projections.runner import Projections

    with _log(settings) as store:
        projections = Projections(store)
        projections.start()
        if name == "rebuild":
            projections.rebuild(progress=output.share(show))
            return []
        return msgspec.to_builtins(projections.verify(progress=output.share(show)))


@contextmanager
def _log(settings: Settings) -> Iterator[EventStore]:
    """The log of a data directory that this process holds meanwhile."""
    if not settings.database.exists():
        raise Failure(f"There is no log in {settings.data_dir}.")
    from events.store import EventStore

    try:
        with lock.hold(settings):
            bring_up_to_date(settings, lambda sentence: output.err().print(sentence, markup=False))
            with EventStore.open(settings.database, temp_directory=settings.temporary) as store:
                yield store
    except LogDamaged as error:
        raise damaged(error, settings) from error
    except EventLogError as error:
        raise Failure(str(error)) from error


def _asked(api: Api, name: str, show: output.Show, wanted: dict[str, Any] | None = None) -> dict[str, Any]:
    """Have the server do the job, following what it says about it; the job as it ended."""
    after = api.get("maintenance")["position"]
    job = api.post(f"maintenance/{name}", wanted)
    for _ in follow(api, "maintenance", after=after):
        job = api.get(f"maintenance/{job['id']}")
        show(job["progress"])
        if job["status"] != "running":
            break
    if job["status"] != "completed":
        raise Failure(job["detail"])
    return job
