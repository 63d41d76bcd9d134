"""Where a server listens and where its files lie."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_PORT = 8420
DEFAULT_DATA_DIR = Path("saestudio-data")


@dataclass(frozen=True)
class Settings:
    """How one server runs, and the layout of its data directory.

    `slots` is how many trainings may run at once (None: one a device). `port` 0 takes any free one. `ui` False serves
    the API alone.
    """

    data_dir: Path = field(default_factory=lambda: DEFAULT_DATA_DIR)
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    slots: int | None = None
    ui: bool = True

    def __post_init__(self) -> None:
        # Trainers outlive the server and its working directory.
        object.__setattr__(self, "data_dir", Path(self.data_dir).expanduser().absolute())
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must be between 0 and 65535, not {self.port}.")
        if self.slots is not None and self.slots < 1:
            raise ValueError(f"slots must be at least 1, not {self.slots}.")

    @property
    def database(self) -> Path:
        """The log's DuckDB file."""
        return self.data_dir / "log.duckdb"

    @property
    def format_file(self) -> Path:
        """Which format this directory is in."""
        return self.data_dir / "format"

    @property
    def journal(self) -> Path:
        """What the server itself has appended, a second time."""
        return self.data_dir / "journal.jsonl"

    @property
    def lock(self) -> Path:
        """Held by the one process that may open the log; names its holder."""
        return self.data_dir / "lock"

    @property
    def server_file(self) -> Path:
        """How trainers and commands find the running server."""
        return self.data_dir / "server.json"

    @property
    def token_file(self) -> Path:
        return self.data_dir / "token"

    @property
    def trainings(self) -> Path:
        """One run folder a training."""
        return self.data_dir / "trainings"

    def new_backup(self) -> Path:
        """Where a backup goes that is made now and given no other place."""
        return self.data_dir / "backups" / time.strftime("%Y-%m-%d-%H%M%S")

    @property
    def temporary(self) -> Path:
        return self.data_dir / "tmp"

    @property
    def exports(self) -> Path:
        """Exports while they are sent."""
        return self.data_dir / "exports"

    @property
    def sql(self) -> Path:
        """What the process that answers SQL keeps; all of it is made anew where it is missing."""
        return self.data_dir / "sql"

    @property
    def server_log(self) -> Path:
        """What a detached server and its children print."""
        return self.data_dir / "server.log"

    def run_folder(self, training_id: str) -> Path:
        return self.trainings / training_id
