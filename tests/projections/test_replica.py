"""A replica of a real server's log: equal to it table by table, whatever it went through."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
from folded_log import step
from server_harness import Client, serving

from events import tables
from events.client import ServerAddress
from events.control import TrainingCreated, TrainingRenamed
from events.event import Event
from events.log import LogWritten
from events.rewrite import Purge, rewrite
from events.streams import Append
from events.template import TemplateSaved
from events.training import CheckpointSaved, EvaluationMade, MetricsLogged, TrainingConfig, TrainingResumed
from projections import replica as replicas
from projections.projection import Projection
from projections.replica import Replica, ReplicaFailed, connect
from projections.runner import every_projection
from projections.views import VIEWS, describe

CONFIG = TrainingConfig(model="demo", datasets=("stdlib",), total_steps=100)


def history(end: int = 40) -> list[Event]:
    return [
        *(step(n, sae) for n in range(1, end + 1) for sae in (0, 1)),
        LogWritten(level="INFO", logger="core", message="half"),
        EvaluationMade(step=10, sae=0, tokens=64, fvu=0.5, l0=3.0, dead_latents=1),
        TrainingResumed(step=10),
        *(step(n, sae, device_memory=n) for n in range(11, 16) for sae in (0, 1)),
        MetricsLogged(step=3, values={"speed": 1.5, "none": None}),
        CheckpointSaved(step=15, path="p", size=1, loss=0.1),
    ]


async def append(client: Client, training: str, *events: Event) -> int:
    store = client.server.studio.store
    appends = [Append(f"training-{training}", events)]
    if not store.version(f"training-{training}"):
        # At once with its first events: what waits for its slot for a moment would be started by the server.
        created = TrainingCreated(name=training, config=CONFIG)
        template = TemplateSaved(name="t", description="", config=CONFIG)
        appends.insert(0, Append(f"template-{training}", [template], actor="user:ada"))
        appends.insert(0, Append(f"control-{training}", [created], actor="user:ada"))
    return (await asyncio.wrap_future(store.append(*appends)))[-1].position


def table_rows(con: duckdb.DuckDBPyConnection, names: Sequence[str]) -> dict[str, list[str]]:
    return {name: sorted(map(repr, con.execute(f"SELECT * FROM {name}").fetchall())) for name in names}


LOG_TABLES = ["log_events", "step_trained", "event_purged"]
PROJECTED = [table.name for each in every_projection() for table in each.tables]


async def assert_equal(client: Client, replica: Replica, names: Sequence[str] = (*LOG_TABLES, *PROJECTED)) -> None:
    head = client.server.studio.store.head
    assert await asyncio.to_thread(replica.wait, head, 60), replica.standing
    ours = await client.server.studio.query(lambda con: table_rows(con, names))
    with replica.reading() as con:
        theirs = table_rows(con, names)
    for name in names:
        assert theirs[name] == ours[name], name


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many ranges, and following from nearby only."""
    monkeypatch.setattr(replicas, "RANGE", 7)
    monkeypatch.setattr(replicas, "NEAR", 5)


def of(client: Client, database: Path | str = ":memory:") -> Replica:
    return Replica(ServerAddress(client.server.url), database, config={"threads": 1})


@contextlib.asynccontextmanager
async def running(replica: Replica) -> AsyncIterator[Replica]:
    """Started, and closed in a thread: the server that it says goodbye to runs in this one's loop."""
    replica.start()
    try:
        yield replica
    finally:
        await asyncio.to_thread(replica.close)


async def test_a_replica_has_what_the_server_has_in_every_table_from_old_events_and_from_new_ones(
    client: Client, small: None
) -> None:
    await append(client, "one", *history())
    async with running(of(client)) as replica:
        await assert_equal(client, replica)
        await append(client, "one", step(16), TrainingResumed(step=12), step(13), step(14, loss=float("nan")))
        await append(client, "two", *history(20))
        store = client.server.studio.store
        store.append(Append("control-two", [TrainingRenamed(name="other")], actor="user:bob")).result()
        await assert_equal(client, replica)
        assert replica.standing.error is None


async def test_a_replica_of_a_log_without_steps_is_ready(client: Client) -> None:
    async with running(of(client)) as replica:
        await assert_equal(client, replica)
        assert replica.standing.ready


