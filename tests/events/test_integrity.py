"""A log that is not whole is told by the first thing that is wrong."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from events.integrity import difference
from events.log import LogWritten
from events.store import Append, EventStore
from events.training import StepTrained

LINE = LogWritten(level="INFO", logger="x", message="y")


def step(number: int) -> StepTrained:
    return StepTrained(
        step=number, loss=1, loss_reconstruction=1, l0=1, l0_fraction=1, fvu=1, learning_rate=1, grad_norm=1, tokens=1,
        tokens_per_second=1,
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of 40 events in three streams, in both kinds of tables."""
    path = tmp_path / "log.duckdb"
    with EventStore.open(path) as store:
        for number in range(1, 11):
            store.append(
                Append("training-a", [step(number), LINE]), Append("training-b", [step(number)]), Append("c", [LINE])
            ).result()
    return path


def found(path: Path) -> str | None:
    with duckdb.connect(str(path), read_only=True) as con:
        return difference(con)


def test_a_log_that_was_written_in_order_is_whole(path: Path) -> None:
    assert found(path) is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("delete from log_events where position = 2", "position 2 was expected behind 1, but 3 is there"),
        ("delete from step_trained where position = 1", "position 1 was expected behind 0, but 2 is there"),
        (
            "insert into step_trained select * from step_trained where position = 9",
            "position 10 was expected behind 9, but 9 is there",
        ),
        (
            "update log_events set version = 5 where position = 12",
            "at position 12 stream c has version 5 behind 2",
        ),
        (
            "update step_trained set stream = 'training-a' where position = 3",
            "at position 3 stream training-a has version 1 behind 2",
        ),
    ],
)
def test_the_first_thing_that_is_wrong_is_told(path: Path, damage: str, said: str) -> None:
    with duckdb.connect(str(path)) as con:
        con.execute(damage)
    assert found(path) == said


def test_a_block_whose_bytes_have_changed_is_noticed(path: Path) -> None:
    with duckdb.connect(str(path)) as con:
        block = con.execute(
            "select distinct block_id from pragma_storage_info('log_events') where block_id >= 0"
        ).fetchone()
        assert block is not None
    data = bytearray(path.read_bytes())
    # Blocks of 256 KiB begin behind three headers of 4 KiB.
    start = 3 * 4096 + block[0] * 262_144
    data[start + 300] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(duckdb.Error, match="checksum"):
        found(path)
