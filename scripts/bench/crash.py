"""Kills the product with SIGKILL, again and again, and looks whether it kept its promises.

    .venv/bin/python scripts/bench/crash.py --rounds 100 --kill emitter
    .venv/bin/python scripts/bench/crash.py --rounds 10 --kill both
    .venv/bin/python scripts/bench/crash.py --rounds 20 --kill emitter --break ack-before-commit    (goes red)

Real processes: a server, and a process that writes a training's events. With `--kill emitter` that is a small one
without torch, and each round kills it, the server, or both; `trainer`, `server` and `both` run the real trainer and
kill that, the server, or the two. A moment is drawn at random, and falls into commits, projections, checkpoints (the
log makes many here), adoption and the spool's rotation (its files are small here) alike. After each round:

- the server's files, copied as the kill left them, hold everything that was acknowledged, and are a whole log:
  positions and versions without a hole, none twice, every projection what the log adds up to;
- the next server takes in everything that the writer had emitted, and `verify` says that log and projections agree;
- a follower that has lived through all of it has seen each position once, and each stream's versions in order.

Ends with 0 after the last round, with 1 at the first promise that was broken; the data directory is then kept. A data
directory serves 25 rounds, with the trainer some. `--seed` chooses the moments; what the machine makes of them it
chooses itself.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import msgspec
import serving

from events import integrity
from events.client import Follower, read_address
from events.control import TrainingCreated
from events.emitter import Emitter
from events.event import now_us
from events.ids import new_id
from events.spool import hold
from events.store import EventStore
from events.training import Sae, TrainingResumed, TrainingStarted
from events.wire import Subscribed
from projections.runner import Projections

PATIENCE = 120.0
ROUNDS_A_FOLDER = {"emitter": 25, "trainer": 10, "server": 5, "both": 10}
"""A training must not come to its end among them."""


class Broken(Exception):
    """A promise was not kept."""


def promise(kept: bool, sentence: str) -> None:
    """Raises `Broken` with the sentence unless it was kept."""
    if not kept:
        raise Broken(sentence)


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The first true value; `Broken` where none comes."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        promise(time.monotonic() < end, f"This did not happen in {PATIENCE:.0f} s: {what}.")
        time.sleep(0.005)
    return value


# The processes


class Process:
    """A child of this program, run by this file with another first argument."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, __file__, *map(str, arguments)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self, number: int) -> None:
        """Send a signal and wait for the end; all that it has said is in `lines` then."""
        self._process.send_signal(number)
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # A line that the kill has cut says nothing.
            if line.endswith("\n"):
                self.lines.append(line)


class Server:
    """The server on a data directory, at the same port whenever it is started."""

    def __init__(self, data_dir: Path, broken: str | None) -> None:
        self.data_dir = data_dir
        self.url = ""
        self._broken = broken
        self._process: Process | None = None

    def start(self) -> None:
        port = self.url.rpartition(":")[2] or "0"
        self._process = Process("serve", self.data_dir, port, self._broken or "")
        began = self._process
        wait_for(lambda: began.lines or not began.alive, "the server answers")
        promise(bool(began.lines), "The server did not start.")
        self.url = began.lines[0].strip()

    def end(self, number: int) -> None:
        assert self._process is not None
        self._process.end(number)

    def ask(self, method: Literal["GET", "POST"], path: str, body: Any = None) -> Any:
        answer = httpx.request(method, f"{self.url}/api/v1/{path}", json=body, timeout=60, trust_env=False)
        promise(answer.is_success, f"{path} was answered with {answer.status_code}: {answer.text}")
        return answer.json()


