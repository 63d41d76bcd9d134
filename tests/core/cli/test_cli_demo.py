"""The demo as a new user meets it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from cli_harness import Cli, environment

from core.cli.demo import outcome
from core.cli.train import DEMO

ROOT = Path(__file__).parents[3]


def test_what_came_out_is_one_sentence_of_the_last_evaluation() -> None:
    row = {
        "step": 580,
        "fvu": 0.2,
        "l0": 16.0,
        "dead_latents": 3,
        "saes": [{}, {}],
        "config": {"latent_dim": 2_048, "batch_size": 2_048},
    }
    evaluations = [
        {"step": 290, "tokens": 65_000, "fvu": 0.9, "l0": 16.0, "dead_latents": 900},
        {"step": 580, "tokens": 65_000, "fvu": 0.12, "l0": 16.0, "dead_latents": 40},
        {"step": 580, "tokens": 65_000, "fvu": 0.14, "l0": 16.2, "dead_latents": 1},
    ]
    said = outcome(row, evaluations)
    assert "On 65,000 held-out tokens the 2 autoencoders leave 13.0% of the variance unexplained (FVU 0.130)" in said
    assert "16.1 active latents per token (L0); 41 (1.0%) of the 4,096 latents are dead." in said
    assert "(FVU 0.200)" in outcome(row, [])
    assert "none of the" in outcome({**row, "dead_latents": 0}, [])


def test_the_demo_reads_no_more_than_it_says() -> None:
    assert DEMO["total_steps"] * DEMO["batch_size"] <= 1_200_000
    assert (DEMO["k"], len(DEMO["training_layers"])) == (16, 2)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def lines_until(process: subprocess.Popen[str], pattern: str) -> tuple[list[str], re.Match[str]]:
    """What a process says on standard error until something matches."""
    assert process.stderr is not None
    said: list[str] = []
    while (line := process.stderr.readline()) != "":
        said.append(line)
        if found := re.search(pattern, line):
            return said, found
    raise AssertionError("".join(said))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ctrl_c_ends_all_that_the_demo_started_after_a_checkpoint(cli: Cli) -> None:
    process = cli.start("demo", "--no-browser", "--port=0")
    _, named = lines_until(process, r"Its process is (\d+)\. Break it with 'kill -9 \1'")
    lines_until(process, r"^step ")
    server = cli("status", "--json").json()
    pid = int(named[1])
    assert is_alive(pid)
    assert httpx.get(f"{server['url']}/healthz").status_code == 200
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert not is_alive(pid)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server['url']}/healthz")
    assert server["url"] in out
    assert "/?code=" in out
    assert f"The data lies in {cli.data_dir}; open it again with" in out
    (folder,) = (cli.data_dir / "trainings").iterdir()
    assert f"resume {folder.name}" in out
    with cli.up():
        row = cli("show", folder.name, "--json").json()
        assert row["status"] == "paused"
        assert (folder / "checkpoints" / f"step-{row['step']:08d}").is_dir()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_demo_ends_with_what_came_out_and_what_to_try_next(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "demo", "--exit", "--no-browser", "--port=0", f"--data-dir={tmp_path / 'data'}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"Done: 580 steps .*\(FVU (0\.\d+)\) with (\d+\.\d) active latents per token \(L0\)", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) < 0.25
    assert found[2] == "16.0"
    for hint in ("kill -9", "resume ID", "train CONFIG.toml", "logs -f", "/api/v1/events/follow?tail=10"):
        assert hint in done.stdout
    assert "step 580 of 580" in done.stderr
    assert "open it again with" in done.stdout