@pytest.mark.slow
async def test_a_replica_that_was_closed_goes_on_where_it_was(client: Client, tmp_path: Path, small: None) -> None:
    await append(client, "one", *history())
    file = tmp_path / "runs.duckdb"
    async with running(of(client, file)) as replica:
        await assert_equal(client, replica)
        position = replica.position
    await append(client, "one", *(step(n) for n in range(16, 60)))
    again = of(client, file)
    assert again.position == position
    asked: list[int] = []
    fetch = again._remote.batch
    again._remote.batch = lambda log_id, after, upto: (asked.append(after), fetch(log_id, after, upto))[1]
    async with running(again):
        await assert_equal(client, again)
    assert asked[0] == position


@pytest.mark.slow
async def test_every_snapshot_is_true_at_the_position_that_it_names_while_events_come_in(
    client: Client, small: None
) -> None:
    await append(client, "one", *history())

    seen: set[int] = set()

    async def write() -> None:
        n = 16
        while n < 80 or len(seen) <= 3:
            await append(client, "one", step(n), step(n, 1))
            n += 1

    async with running(of(client)) as replica:
        assert await asyncio.to_thread(replica.wait, None, 60)
        writing = asyncio.create_task(write())
        while not writing.done():
            with replica.snapshot() as (con, position):
                # It goes on meanwhile, which this snapshot does not see.
                await asyncio.to_thread(replica.wait, position + 1, 1)
                counted = await asyncio.to_thread(
                    lambda con=con: con.execute(
                        "SELECT (SELECT count(*) FROM events), (SELECT max(position) FROM metrics),"
                        " (SELECT step FROM trainings), (SELECT max(step) FROM metrics), (SELECT position FROM replica)"
                    ).fetchall()[0]
                )
            assert counted[0] == position == counted[4]
            assert counted[2] == counted[3]
            seen.add(position)
        await writing
        await assert_equal(client, replica)


@pytest.mark.slow
async def test_a_replica_of_another_log_starts_over(tmp_path: Path, small: None) -> None:
    async with serving(tmp_path / "first") as client:
        port = client.server.port
        await append(client, "one", *history())
        replica = of(client, tmp_path / "runs.duckdb").start()
        await assert_equal(client, replica)
        before = replica.standing.log_id
    try:
        async with serving(tmp_path / "second", port=port) as client:
            await append(client, "three", *history(12))
            async with asyncio.timeout(60):
                while replica.standing.log_id == before:  # noqa: ASYNC110 it lives in a thread of its own
                    await asyncio.sleep(0.02)
            await assert_equal(client, replica)
            assert replica.standing.log_id == client.server.log_id
    finally:
        await asyncio.to_thread(replica.close)