def serve(data_dir: str, port: str, broken: str) -> None:
    """The server's process."""
    from core.server.serve import Running
    from core.server.serve import serve as serve_forever
    from core.settings import Settings

    # A log that has run for hours makes a checkpoint every minute; here every round should meet some.
    defaults = EventStore.open.__func__.__kwdefaults__  # type: ignore[attr-defined]
    defaults |= {"wal_limit": 200_000, "idle": 0.03}

    def ready(running: Running) -> None:
        if broken == "ack-before-commit":
            lie(running.studio.store)
        print(running.url, flush=True)

    serve_forever(Settings(data_dir=Path(data_dir), port=int(port), ui=False), on_ready=ready)


def lie(store: EventStore) -> None:
    """From now on the log acknowledges what it has not made durable: only every fiftieth transaction is committed."""
    database = store._database  # pyright: ignore[reportPrivateUsage]
    writer = database._writer  # pyright: ignore[reportPrivateUsage]
    count = 0

    def transact(fn: Callable[[Any], Any]) -> Any:
        nonlocal count
        if count % 50 == 0:
            writer.begin()
        count += 1
        answer = fn(writer)
        if count % 50 == 0:
            writer.commit()
        return answer

    database.transact = transact  # type: ignore[method-assign]
    database.checkpoint = lambda patience: None  # type: ignore[method-assign]


def emit(data_dir: str, training: str, step: str) -> None:
    """The process that writes without torch: emits in bursts after `step`, and says what is emitted and durable."""
    folder = Path(data_dir) / "trainings" / training
    chance = random.Random()
    events = serving.steps(1_000)
    # The server may be taking in what the one before has left.
    with hold(folder, wait=30):
        created = TrainingCreated(name="under fire")
        address = lambda: read_address(Path(data_dir))  # noqa: E731
        emitter = Emitter(folder, training, address=address, created=created, segment_size=1 << 16)
        number = int(step)
        if number:
            emitter.emit(TrainingResumed(step=number))
        emitter.emit(TrainingStarted(pid=0, host="here", device="cpu", saes=(Sae(layer=0, hook="resid_post"),)))
        while True:
            for _ in range(chance.randint(1, 120)):
                number += 1
                emitter.emit(msgspec.structs.replace(events[number % 1_000], step=number))
            # What is emitted has its final number once this process has heard from the log.
            durable = emitter.acknowledged
            print(json.dumps([number, durable and emitter.version, durable]), flush=True)
            time.sleep(chance.random() * 0.01)


# Who watches


class Witness(threading.Thread):
    """A follower that outlives every server, and what it has seen."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.position = 0
        self.versions: dict[str, int] = {}
        self.broken: str | None = None
        self._log_id: str | None = None
        self._follower = Follower(url)

    def run(self) -> None:
        try:
            for message in self._follower.sync_messages():
                if isinstance(message, Subscribed):
                    promise(self._log_id in (None, message.log_id), "The log has another incarnation.")
                    self._log_id = message.log_id
                elif isinstance(message, list):
                    for event in message:
                        self._see(event.position, event.stream, event.version)
        except Broken as error:
            self.broken = str(error)

    def _see(self, position: int, stream: str, version: int) -> None:
        promise(position == self.position + 1, f"A follower got position {position} behind {self.position}.")
        before = self.versions.get(stream, 0)
        promise(version == before + 1, f"A follower got version {version} of {stream} behind {before}.")
        self.position, self.versions[stream] = position, version

    def saw(self, stream: str, version: int) -> bool:
        """Whether it has seen a stream up to a version. Raises `Broken` where it has seen what must not be."""
        promise(self.broken is None, self.broken or "")
        return self.versions.get(stream, 0) >= version

    def close(self) -> None:
        self._follower.close()
        self.join(10)


def check_files(data_dir: Path, durable: dict[str, int]) -> None:
    """A copy of the log's files as the kill left them is a whole log with everything that was acknowledged."""
    with tempfile.TemporaryDirectory(prefix="saestudio-crash-copy-") as folder:
        for file in data_dir.glob("log.duckdb*"):
            if file.is_file():
                shutil.copy(file, folder)
        with EventStore.open(Path(folder) / "log.duckdb", idle=3_600) as store:
            promise(store.lost is None, f"The log has lost what was acknowledged: {store.lost}.")
            for stream, version in durable.items():
                found = store.version(stream)
                promise(found >= version, f"{stream} was acknowledged up to {version}; the log has {found}.")
            with store.reading() as con:
                wrong = integrity.difference(con)
            promise(wrong is None, f"The log is not whole: {wrong}.")
            projections = Projections(store)
            projections.start()
            different = [one.table for one in projections.verify() if not one.matches]
            promise(not different, f"These are not what the log adds up to: {', '.join(different)}.")


