"""What is kept as a file is whole: metrics as CSV, logs as text, checkpoints as archives."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from server_harness import Client

from core.server.api import downloads
from core.server.files import attachment
from core.server.tar import Archive, Changed
from events.log import LogWritten
from events.streams import Append
from events.training import CheckpointSaved, StepTrained

pytestmark = pytest.mark.slow


def step(number: int, sae: int) -> StepTrained:
    return StepTrained(
        step=number, sae=sae, loss=1 / number, loss_reconstruction=0.1, l0=4, l0_fraction=0.5, fvu=0.1,
        learning_rate=1e-4, grad_norm=1, tokens=number, tokens_per_second=1,
    )  # fmt: skip


async def append(client: Client, training: str, *events: Any) -> None:
    stream = f"training-{training}"
    claim = await asyncio.wrap_future(client.server.studio.store.claim(stream))
    times = [1_795_604_400_123_456] * len(events)
    await client.server.studio.append(
        Append(stream, list(events), expected=claim.version, epoch=claim.epoch, occurred_at=times)
    )


async def test_metrics_come_as_csv_whole_with_one_header_row(client: Client, monkeypatch) -> None:
    monkeypatch.setattr(downloads, "_ROWS_AT_ONCE", 701)
    training = await client.create(total_steps=1, training_layers=[1, 2], name="a/b")
    await client.until(training, "completed")
    await append(client, training, *(step(number, sae) for number in range(2, 1_101) for sae in (0, 1)))
    answer = await client.http.get(f"/api/v1/trainings/{training}/metrics?format=csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert 'filename="a_b-metrics.csv"' in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    plain = (await client.get(f"trainings/{training}/metrics", limit=1_000_000))["data"]
    assert len(rows) == len(plain) == 2_200
    assert [(int(row["step"]), int(row["sae"])) for row in rows] == [(row["step"], row["sae"]) for row in plain]
    assert [float(row["loss"]) for row in rows] == pytest.approx([row["loss"] for row in plain], rel=1e-6)
    assert [int(row["timestamp"]) for row in rows] == [row["timestamp"] for row in plain]
    assert {row["sparsity_coefficient"] for row in rows} == {""}
    one = await client.http.get(f"/api/v1/trainings/{training}/metrics?format=csv&sae=1&fields=loss&points=10")
    few = list(csv.DictReader(io.StringIO(one.text)))
    assert set(few[0]) == {"step", "sae", "loss", "timestamp"}
    assert len(few) == 10
    assert (await client.http.get(f"/api/v1/trainings/{training}/metrics?format=csv&fields=x")).status_code == 400
    none = await client.http.get(f"/api/v1/trainings/{training}/metrics?format=csv&from_step=2000&fields=fvu")
    assert none.text == '"step","sae","fvu","timestamp"\n'


async def test_a_log_comes_as_text_whole_and_in_order(client: Client, monkeypatch) -> None:
    monkeypatch.setattr(downloads, "_ROWS_AT_ONCE", 10)
    training = await client.create(total_steps=1)
    await client.until(training, "completed")
    lines = [LogWritten(level="INFO", logger="core.x", message=f"line {number}\n  ü") for number in range(95)]
    await append(client, training, *lines, LogWritten(level="ERROR", logger="core.y", message="the end"))
    path = f"/api/v1/trainings/{training}/logs?format=text"
    answer = await client.http.get(path)
    assert answer.headers["content-type"].startswith("text/plain")
    assert ".log" in answer.headers["content-disposition"]
    assert "INFO fake: training from step 0\n" in answer.text
    told = [f"2026-11-25T11:00:00.123Z INFO core.x: line {number}\n  ü\n" for number in range(95)]
    assert answer.text.endswith("".join(told) + "2026-11-25T11:00:00.123Z ERROR core.y: the end\n")
    assert (await client.http.get(f"{path}&level=error")).text == "2026-11-25T11:00:00.123Z ERROR core.y: the end\n"
    assert (await client.http.get(f"{path}&q=LINE 7")).text == "".join([told[7], *told[70:80]])
    assert (await client.http.get(f"{path}&q=core.x&limit=12")).text == "".join(told[-12:])
    assert (await client.http.get(f"{path}&q=core.x&order=desc")).text == "".join(told[::-1])
    assert (await client.http.get(f"{path}&q=nothing")).text == ""
    assert (await client.http.get(f"{path}&level=loud")).status_code == 400
    assert len((await client.get(f"trainings/{training}/logs"))["data"]) == 50


async def test_a_checkpoint_comes_as_an_archive_of_its_folder(client: Client, tmp_path: Path) -> None:
    training = await client.create(total_steps=2, name="\u202e<img>/../\U0001f9e0")
    await client.until(training, "completed")
    (row,) = (await client.get(f"trainings/{training}/checkpoints"))["data"]
    folder = Path(row["path"])
    big = os.urandom(3 * 2**20 + 5)
    await asyncio.to_thread((folder / f"{'w' * 120}.safetensors").write_bytes, big)
    await asyncio.to_thread((folder / "secret").symlink_to, "/etc/hostname")
    path = f"/api/v1/trainings/{training}/checkpoints/2/download"
    answer = await client.http.get(path)
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert 'filename="__img__..__-step-2.tar"' in answer.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        archive.extractall(tmp_path / "out", filter="data")
        assert len(archive.getnames()) == 2
    there = tmp_path / "out" / folder.name
    assert (there / f"{'w' * 120}.safetensors").read_bytes() == big
    assert (there / "state.json").read_bytes() == (folder / "state.json").read_bytes()
    shutil.rmtree(folder)
    gone = await client.http.get(path)
    assert (gone.status_code, gone.json()["detail"]) == (
        404, f"The files of the checkpoint of step 2 are gone from {folder}."
    )  # fmt: skip
    await append(client, training, CheckpointSaved(step=3, path="/etc", size=1, host="elsewhere", reason="request"))
    away = await client.http.get(path.replace("/2/", "/3/"))
    assert (away.status_code, away.json()["detail"]) == (409, "This checkpoint lies elsewhere, at /etc on elsewhere.")
    assert (await client.http.get(path.replace("/2/", "/4/"))).status_code == 404


def still_open(folder: Path) -> int:
    return sum(
        str(one.readlink()).startswith(f"{folder}/") for one in Path("/proc/self/fd").iterdir() if one.is_symlink()
    )


async def test_a_checkpoint_that_is_pruned_while_it_is_sent_comes_whole_and_never_another(tmp_path: Path) -> None:
    folder = tmp_path / "step-1"
    folder.mkdir()
    contents = {f"{number}": os.urandom(700_000) for number in range(4)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    archive, sent = Archive(folder), io.BytesIO()
    async for piece in archive.stream():
        sent.write(piece)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    assert len(sent.getvalue()) == archive.size
    sent.seek(0)
    with tarfile.open(fileobj=sent) as read:
        assert {m.name: read.extractfile(m).read() for m in read} == {  # type: ignore[union-attr]
            f"step-1/{name}": content for name, content in contents.items()
        }
    folder.mkdir()
    (folder / "a").write_bytes(b"long")
    left = Archive(folder)
    assert still_open(folder) == 1
    # Whoever asked may leave before the first byte.
    del left
    assert still_open(folder) == 0
    archive = Archive(folder)
    (folder / "a").write_bytes(b"cut")
    with pytest.raises(Changed):
        async for _ in archive.stream():
            pass


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("run.csv", "run.csv"),
        ('../../etc/pass"wd\r\nX: y.csv', "_.._etc_pass_wd__X_ y.csv"),
        ("\U0001f9e0" * 255 + ".csv", "_" * 50 + ".csv"),
        (" . .csv", "file.csv"),
    ],
)
def test_a_downloads_name_is_harmless_whatever_the_training_is_called(name: str, plain: str) -> None:
    header = attachment(name)["Content-Disposition"]
    assert header.isascii()
    assert header.startswith(f'attachment; filename="{plain}"; ')
