"""kill -9 of a process that appends: what was acknowledged is in the log, once, without holes, and so is its fold."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from events.errors import DataDirectoryInUse
from events.store import EventStore
from events.training import StepTrained

pytestmark = pytest.mark.crash

ROOT = Path(__file__).parents[2]

WRITER = """
import collections, random, sys, threading
from pathlib import Path
from events.log import LogWritten
from events.store import Append, EventStore
from events.training import StepTrained

path, seed, broken = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "broken"
random.seed(seed)
# Checkpoints often, so that some are killed.
store = EventStore.open(path, wal_limit=100_000, idle=0.02)

def count(con, batch):
    con.execute("create table if not exists counts (events ubigint)")
    con.execute("insert into counts values (?)", [len(batch)])
    con.execute("create table if not exists total as select 0::ubigint as events")
    con.execute("update total set events = events + ?", [len(batch)])

def position(con):
    tables = [row[0] for row in con.execute("select table_name from duckdb_tables()").fetchall()]
    return con.execute("select events from total").fetchone()[0] if "total" in tables else 0

folded = store.transact(position).result()
while not store.install(count, folded).result():
    pass
stream = "training-0123456789abcd"
epoch = store.claim(stream).result().epoch
sent = store.version(stream)
waiting = collections.deque()
if broken:
    store.transact(lambda con: threading.Event().wait())

def step(n):
    return StepTrained(step=n, loss=n, loss_reconstruction=0, l0=0, l0_fraction=0, fvu=0, learning_rate=0,
                       grad_norm=0, tokens=n, tokens_per_second=0)

print("begun", flush=True)
while True:
    events = [step(sent + n) if random.random() < 0.9 else LogWritten(level="INFO", logger="x", message=str(sent + n))
              for n in range(1, random.randint(1, 400) + 1)]
    appends = [Append(stream, events, expected=sent, epoch=epoch)]
    if random.random() < 0.3:
        appends.append(Append("catalog", [LogWritten(level="INFO", logger="x", message="y")]))
    sent += len(events)
    waiting.append((sent, store.append(*appends)))
    if broken:
        print(sent, flush=True)
    elif len(waiting) > 4:
        version, future = waiting.popleft()
        future.result()
        print(version, flush=True)
"""


def killed(path: Path, seed: int, acknowledgements: int, mode: str = "whole") -> int:
    """Runs the writer, kills it after so many acknowledgements, and returns the last version that it acknowledged."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(seed), mode], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == "begun\n"
        heard = [int(writer.stdout.readline()) for _ in range(acknowledgements)]
        with pytest.raises(DataDirectoryInUse):
            EventStore.open(path)
    finally:
        writer.kill()
        rest = writer.stdout.read()
        writer.wait()
        writer.stdout.close()
    # A line that was cut by the kill is no acknowledgement.
    return max([*heard, *map(int, rest[: rest.rfind("\n") + 1].split())], default=0)


def check(path: Path, acknowledged: int) -> tuple[int, int]:
    """Head and version of a log that is whole and holds what was acknowledged."""
    stream = "training-0123456789abcd"
    with EventStore.open(path, idle=3_600) as store:
        assert store.lost is None
        assert store.version(stream) >= acknowledged
        head, version = store.head, store.version(stream)
        positions: list[int] = []
        versions: dict[str, list[int]] = {}
        for batch in store.read_batches(0):
            for each in batch.events():
                positions.append(each.position)
                versions.setdefault(each.stream, []).append(each.version)
                if isinstance(each.data, StepTrained):
                    assert each.data.step == each.version
        assert positions == list(range(1, head + 1))
        for name, found in versions.items():
            assert found == list(range(1, store.version(name) + 1))
        with store.reading() as con:
            assert con.execute("select events, (select sum(events) from counts) from total").fetchone() == (head, head)
    return head, version


def test_what_was_acknowledged_outlives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "log.duckdb"
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    head = 0
    for round in range(6):
        acknowledged = killed(path, seed + round, chance.randint(0, 60))
        grown, _ = check(path, acknowledged)
        assert grown >= head
        head = grown
    assert head > 500


def test_an_acknowledgement_before_the_commit_would_be_noticed(tmp_path: Path) -> None:
    path = tmp_path / "log.duckdb"
    killed(path, 1, 5)
    acknowledged = killed(path, 2, 5, "broken")
    with pytest.raises(AssertionError, match="version"):
        check(path, acknowledged)
