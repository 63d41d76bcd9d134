"""Of a damaged log, what can be read goes into a new one, and the damaged files stay as they are."""

from __future__ import annotations

import random
from pathlib import Path

import duckdb
import pytest

from events import integrity, salvage
from events.errors import LogUnavailable
from events.event import Recorded
from events.log import LogWritten
from events.store import Append, EventStore
from events.training import StepTrained

STEPS = 300_000
BLOCK = 262_144
# What stands before the first block of a DuckDB file.
HEADERS = 3 * 4_096


def ignore(done: int, total: int) -> None:
    """Nobody watches."""


def step(number: int, draw: random.Random) -> StepTrained:
    return StepTrained(
        step=number, loss=draw.random(), loss_reconstruction=draw.random(), l0=draw.random(), l0_fraction=1,
        fvu=draw.random(), learning_rate=1, grad_norm=draw.random(), tokens=number, tokens_per_second=1,
    )  # fmt: skip


def fill(path: Path, steps: int) -> int:
    """A log with a line every thousand steps; its head."""
    draw = random.Random(0)
    with EventStore.open(path) as store:
        epoch = store.claim("training-a").result().epoch
        for first in range(0, steps, 1_000):
            line = LogWritten(level="INFO", logger="x", message=f"line {first}")
            events = [*(step(first + n, draw) for n in range(999)), line]
            store.append(Append("training-a", events, expected=first, epoch=epoch)).result()
        return store.head


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("salvage") / "log.duckdb"
    fill(path, STEPS)
    return path


def everything(path: Path) -> list[Recorded]:
    with EventStore.open(path) as store:
        return list(store.read(0, limit=10_000).events)


def test_a_whole_log_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.duckdb"
    fill(path, 2_000)
    before = path.read_bytes()
    with pytest.raises(LogUnavailable, match="is whole: there is nothing to salvage"):
        salvage.salvage(path, tmp_path / "aside", ignore)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.duckdb", "log.duckdb.head"]


def blocks_of_steps(path: Path) -> list[int]:
    """The blocks that hold the steps' columns. A block of the table's own pointers is none of them: where such a one is
    damaged, the whole table is lost, and which blocks they are differs from one writing to the next."""
    with duckdb.connect(str(path), read_only=True) as con:
        found = con.execute("SELECT DISTINCT block_id FROM pragma_storage_info('step_trained') WHERE block_id >= 0")
        return sorted(row[0] for row in found.fetchall())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_what_lies_around_a_damaged_block_is_kept_in_order(long: Path, tmp_path: Path, seed: int) -> None:
    data = bytearray(long.read_bytes())
    draw = random.Random(seed)
    at = HEADERS + draw.choice(blocks_of_steps(long)) * BLOCK + draw.randrange(8, BLOCK // 2)
    data[at : at + 64] = draw.randbytes(64)
    path = tmp_path / "log.duckdb"
    path.write_bytes(data)
    damage = salvage.damage(path)
    assert damage is not None
    assert "checksum" in damage
    salvaged = salvage.salvage(path, tmp_path / "aside", ignore)
    assert (tmp_path / "aside" / "log.duckdb").read_bytes() == bytes(data)
    assert (salvaged.damage, salvaged.reached) == (damage, STEPS + 1)
    # How much that is depends on what shares the block: positions of many rows may.
    assert 0 < salvaged.read < STEPS + 1
    with EventStore.open(path) as store, store.reading() as con:
        assert integrity.difference(con) is None
        assert (store.head, store.epoch("training-a")) == (salvaged.read, 1)
        values = [row[0] for row in con.execute("SELECT step FROM step_trained ORDER BY position").fetchall()]
        assert values == sorted(values)
        store.append(Append("training-a", [step(1, draw)], expected=store.version("training-a"), epoch=1)).result()


def test_a_damaged_write_ahead_log_costs_no_more_than_what_was_in_it(tmp_path: Path) -> None:
    path = tmp_path / "log.duckdb"
    head = fill(path, 3_000)
    before = everything(path)
    whole = path.read_bytes()
    store = EventStore.open(path, idle=1_000)
    store.append(Append("b", [LogWritten(level="INFO", logger="x", message=str(n)) for n in range(2_000)])).result()
    wal = path.with_name(path.name + ".wal")
    torn = bytearray(wal.read_bytes())
    store.close()
    torn[len(torn) // 2] ^= 0xFF
    path.write_bytes(whole)
    wal.write_bytes(torn)
    with pytest.raises(LogUnavailable):
        EventStore.open(path)
    salvaged = salvage.salvage(path, tmp_path / "aside", ignore)
    assert salvaged.read == head
    assert repr(everything(path)) == repr(before)
    assert (tmp_path / "aside" / wal.name).read_bytes() == bytes(torn)


def test_of_what_is_no_database_nothing_can_be_read_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "log.duckdb"
    path.write_bytes(b"This is not a database." * 1_000)
    with pytest.raises(LogUnavailable, match="aside"):
        salvage.salvage(path, tmp_path / "aside", ignore)
    assert not path.exists()
    assert [file.name for file in (tmp_path / "aside").iterdir()] == ["log.duckdb"]
    assert (tmp_path / "aside" / "log.duckdb").read_bytes() == b"This is not a database." * 1_000