def verify(server: Server) -> None:
    """The server's own verdict."""
    job = server.ask("POST", "maintenance/verify")["id"]
    done = wait_for(
        lambda: (found := server.ask("GET", f"maintenance/{job}"))["status"] != "running" and found, "verify ends"
    )
    promise(done["status"] == "completed", f"verify failed: {done['detail']}")
    promise(all(one["matches"] for one in done["verified"]), f"verify: {done['detail']}")


# The rounds


class WithEmitter:
    """A training that a process without torch writes."""

    def __init__(self, server: Server, witness: Witness, chance: random.Random, *, broken: bool) -> None:
        self._server, self._witness, self._chance = server, witness, chance
        # A log that lies is found out when it is killed; it cannot do more than append.
        self._broken = broken
        self._victims = [("emitter",), ("server",), ("emitter", "server"), ("server", "emitter")][1 if broken else 0 :]
        self._training = new_id()
        self._stream = f"training-{self._training}"
        self._step = 0
        self._process: Process | None = None

    def round(self) -> None:
        emitter = self._process
        if emitter is None or not emitter.alive:
            # A resume goes back to a checkpoint: what lies behind it is preempted.
            step = max(0, self._step - self._chance.randint(0, 40))
            self._process = emitter = Process("emit", self._server.data_dir, self._training, step)
        heard = len(emitter.lines)
        wait_for(lambda: len(emitter.lines) > heard or not emitter.alive, "the emitter emits")
        victims = self._chance.choice(self._victims)
        for victim in victims:
            time.sleep(self._chance.random() ** 2 * 0.6)  # the moment is what is drawn
            if victim == "emitter":
                emitter.end(signal.SIGKILL)
            else:
                self._server.end(signal.SIGKILL)
        step, emitted, acknowledged = json.loads(emitter.lines[-1])
        self._step = max(self._step, step)
        if "server" in victims:
            seen = self._witness.versions.get(self._stream, 0)
            check_files(self._server.data_dir, {self._stream: max(acknowledged, seen)})
            self._server.start()
        wait_for(
            lambda: self._witness.saw(self._stream, max(emitted, acknowledged)), "the log has all that was emitted"
        )
        if not self._broken:
            verify(self._server)

    def end(self) -> None:
        if self._process is not None and self._process.alive:
            self._process.end(signal.SIGKILL)


