"""The command line itself: what it accepts, how it refuses, and what it loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import core.cli

COMMANDS = (
    "up", "status", "down", "demo", "train", "pause", "resume", "stop", "checkpoint", "wait", "ls", "show", "logs",
    "export", "rebuild", "verify", "backup", "restore", "purge", "salvage", "doctor",
)  # fmt: skip


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`saestudio` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "core.cli", *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


def test_help_names_every_command_and_loads_none_of_them() -> None:
    program = "\n".join(
        [
            "import contextlib, sys, core.cli",
            "with contextlib.suppress(SystemExit):",
            "    core.cli.main(['--help'])",
            "heavy = {'httpx', 'rich', 'msgspec', 'duckdb', 'torch', 'websockets', 'starlette'} & set(sys.modules)",
            "sys.exit(f'loaded {heavy}' if heavy else 0)",
        ]
    )
    result = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for command in COMMANDS:
        assert f"    {command}" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        core.cli.main([command, "--help"])
    assert ended.value.code == 0
    assert "--data-dir" in capsys.readouterr().out


def test_the_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import version

    assert run("--version").stdout.split() == ["saestudio", version("saestudio")]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "COMMAND"),
        (["nonsense"], "'nonsense'"),
        (["ls", "--status", "sleeping"], "not 'sleeping'"),
        (["ls", "--limit", "0"], "must be 1 or more"),
        (["wait", "x", "--until", "done"], "queued, starting, running"),
        (["wait", "x", "--timeout", "soon"], "must be a number of seconds, not 'soon'"),
        (["wait", "x", "--timeout", "nan"], "must be a number of seconds"),
        (["up", "--port", "70000"], "must be a port from 0 to 65535, not '70000'"),
        (["up", "--slots", "-1"], "whole number"),
        (["logs", "x", "--level", "loud"], "DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        (["train"], "CONFIG.toml"),
        (["train", "config.toml", "--demo"], "not allowed with"),
    ],
)
def test_an_invalid_command_line_is_refused_with_one_sentence(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        core.cli.main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert named in said.err
    assert len(said.err.strip().splitlines()) == 2  # the sentence, and where to find help


@pytest.mark.parametrize(
    "arguments",
    [["ls"], ["show", "x"], ["logs", "x"], ["pause", "x"], ["wait", "x"], ["down"], ["status"]],
)
def test_without_a_server_a_command_says_how_to_start_one(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert core.cli.main([*arguments, "--data-dir", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "No server runs on" in said.err + said.out
    assert f"saestudio up --data-dir {tmp_path}'" in said.err + said.out


def test_a_reader_that_has_enough_ends_a_command_quietly() -> None:
    program = [sys.executable, "-P", "-m", "core.cli", "--help"]
    # As outside of tests: what is printed waits in a buffer until the end.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
