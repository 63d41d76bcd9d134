"""`saestudio salvage`: sets a damaged log aside and begins a new one with what can be read of it."""

from __future__ import annotations

import argparse
import time

import msgspec

from core import lock
from core.settings import Settings
from events.errors import EventLogError

from . import output
from .client import command, data_dir
from .failure import Failure


def salvage(options: argparse.Namespace) -> int:
    """Set the damaged log aside, and put what can be read of it into a new one."""
    settings = Settings(data_dir=data_dir(options))
    if not settings.database.exists():
        raise Failure(f"There is no log in {settings.data_dir}.")
    from core.server.journal import Journal
    from events import salvage
    from events.store import EventStore

    aside = settings.data_dir / "damaged" / time.strftime("%Y-%m-%d-%H%M%S")
    try:
        with lock.hold(settings):
            with output.bar("salvage", quiet=options.json) as show:
                salvaged = salvage.salvage(settings.database, aside, output.share(show))
            with EventStore.open(settings.database, temp_directory=settings.temporary) as store:
                restored = Journal(settings.journal).restore(store)
    except EventLogError as error:
        raise Failure(str(error)) from error
    if options.json:
        output.print_json({**msgspec.to_builtins(salvaged), "restored": restored})
        return 0
    out = output.out()
    out.print(f"The log was damaged: {salvaged.damage}", markup=False)
    out.print(
        f"{salvaged.read:,} events of at least {salvaged.reached:,} could be read and are in a new log"
        + (f", with {restored:,} more of the server's own" if restored else "")
        + f"; {salvaged.aside} keeps the damaged files.",
        markup=False,
    )
    out.print(
        f"{command('up', settings.data_dir)} goes on with it and takes in what trainers still hold.", markup=False
    )
    return 0
