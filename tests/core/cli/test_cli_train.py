"""`train` and `resume` in a terminal: configurations, and whole trainings with and without a server."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_harness import Cli, small
from rich.console import Console
from stored_folders import make_folder

from core.cli import headless
from core.cli.train import _value as value_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1_000", 1_000),
        ("1e-4", 1e-4),
        ("true", True),
        ('"3"', "3"),
        ("[1, 2]", [1, 2]),
        ('["stdlib"]', ["stdlib"]),
        ("cpu", "cpu"),
        ("openai-community/gpt2", "openai-community/gpt2"),
        ("C:\\models", "C:\\models"),
        ("1\nk = 2", "1\nk = 2"),
        ("", ""),
    ],
)
def test_a_setting_is_toml_and_plain_words_stand_for_themselves(text: str, value: Any) -> None:
    assert value_of(text) == value


def test_every_problem_of_a_configuration_is_told_at_once_and_nothing_is_made(cli: Cli, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        'model = "demo"\ndatasets = ["/nowhere/text.jsonl"]\nkk = 3\ntotal_steps = 0\nname = ""\nl1_alpha = 0.1\n'
    )
    refused = cli("train", str(config), "--set", "device=tpu", "--set", "nonsense")
    assert (refused.status, refused.out) == (2, "")
    for named in ("/nowhere/text.jsonl", "did you mean k?", "total_steps must be", "l1_alpha", "device must be",
                  "KEY=VALUE", "name must be text"):  # fmt: skip
        assert named in refused.err, refused.err
    assert "Traceback" not in refused.err
    assert not (cli.data_dir / "trainings").exists()


@pytest.mark.parametrize("content", [b"model = ", b"\xff\xfe"])
def test_a_configuration_that_is_not_toml_is_refused_by_its_name(cli: Cli, tmp_path: Path, content: bytes) -> None:
    config = tmp_path / "config.toml"
    config.write_bytes(content)
    refused = cli("train", str(config))
    assert refused.status == 2
    assert f"{config} is not TOML" in refused.err
    missing = cli("train", str(tmp_path / "missing.toml"))
    assert missing.status == 2
    assert "cannot be read: No such file" in missing.err


def test_what_was_never_trained_here_cannot_be_resumed(cli: Cli) -> None:
    refused = cli("resume", "abc")
    assert refused.status == 1
    assert "No training's id begins with 'abc'" in refused.err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_in_a_pipe_tells_its_progress_and_ends_with_what_came_out(
    cli: Cli, corpus: Path, tmp_path: Path
) -> None:
    done = cli.start("train", *small(corpus, total_steps=20), "--name", "in a pipe")
    out, said = done.communicate(timeout=200)
    assert done.returncode == 0, said
    assert re.search(r"Training \w{14} completed 20 steps in .*: FVU 0\.\d+, L0 4\.00\.", out)
    assert "Training in a pipe (" in said
    assert "step 20 of 20  loss 0." in said
    assert "No server runs on" in said
    (folder,) = (cli.data_dir / "trainings").iterdir()
    refused = cli("resume", folder.name)
    assert refused.status == 1
    assert "has trained all its 20 steps; there is nothing to resume" in refused.err
    written = cli("export", folder.name[:12], "--to", str(tmp_path / "out"), "--json")
    assert (written.status, written.json()["step"]) == (0, 20), written.err
    (sae,) = map(Path, written.json()["written"])
    assert json.loads((sae / "cfg.json").read_text())["k"] == 4
    again = cli("export", folder.name, "--to", str(tmp_path / "out"))
    assert (again.status, "is there already" in again.err) == (1, True)
    other = cli("export", folder.name, "--step", "7")
    assert (other.status, "has no checkpoint of step 7" in other.err) == (1, True)


def test_ctrl_c_in_the_midst_of_a_print_reaches_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[bytes] = []

    class Terminal(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            printed.append(bytes(data))
            if len(printed) == 1:
                signal.raise_signal(signal.SIGINT)
            return len(data)

    console = Console(file=io.TextIOWrapper(io.BufferedWriter(Terminal())), width=200)
    monkeypatch.setattr(headless.output, "err", lambda: console)
    with subprocess.Popen(["sleep", "1000"]) as process:
        child = headless.Child(process)
        try:
            with headless._signals(child.on_signal):
                console.print("step 20 of 100")
            child.spoken()
            assert process.wait(60) == -signal.SIGINT
        finally:
            process.kill()
    assert b"".join(printed).startswith(b"step 20 of 100\nSaving a checkpoint")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ctrl_c_saves_a_checkpoint_and_resume_goes_on_from_it(cli: Cli, corpus: Path) -> None:
    process = cli.start("train", *small(corpus, total_steps=100_000))
    assert next_step(process) > 0
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=200)
    assert process.returncode == 130, said
    assert "Saving a checkpoint" in said
    found = re.search(r"Training (\w{14}) paused after step ([\d,]+), with a checkpoint\. Go on with .*resume \1 ", out)
    assert found is not None, out
    training_id, step = found[1], int(found[2].replace(",", ""))
    assert (cli.data_dir / "trainings" / training_id / "checkpoints" / f"step-{step:08d}").is_dir()

    again = cli.start("resume", training_id[:12])
    assert next_step(again) > step
    refused = cli("resume", training_id)
    assert "is being trained already" in refused.err
    again.send_signal(signal.SIGINT)
    out, said = again.communicate(timeout=200)
    assert again.returncode == 130, said
    assert f"Training {training_id} paused after step" in out


def next_step(process: subprocess.Popen[str]) -> int:
    """The next step that a training in a pipe tells."""
    assert process.stderr is not None
    while (found := re.match(r"step ([\d,]+) of", line := process.stderr.readline())) is None:
        assert line, process.communicate()
    return int(found[1].replace(",", ""))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_with_a_server_a_training_is_seen_while_it_runs_and_can_be_paused_there(cli: Cli, corpus: Path) -> None:
    with cli.up():
        process = cli.start("train", *small(corpus, total_steps=100_000), "--name", "seen", "--json")
        try:
            row: dict[str, Any] = {}
            while row.get("status") != "running":
                rows = cli("ls", "--json").json()["data"]
                assert process.poll() is None
                row = rows[0] if rows else {}
            assert (row["name"], row["launcher"]) == ("seen", "external")
            assert cli("pause", row["id"]).status == 0
            assert cli("wait", row["id"], "--until", "paused", "--timeout", "120").status == 0
        finally:
            out, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
        assert json.loads(out)["status"] == "paused"
        assert json.loads(out)["step"] == cli("show", row["id"], "--json").json()["step"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_streams_to_a_server_elsewhere_that_is_named(cli: Cli, corpus: Path, tmp_path: Path) -> None:
    elsewhere = Cli(tmp_path / "elsewhere")
    with elsewhere.up() as server:
        process = cli.start("train", *small(corpus, total_steps=20), "--server", server["url"], "--json")
        out, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
        row = elsewhere("show", json.loads(out)["id"], "--json").json()
        assert (row["status"], row["step"]) == ("completed", 20)
        assert cli("ls", "--server", server["url"], "--json").json()["data"][0]["id"] == row["id"]
    assert not (cli.data_dir / "log.duckdb").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_folder_of_activations_is_trained_on_without_a_model(cli: Cli, tmp_path: Path) -> None:
    make_folder(tmp_path / "kept", [700, 500])
    config = tmp_path / "config.toml"
    config.write_text(
        f'activations = "{tmp_path / "kept"}"\nlatent_dim = 96\nk = 4\nbatch_size = 64\ntotal_steps = 20\n'
    )
    done = cli("train", str(config), "--set", "shuffle=false", "--set", "device=cpu")
    assert done.status == 0, done.err
    assert "completed 20 steps" in done.out
    assert "Training kept_TopK" in done.err
    refused = cli("train", str(config), "--set", "model=demo")
    assert refused.status == 2
    assert "model does not apply to a folder of activations" in refused.err
    refused = cli("train", str(config), "--set", f"activations={tmp_path}")
    assert refused.status == 2
    assert "holds no .safetensors files" in refused.err
