"""`up`, `status` and `down`."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import httpx
import pytest
from cli_harness import Cli

from core.cli.server import tunnel

pytestmark = pytest.mark.slow


def test_up_says_where_it_is_and_down_ends_it(cli: Cli) -> None:
    process = cli.start("up", "--no-browser", "--no-dashboard", "--port=0")
    try:
        line = process.stdout.readline()
        assert str(cli.data_dir) in line
        url = line.split()[4].rstrip(",")
        assert httpx.get(f"{url}/healthz").json()["status"] == "ok"
        status = cli("status", "--json")
        assert status.status == 0
        assert status.json()["url"] == url
        ended = cli("down", "--json")
        assert ended.json() == {"pid": process.pid, "url": url, "ended": True}
    except BaseException:
        process.kill()
        raise
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Open it again" in said
    assert not (cli.data_dir / "server.json").exists()
    assert cli("down").status == 1
    assert cli("status").status == 1


def test_ctrl_c_ends_up_without_a_traceback(cli: Cli) -> None:
    process = cli.start("up", "--json", "--no-browser", "--no-dashboard", "--port=0")
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert (out, said) == ("", "")


def test_a_second_up_names_the_holder_and_ends_with_1(served: Cli) -> None:
    holder = served("status", "--json").json()
    for second in (served("up", "--no-browser"), served("up", "--no-browser", "--detach")):
        assert second.status == 1
        assert holder["url"] in second.err
        assert "in use by process" in second.err
        assert "Traceback" not in second.err
    assert served("status", "--json").json()["log_id"] == holder["log_id"]


def test_a_port_that_is_taken_is_passed_over_and_everything_names_the_real_one(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ssh = "10.0.0.1 51000 10.0.0.7 22"
        process = cli.start("up", "--no-browser", "--no-dashboard", f"--port={port}", SSH_CONNECTION=ssh)
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
        finally:
            process.terminate()
            _, said = process.communicate(timeout=60)
    real = httpx.URL(lines[0].split()[4].rstrip(",")).port
    assert real != port
    assert f"Port {port} is taken; port {real} is used instead." in said
    assert f":{real}/?code=" in lines[1]
    assert f"ssh -N -L {real}:localhost:{real} " in lines[2]


def test_detached_it_answers_when_the_command_returns_and_lives_on(cli: Cli) -> None:
    command = cli.start("up", "--detach", "--json", "--no-browser", "--no-dashboard", "--port=0")
    out, said = command.communicate(timeout=60)
    assert command.returncode == 0, said
    try:
        started = json.loads(out)
        assert httpx.get(f"{started['url']}/healthz").json()["log_id"] == started["log_id"]
    finally:
        assert cli("down").status == 0


def test_a_server_that_was_killed_is_not_taken_for_running(cli: Cli) -> None:
    process = cli.start("up", "--json", "--no-browser", "--no-dashboard", "--port=0")
    assert process.stdout.readline()
    process.kill()
    process.communicate()
    assert (cli.data_dir / "server.json").exists()
    status = cli("status", "--json")
    assert (status.status, status.json()["running"]) == (1, False)
    assert "No server runs on" in cli("ls").err


def test_up_refuses_a_data_directory_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    refused = Cli(tmp_path / "file")("up", "--no-browser")
    assert refused.status == 1
    assert "cannot be made" in refused.err
    assert len(refused.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        ("", None),
        ("10.0.0.1 51000 10.0.0.7 22", "ssh -N -L 8421:localhost:8421 {user}@10.0.0.7"),
        ("fe80::1 51000 2001:db8::7 2222", "ssh -N -L 8421:localhost:8421 -p 2222 {user}@2001:db8::7"),
    ],
)
def test_over_ssh_the_tunnels_exact_command_is_told(connection: str, expected: str | None) -> None:
    import getpass

    found = tunnel({"SSH_CONNECTION": connection}, 8421)
    assert found == (expected and expected.format(user=getpass.getuser()))
