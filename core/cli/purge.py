"""`saestudio purge`: removes deleted trainings' events and files for good."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from core import lock
from core.data_format import bring_up_to_date
from core.settings import Settings
from events.errors import EventLogError

from . import output
from .client import command, data_dir, find_server
from .failure import Failure


def purge(options: argparse.Namespace) -> int:
    """Write the log anew without the events of these trainings, and remove their folders."""
    settings = Settings(data_dir=data_dir(options))
    if not settings.database.exists():
        raise Failure(f"There is no log in {settings.data_dir}.")
    if find_server(options) is not None:
        raise Failure(
            f"A server has the log open. End it with {command('down', settings.data_dir)} first; trainings go on"
            " without it."
        )
    try:
        with lock.hold(settings):
            bring_up_to_date(settings, lambda sentence: output.err().print(sentence, markup=False))
            return _purge(options, settings)
    except EventLogError as error:
        raise Failure(str(error)) from error


def _purge(options: argparse.Namespace, settings: Settings) -> int:
    from core.server.access import user_actor
    from core.server.files import remove_tree
    from core.server.journal import Journal
    from events import rewrite
    from events.spool import is_held
    from events.store import EventStore
    from projections.runner import Projections

    with EventStore.open(settings.database, temp_directory=settings.temporary) as store:
        with output.bar("projections", quiet=options.json) as show:
            Projections(store).start(output.share(show))
        trainings = _deleted(store, list(dict.fromkeys(options.ids)))
        # Only what lies in the file itself can be left out of it, and out of the journal.
        if not store.checkpoint().result():
            raise Failure("The log's file cannot be brought up to date now; try again when the disk has space.")
        Journal(settings.journal).trim(store)
    for training in trainings:
        if is_held(settings.run_folder(training)):
            raise Failure(f"A trainer still has the folder of training {training} open; end it first.")
    if not options.yes and not _confirmed(trainings):
        raise Failure("Nothing was purged.")
    purges = [
        rewrite.Purge(training, _size(settings.run_folder(training)), user_actor(os.geteuid()))
        for training in trainings
    ]
    before = settings.database.stat().st_size
    with output.bar("purge", quiet=options.json) as show:
        events = rewrite.rewrite(settings.database, output.share(show), purges=purges)
    freed = sum(remove_tree(settings.run_folder(each)) for each in trainings if settings.run_folder(each).exists())
    freed += max(0, before - settings.database.stat().st_size)
    with (
        output.bar("projections", quiet=options.json) as show,
        EventStore.open(settings.database, temp_directory=settings.temporary) as store,
    ):
        Projections(store).start(output.share(show))
    if options.json:
        output.print_json({"purged": trainings, "events": events, "bytes_freed": freed})
        return 0
    output.out().print(f"Purged {', '.join(trainings)}: {events:,} events, {freed / 1e6:,.1f} MB.", markup=False)
    kept = sorted((settings.data_dir / "backups").glob("*"))
    if kept:
        output.out().print(f"Backups still hold what was purged: {', '.join(map(str, kept))}.", markup=False)
    return 0


def _deleted(store: object, ids: list[str]) -> list[str]:
    """The trainings' whole ids. Raises `Failure` for one that is not there or not deleted."""
    from events.store import EventStore
    from projections.trainings import state

    assert isinstance(store, EventStore)
    found: list[str] = []
    with store.reading() as con:
        for id in ids:
            training = state(con, id)
            if training is None:
                raise Failure(f"There is no training {id} in the log (a purge wants the whole id).")
            if not training.deleted:
                raise Failure(f"Training {id} is not deleted. Delete it first; then it can be purged.")
            found.append(id)
    return found


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _confirmed(trainings: list[str]) -> bool:
    if not sys.stdin.isatty():
        raise Failure("A purge cannot be undone; without a terminal it wants --yes.")
    question = f"Remove {', '.join(trainings)} for good? What was purged cannot be brought back. [y/N] "
    output.err().print(question, markup=False, end="")
    return input().strip().lower() in ("y", "yes")
