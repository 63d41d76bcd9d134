"""`saestudio up`, `status` and `down`."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from core import lock
from core.settings import DEFAULT_PORT, Settings
from events.errors import DataDirectoryInUse, EventLogError, LogDamaged

from . import output
from .client import command, connected, damaged, data_dir, find_server, no_server, prepared
from .failure import Failure

if TYPE_CHECKING:
    from core.server.serve import Running


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A server that answers, as `up --json` prints it; `sign_in_url` signs one browser in, once."""

    url: str
    sign_in_url: str
    port: int
    pid: int
    log_id: str
    data_dir: str


def up(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C, and end the process then; with `--detach`, leave that to a process of its own."""
    if options.detach:
        return _detach(options)
    settings = _settings(options)
    from core.server.serve import NoFreePort, serve

    def on_ready(running: Running) -> None:
        served = Served(
            url=running.url,
            sign_in_url=running.sign_in_url,
            port=running.port,
            pid=os.getpid(),
            log_id=running.log_id,
            data_dir=str(settings.data_dir),
        )
        if options.json:
            output.print_json(served)
        else:
            greet(served, settings, wanted_port=options.port)
            output.out().print("Ctrl-C ends it; trainings go on without it.")
        if not options.no_browser:
            open_browser(served.sign_in_url)

    try:
        serve(settings, on_ready=on_ready, say=lambda sentence: output.err().print(sentence, markup=False))
    except (DataDirectoryInUse, NoFreePort) as error:
        raise Failure(str(error)) from error
    except LogDamaged as error:
        raise damaged(error, settings) from error
    except EventLogError as error:
        raise Failure(str(error)) from error
    if not options.json:
        again = command("up", settings.data_dir)
        output.err().print(f"\nThe server has ended. Open it again with {again}.", markup=False)
    sys.stdout.flush()
    # Everything is closed, but a thread may still wait for a trainer that outlives this process. Under it the
    # interpreter cannot be taken down tidily: DuckDB's bindings would print a page about objects that are left.
    os._exit(0)


def status(options: argparse.Namespace) -> int:
    """Say where the server runs and what it does; 1 where none does."""
    address = find_server(options)
    folder = data_dir(options)
    if address is None:
        if options.json:
            output.print_json({"running": False, "data_dir": str(folder)})
        else:
            output.out().print(no_server(folder), markup=False)
        return 1
    with connected(options) as api:
        health = api.get("/healthz")
        counts: dict[str, int] = api.get("trainings", limit=1)["counts"]
        sign_in = api.post("sign-in")["url"]
    if options.json:
        facts = {"running": True, "url": address.url, "sign_in_url": sign_in, "log_id": health["log_id"]}
        output.print_json({**facts, "head": health["head"], "trainings": counts})
        return 0
    some = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    output.print_facts(
        [
            ("server", address.url),
            ("open", f"{sign_in} (signs in one browser, within 15 minutes)"),
            ("data", None if options.server else str(folder)),
            ("log", f"{health['head']:,} events"),
            ("trainings", some or "none"),
        ]
    )
    return 0


def down(options: argparse.Namespace) -> int:
    """End the server that holds the data directory, and wait until it has let go of it."""
    settings = Settings(data_dir=data_dir(options))
    held_by = holder(settings)
    if held_by is None:
        raise Failure(no_server(settings.data_dir))
    if held_by.url is None or not _has_open(held_by.pid, settings.lock):
        raise Failure(f"{settings.data_dir} is held by process {held_by.pid}, which is no server of this machine.")
    _end(settings, held_by.pid, timeout=options.timeout)
    if options.json:
        output.print_json({"pid": held_by.pid, "url": held_by.url, "ended": True})
    else:
        output.out().print(
            f"The server at {held_by.url} has ended. Trainings go on; the next server takes in what they write."
        )
    return 0


def _end(settings: Settings, pid: int, *, timeout: float) -> None:
    """Ask the server with that pid to end. Raises `Failure` where it still holds the data directory after `timeout`."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while holder(settings) is not None:
        if time.monotonic() > deadline:
            raise Failure(f"The server (process {pid}) has not ended within {timeout:g} seconds.")
        time.sleep(0.05)


def start(settings: Settings) -> tuple[Served, subprocess.Popen[bytes]]:
    """Start a server in a session of its own, and wait until it answers. Raises `Failure` with its last words."""
    arguments = ["up", "--json", "--no-browser", f"--data-dir={settings.data_dir}", f"--host={settings.host}"]
    arguments += [f"--port={settings.port}", *([] if settings.ui else ["--no-dashboard"])]
    if settings.slots is not None:
        arguments.append(f"--slots={settings.slots}")
    with settings.server_log.open("ab") as log:
        began = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "core.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        with process.stdout as said:
            line = said.readline()
    except BaseException:
        process.terminate()
        raise
    if line:
        return msgspec.json.decode(line, type=Served), process
    process.wait()
    with settings.server_log.open("rb") as log:
        log.seek(began)
        words = log.read().decode("utf-8", "replace").strip()
    last = words.splitlines()[-1] if words else ""
    if last.startswith("saestudio: "):
        raise Failure(last.removeprefix("saestudio: "))
    raise Failure(f"The server ended before it answered; {settings.server_log} says more.")


def greet(served: Served, settings: Settings, *, wanted_port: int | None) -> None:
    """Where the server is to be found, from here and from the machine that one sits at."""
    out = output.out()
    wanted = DEFAULT_PORT if wanted_port is None else wanted_port
    if wanted not in (0, served.port):
        output.err().print(f"Port {wanted} is taken; port {served.port} is used instead.")
    out.print(f"SAE Studio runs at [bold]{served.url}[/], data in {output.escape(served.data_dir)}")
    out.print(f"Open   {served.sign_in_url}   (signs in one browser, within 15 minutes)", markup=False)
    if settings.host not in ("127.0.0.1", "localhost", "::1"):
        out.print(
            f"Listens on {settings.host}; programs elsewhere need the token in {settings.token_file}", markup=False
        )
    line = tunnel(os.environ, served.port)
    if line is not None:
        out.print(f"From the machine that you sit at, first run   {line}", markup=False)


def tunnel(environ: Mapping[str, str], port: int) -> str | None:
    """The command that brings a port of this machine to the one at the other end of this SSH session, if it is one."""
    connection = environ.get("SSH_CONNECTION", "").split()
    if len(connection) != 4:
        return None
    _, _, host, ssh_port = connection
    elsewhere = "" if ssh_port == "22" else f"-p {ssh_port} "
    return f"ssh -N -L {port}:localhost:{port} {elsewhere}{shlex.quote(getpass.getuser())}@{host}"


def open_browser(url: str) -> None:
    """Open the page where there is a graphical browser; elsewhere do nothing."""
    told = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    if not (told or sys.platform == "darwin") or os.environ.get("SSH_CONNECTION"):
        return
    import webbrowser

    # Some browsers' start-up waits for them to end.
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def _detach(options: argparse.Namespace) -> int:
    settings = _settings(options)
    with output.err().status("Starting the server"):
        served, _ = start(settings)
    if options.json:
        output.print_json(served)
    else:
        greet(served, settings, wanted_port=options.port)
        output.out().print(f"End it with {command('down', settings.data_dir)}.", markup=False)
    if not options.no_browser:
        open_browser(served.sign_in_url)
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    port = DEFAULT_PORT if options.port is None else options.port
    return prepared(
        Settings(
            data_dir=data_dir(options),
            host=options.host,
            port=port,
            slots=options.slots,
            ui=not options.no_dashboard,
        )
    )


def holder(settings: Settings) -> lock.Holder | None:
    """Who holds the data directory; None if nobody does. Holds it for a moment where nobody else does."""
    if not settings.lock.exists():
        return None
    try:
        lock.hold(settings).release()
    except DataDirectoryInUse:
        return msgspec.json.decode(settings.lock.read_bytes(), type=lock.Holder)
    return None


def _has_open(pid: int, file: Path) -> bool:
    """Whether a process of this machine has the file open; True where the system does not tell."""
    if not Path("/proc/self/fd").is_dir():
        return True
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if descriptor.samefile(file):
                    return True
    return False
