"""Which format a data directory is in: a newer program's is refused, an older one's is brought up to date.

The file `format` holds the number, so that a program can tell without opening the log. A directory from before there
was such a file says it by its log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from events import backup, rewrite
from events.errors import LogUnavailable
from events.tables import FORMAT

from .run import write_atomically
from .settings import Settings

Say = Callable[[str], None]
Progress = Callable[[int, int], None]


class NewerFormat(LogUnavailable):
    """The data directory was written by a newer program; nothing in it was touched."""


def check(settings: Settings) -> int | None:
    """The number that the directory says it is in; None where it does not say.

    Raises `NewerFormat` where that is a format which this program does not know.
    """
    try:
        found = settings.format_file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise LogUnavailable(f"{settings.format_file} cannot be read: {error}.") from error
    if not found.isdigit():
        raise LogUnavailable(f"{settings.format_file} holds {found[:40]!r}, which is no number of a format.")
    return _known(settings.data_dir, int(found))


def bring_up_to_date(settings: Settings, say: Say, progress: Progress = lambda done, total: None) -> None:
    """Afterwards the directory is in this program's format. The caller holds its lock; nobody has the log open.

    The log is copied into `backups/` before it is changed, and swapped when the new one was compared with it; whatever
    ends the process before leaves the old one. Raises `NewerFormat`, and `LogUnavailable` where that fails.
    """
    ours = int(FORMAT)
    if check(settings) == ours:
        return
    database = settings.database
    if database.exists():
        found = _known(database, rewrite.format_of(database))
        if found < ours:
            folder = settings.data_dir / "backups" / f"before-format-{ours}-{time.strftime('%Y-%m-%d-%H%M%S')}"
            say(f"The log is brought from format {found} to {ours}; {folder} keeps it as it was.")
            backup.make(_Closed(database), folder, progress)
            rewrite.rewrite(database, progress)
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(settings.format_file, f"{ours}\n".encode())


def _known(what: Path, number: int) -> int:
    if number > int(FORMAT):
        raise NewerFormat(
            f"{what} is in format {number}, written by a newer SAE Studio; this one knows formats up to {FORMAT}. Use"
            " the newer program, or another data directory. Nothing was changed."
        )
    return number


class _Closed:
    """A log that nobody has open, as a backup wants it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with duckdb.connect(str(path)) as con:
                con.execute("CHECKPOINT")
                (self.log_id,) = con.execute("SELECT value FROM log_meta WHERE key = 'log_id'").fetchone() or ("",)
                (self._head,) = con.execute("SELECT coalesce(max(position), 0) FROM events").fetchone() or (0,)
        except duckdb.Error as error:
            raise LogUnavailable(f"The log {path} cannot be read: {str(error).partition(chr(10))[0]}") from error

    @contextmanager
    def frozen(self) -> Generator[int]:
        yield self._head
