"""A replica as Parquet files: what others read in them, at one position, and only what has changed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pandas
import pyarrow.dataset
import pytest
from folded_log import step
from server_harness import Client, serving
from test_replica import append, history, of, running

from events.ids import new_id
from projections.exporting import MANIFEST, WHOLE, ExportRefused, Manifest, export
from projections.replica import Replica

pytestmark = pytest.mark.slow


async def exported(client: Client, replica: Replica, folder: Path) -> tuple[Manifest, int]:
    assert await asyncio.to_thread(replica.wait, client.server.studio.store.head, 20)
    return await asyncio.to_thread(export, replica, folder)


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}


async def test_what_is_exported_is_read_by_others_and_only_what_changed_is_written_again(
    client: Client, tmp_path: Path
) -> None:
    one, two = new_id(), new_id()
    await append(client, one, *history())
    await append(client, two, *history(20))
    folder = tmp_path / "data here"
    async with running(of(client, tmp_path / "replica.duckdb")) as replica:
        manifest, written = await exported(client, replica, folder)
        assert manifest.position == client.server.studio.store.head
        assert msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest) == manifest
        assert written == len(WHOLE) + 2
        assert {name: file.rows for name, file in manifest.metrics.items()} == {one: 30, two: 30}
        before = times(folder)
        assert (await exported(client, replica, folder))[1] == 0
        assert times(folder) == before
        await append(client, two, step(16))
        manifest, written = await exported(client, replica, folder)
        assert written == len(WHOLE) + 1
        after = times(folder)
        assert after[f"{one}.parquet"] == before[f"{one}.parquet"]
        assert after[f"{two}.parquet"] != before[f"{two}.parquet"]
        with replica.snapshot() as (con, _):
            expected = con.execute("SELECT training, step, sae, loss FROM metrics ORDER BY ALL").fetchall()
            counts = {name: con.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in WHOLE}
    with duckdb.connect(":memory:") as con:
        files = f"{folder}/metrics/*.parquet"
        assert con.execute(f"SELECT training, step, sae, loss FROM '{files}' ORDER BY ALL").fetchall() == expected
        for name in WHOLE:
            assert con.execute(f"SELECT count(*) FROM '{folder}/{name}.parquet'").fetchall() == [(counts[name],)]
            assert manifest.views[name].rows == counts[name]
    assert len(pandas.read_parquet(folder / "metrics")) == len(expected)
    assert pyarrow.dataset.dataset(folder / "metrics").count_rows() == len(expected)


async def test_a_folder_of_another_log_is_written_anew_and_one_of_somebody_else_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    manifests: list[Any] = []
    for name in ("first", "second"):
        async with serving(tmp_path / name) as client:
            await append(client, new_id(), *history(15))
            async with running(of(client)) as replica:
                manifests.append((await exported(client, replica, folder))[0])
    assert manifests[0].log_id != manifests[1].log_id
    assert {path.stem for path in (folder / "metrics").iterdir()} == set(manifests[1].metrics)
    async with serving(tmp_path / "first") as client, running(of(client)) as replica:
        (folder / MANIFEST).write_text("[]")
        before = times(folder)
        with pytest.raises(ExportRefused, match="no manifest"):
            await exported(client, replica, folder)
        assert times(folder) == before


async def test_an_export_that_was_ended_is_completed_by_the_next(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = sorted((new_id(), new_id()))
    await append(client, one, *history())
    async with running(of(client)) as replica:
        await exported(client, replica, tmp_path / "out")
        await append(client, one, step(16))
        await append(client, two, *history(20))

        def ends(done: int, total: int) -> None:
            if done == total - 1:
                raise KeyboardInterrupt

        assert await asyncio.to_thread(replica.wait, client.server.studio.store.head, 20)
        with pytest.raises(KeyboardInterrupt):
            export(replica, tmp_path / "out", ends)
        manifest, _ = await exported(client, replica, tmp_path / "out")
        assert set(manifest.metrics) == {one, two}
        whole = (tmp_path / "out" / "manifest.json").read_text()
        (tmp_path / "out" / "manifest.json").write_text(whole.replace(f"metrics/{one}", "../outside"))
        with pytest.raises(ExportRefused, match="is no manifest of an export"):
            await exported(client, replica, tmp_path / "out")
        (tmp_path / "out" / "manifest.json").write_text(whole)
        (tmp_path / "out" / "metrics" / f"{one}.parquet").unlink()
        again, written = await exported(client, replica, tmp_path / "out")
        assert written > 0
        assert (tmp_path / "out" / "metrics" / f"{one}.parquet").exists(), again