class WithTrainer:
    """A training of the real trainer; `kill` says who dies."""

    def __init__(self, server: Server, witness: Witness, chance: random.Random, kill: str) -> None:
        self._server, self._witness, self._chance, self._kill = server, witness, chance, kill
        corpus = server.data_dir.parent / "corpus.txt"
        corpus.write_text("\n\n".join(inspect.getsource(module) for module in (argparse, inspect, subprocess)))
        config = {
            "model": "demo", "datasets": [str(corpus)], "architecture_type": "topk", "k": 8, "latent_dim": 256,
            "training_layers": [1], "batch_size": 8, "total_steps": 50_000, "checkpoint_interval": 25,
            "eval_interval": 0, "device": "cpu",
        }  # fmt: skip
        self._training: str = server.ask("POST", "trainings", {"name": "under fire", "config": config})["id"]
        self._stream = f"training-{self._training}"

    def round(self) -> None:
        row = wait_for(self._running, "the trainer trains")
        begun, wanted = row["step"], self._chance.randint(2, 60)
        wait_for(lambda: self._row()["step"] >= begun + wanted, "steps are trained")
        pid = self._row()["pid"]
        time.sleep(self._chance.random() * 0.5)  # the moment is what is drawn
        if self._kill != "trainer":
            self._server.end(signal.SIGKILL)
        if self._kill != "server":
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        seen = self._witness.versions.get(self._stream, 0)
        if self._kill != "trainer":
            check_files(self._server.data_dir, {self._stream: seen})
            self._server.start()
        if self._kill == "server":
            wait_for(lambda: self._witness.saw(self._stream, seen + 10), "the trainer's next steps")
        else:
            wait_for(lambda: self._row()["status"] == "interrupted", "the training is interrupted")
            wait_for(lambda: self._witness.saw(self._stream, seen), "the log has all that was acknowledged")
        self._check_history()
        verify(self._server)
        if self._kill != "server":
            self._server.ask("POST", f"trainings/{self._training}/control", {"action": "resume"})

    def end(self) -> None:
        if (pid := self._row()["pid"]) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _row(self) -> dict[str, Any]:
        return self._server.ask("GET", f"trainings/{self._training}")

    def _running(self) -> dict[str, Any] | None:
        row = self._row()
        promise(row["status"] != "failed", f"The training failed: {row['reason']}")
        return row if row["status"] == "running" and row["step"] else None

    def _check_history(self) -> None:
        rows = self._server.ask("GET", f"trainings/{self._training}/metrics?limit=1000000&order=asc")["data"]
        steps = [row["step"] for row in rows]
        promise(steps == list(range(1, len(steps) + 1)), "The history does not have every step once.")


@contextlib.contextmanager
def folder_of(keep: list[Path]) -> Iterator[Path]:
    """A data directory that is deleted unless something went wrong in it."""
    folder = Path(tempfile.mkdtemp(prefix="saestudio-crash-"))
    try:
        yield folder / "data"
    except BaseException:
        keep.append(folder)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def some_rounds(data_dir: Path, count: int, options: argparse.Namespace, chance: random.Random) -> Iterator[None]:
    """Rounds on one data directory."""
    data_dir.mkdir()
    server = Server(data_dir, options.broken)
    server.start()
    witness = Witness(server.url)
    witness.start()
    line = (
        WithEmitter(server, witness, chance, broken=options.broken is not None)
        if options.kill == "emitter"
        else WithTrainer(server, witness, chance, options.kill)
    )
    try:
        for _ in range(count):
            line.round()
            yield
    finally:
        with contextlib.suppress(Broken, httpx.TransportError):
            line.end()
        witness.close()
        server.end(signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kill", choices=("emitter", "trainer", "server", "both"), default="emitter")
    parser.add_argument("--break", dest="broken", choices=("ack-before-commit",))
    parser.add_argument("--seed", type=int, default=now_us() % 1_000_000)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    print(f"{options.rounds} rounds, --kill {options.kill}, --seed {options.seed}", flush=True)
    began, done, keep = time.monotonic(), 0, list[Path]()
    try:
        while done < options.rounds:
            with folder_of(keep) as data_dir:
                count = min(ROUNDS_A_FOLDER[options.kill], options.rounds - done)
                for _ in some_rounds(data_dir, count, options, chance):
                    done += 1
                    if done % 10 == 0 or options.kill != "emitter":
                        print(f"round {done} of {options.rounds}, {time.monotonic() - began:.0f} s", flush=True)
    except Broken as error:
        print(f"BROKEN in round {done + 1}: {error}\nThe data directory is kept: {keep[0]}", flush=True)
        return 1
    print(f"{done} rounds, every promise kept, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", *arguments]:
            serve(*arguments)
        case ["emit", *arguments]:
            emit(*arguments)
        case _:
            sys.exit(main())