@pytest.mark.slow
async def test_what_the_log_has_purged_is_purged_here(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with serving(data) as client:
        port = client.server.port
        await append(client, "one", *history())
        await append(client, "two", *history())
        replica = of(client, tmp_path / "runs.duckdb").start()
        await assert_equal(client, replica)
    try:
        rewrite(data / "log.duckdb", lambda done, total: None, purges=[Purge("one", 0, "user:ada")])
        async with serving(data, port=port) as client:
            names = [name for name in (*LOG_TABLES, *PROJECTED) if name != "event_purged"]
            await assert_equal(client, replica, names)
            gone = tables.table_of("EventPurged")
            found = await client.server.studio.query(lambda con: con.execute(f"SELECT position FROM {gone}").fetchall())
            with replica.reading() as con:
                assert sorted(con.execute(f"SELECT position FROM {gone}").fetchall()) == sorted(found)
    finally:
        await asyncio.to_thread(replica.close)


class _Failing(Projection):
    """Cannot fold a step."""

    name = "failing"
    types = frozenset({"StepTrained"})
    schema = ()

    def fold(self, con: Any, batch: Any) -> None:
        raise RuntimeError("it cannot")


async def test_a_projection_that_fails_keeps_no_event_out(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = replicas.Projections
    monkeypatch.setattr(replicas, "Projections", lambda log: runner(log, [*every_projection(), _Failing()]))
    async with running(of(client)) as replica:
        await append(client, "one", *history())
        await assert_equal(client, replica, [*LOG_TABLES])
        with replica.snapshot() as (con, position):
            # It names the position up to which everything is true.
            assert position < con.execute("SELECT max(position) FROM events").fetchall()[0][0]


async def test_a_commit_that_raises_is_not_made_again_and_the_file_knows_whether_it_was(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(of(client, tmp_path / "a.duckdb")) as replica:
        await assert_equal(client, replica)
        made = replicas.transacted

        def raising(con: Any, fn: Any) -> Any:
            made(con, fn)
            raise duckdb.IOException("IO Error: no space left on device")

        with monkeypatch.context() as full:
            full.setattr(replicas, "transacted", raising)
            await append(client, "one", *history())
            with pytest.raises(ReplicaFailed, match="cannot go on: IO Error: no space left"):
                await asyncio.to_thread(replica.wait, client.server.studio.store.head, 60)
    async with running(of(client, tmp_path / "a.duckdb")) as replica:
        await assert_equal(client, replica)


class _Hungry(Projection):
    """Finds no memory the first times."""

    name = "hungry"
    types = frozenset({"StepTrained"})
    schema = ()

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    def fold(self, con: Any, batch: Any) -> None:
        self.left -= 1
        if self.left >= 0:
            raise duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block")


@pytest.mark.slow
async def test_a_replica_whose_memory_others_have_waits_and_misses_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, hungry = replicas.Projections, _Hungry(2)
    monkeypatch.setattr(replicas, "Projections", lambda log: runner(log, [*every_projection(), hungry]))
    async with running(of(client)) as replica:
        await append(client, "one", *history())
        await assert_equal(client, replica)
        assert (hungry.left < 0, replica.standing.error, replica.standing.away) == (True, None, None)


async def test_a_notebook_gets_a_live_connection(client: Client) -> None:
    end = await append(client, "one", *history())

    def notebook() -> tuple[Any, Any]:
        with connect(client.server.url, timeout=60) as con:
            at = con.execute("SELECT position FROM replica").fetchall()
            return at, con.execute("SELECT training, max(step) FROM metrics GROUP BY ALL").fetchall()

    assert await asyncio.to_thread(notebook) == ([(end,)], [("one", 15)])


async def test_a_file_can_be_read_by_any_duckdb_and_under_any_name(client: Client, tmp_path: Path) -> None:
    await append(client, "one", *history())
    file = tmp_path / "runs.duckdb"
    async with running(of(client, file)) as replica:
        await assert_equal(client, replica)
    with duckdb.connect(":memory:") as con:
        con.execute(f"ATTACH '{file}' AS other (READ_ONLY)")
        for view in VIEWS:
            con.execute(f"SELECT * FROM other.{view.name}").fetchall()
        assert con.execute("SELECT max(step), count(*) FROM other.metrics").fetchall() == [(15, 30)]
        assert con.execute("SELECT max(step) FROM other.steps").fetchall() == [(40,)]


def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.duckdb"
    with duckdb.connect(str(file)) as con:
        con.execute("CREATE TABLE mine AS SELECT 1 AS a")
    with pytest.raises(ReplicaFailed, match="something else"):
        Replica(ServerAddress("http://127.0.0.1:1"), file)
    with duckdb.connect(str(file)) as con:
        assert con.execute("FROM mine").fetchall() == [(1,)]
        assert con.execute("SELECT schema_name FROM duckdb_schemas() WHERE schema_name = 'raw'").fetchall() == []


HOLD = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"


def test_a_file_that_another_program_has_open_is_said_to_be(tmp_path: Path) -> None:
    file = tmp_path / "runs.duckdb"
    command = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(ReplicaFailed, match="is open in another program"):
            Replica(ServerAddress("http://127.0.0.1:1"), file)
        holder.communicate()


async def test_a_server_that_refuses_ends_the_replica_with_its_reason(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", host="0.0.0.0") as client:
        wrong = Replica(ServerAddress(client.server.url, "wrong"), config={"threads": 1})
        async with running(wrong) as replica:
            with pytest.raises(ReplicaFailed, match="refuses"):
                await asyncio.to_thread(replica.wait, None, 60)


def test_every_view_and_every_column_says_what_it_is() -> None:
    replica = Replica(ServerAddress("http://127.0.0.1:1"))
    try:
        described = describe(replica.cursor())
    finally:
        replica.close()
    assert [each.name for each in described] == [view.name for view in VIEWS]
    for each in described:
        assert each.comment.endswith(".")
        for name, _, comment in each.columns:
            assert comment, f"{each.name}.{name}"
            assert comment.endswith((".", "…"))
