"""`saestudio demo`: a server and a short training on the demo model, through the same API as everybody's."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from core.api import Api, RequestRefused, ServerUnreachable
from core.settings import DEFAULT_PORT, Settings
from events.client import ServerAddress
from events.control import TrainingLaunched
from events.errors import SpoolLocked
from events.event import Recorded
from events.log import LogWritten
from events.spool import hold
from events.status import PROCESS_EXPECTED, TrainingState, evolve
from events.training import StepTrained, TrainingStarted

from . import headless, output, server
from .client import command, data_dir, failures, follow, prepared, program, running_server, streams_of
from .train import DEMO

_PATIENCE = 60.0
"""Seconds that a trainer gets to save its checkpoint, and a server to end, after Ctrl-C."""

_NO_LONGER = ("failed", "stopped", "interrupted")


def demo(options: argparse.Namespace) -> int:
    """Start a server and a training, show both, and end both at Ctrl-C."""
    port = DEFAULT_PORT if options.port is None else options.port
    settings = prepared(Settings(data_dir=data_dir(options), port=port))
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    process: subprocess.Popen[bytes] | None = None
    address = running_server(settings.data_dir)
    if address is not None:
        output.out().print(f"SAE Studio runs already at {address.url}", markup=False)
    else:
        with output.err().status("Starting the server"):
            served, process = server.start(settings)
        address = ServerAddress(served.url)
        server.greet(served, settings, wanted_port=options.port)
        if not options.no_browser:
            server.open_browser(served.sign_in_url)
    show = Show(settings, leave=options.exit)
    status = 0
    try:
        with failures(), Api(address) as api:
            status = show.run(api)
        if not options.exit:
            output.out().print(f"\nCtrl-C ends {'the server' if process else 'this'}.")
            signal.pause()
    except KeyboardInterrupt:
        output.err().print()
    finally:
        show.end(address)
        if process is not None:
            with output.err().status("Ending the server"):
                process.terminate()
                process.wait()
        again = command("up", settings.data_dir)
        output.out().print(f"The data lies in {settings.data_dir}; open it again with {again}.", markup=False)
    return status


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


class Show:
    """One training: created, followed on the event socket, shown in the terminal, and ended.

    With `leave`, whatever ends the training ends the show; without, it waits for somebody to go on with it.
    """

    def __init__(self, settings: Settings, *, leave: bool) -> None:
        self._settings = settings
        self._leave = leave
        self._id: str | None = None
        self._state = TrainingState()
        self._pid: int | None = None
        self._steps: dict[int, StepTrained] = {}

    def run(self, api: Api) -> int:
        """Create the training, show it until its end, and say what came out; the exit status for that."""
        created = api.post("trainings", {"name": "Demo", "config": DEMO})
        self._id = created["id"]
        with headless.display() as shown:
            shown.say(f"Training {self._id}: two sparse autoencoders on two layers of a small language model")
            for recorded in follow(api, *streams_of(created["id"]), after=created["position"]):
                self._take(recorded, shown)
                if self._state.status == "completed" or (self._leave and self._state.status in _NO_LONGER):
                    break
        row = api.training(created["id"])
        if row["status"] != "completed":
            return 1
        evaluations = api.get(f"trainings/{created['id']}/evaluations")["data"]
        output.out().print(outcome(row, evaluations), markup=False)
        self._suggest(api)
        return 0

    def end(self, address: ServerAddress) -> None:
        """Have the trainer save a checkpoint and end, if it is at work; at a second Ctrl-C, kill it."""
        if self._id is None or self._state.status in ("completed", *_NO_LONGER):
            return
        try:
            with output.err().status("Saving a checkpoint (Ctrl-C: end without it)"):
                self._ask_to_end(address)
                hold(self._settings.run_folder(self._id), wait=_PATIENCE).release()
                self._await_exit()
        except KeyboardInterrupt:
            self._signal(signal.SIGKILL)
        except SpoolLocked:
            output.err().print(f"The trainer (process {self._pid}) has not ended within {_PATIENCE:g} seconds.")
            return
        go_on = command(f"resume {self._id}", self._settings.data_dir)
        output.out().print(f"The training can be resumed: {go_on}.", markup=False)

    def _take(self, recorded: Recorded, shown: headless.Lines | headless.Bar) -> None:
        """Take in one event: the figures of a step, a new status, a line of the log before the first step."""
        before, event = self._state.status, recorded.data
        self._state = evolve(self._state, event)
        match event:
            case StepTrained():
                self._steps[event.sae] = event
                shown.show(_line(list(self._steps.values())))
            case LogWritten() if not self._steps:
                shown.show(headless.ProgressLine(phase=event.message))
            case TrainingLaunched():
                self._pid = event.pid
            case TrainingStarted():
                self._pid = event.pid
                mend = command(f"resume {self._id}", self._settings.data_dir)
                shown.say(f"Its process is {event.pid}. Break it with 'kill -9 {event.pid}', then mend it with {mend}.")
            case _:
                pass
        if self._state.status != before and self._state.status in (*_NO_LONGER, "paused"):
            because = f": {self._state.reason}" if self._state.reason else "."
            mend = command(f"resume {self._id}", self._settings.data_dir)
            shown.say(f"The training is {self._state.status}{because} Go on with {mend}.")

    def _suggest(self, api: Api) -> None:
        """What to try next."""
        folder = self._settings.data_dir
        follow_url = api.address.websocket("/api/v1/events/follow", "tail=10")
        output.out().print("\nTry next")
        output.print_facts(
            [
                (
                    "  break it",
                    f"{command('train --demo', folder)} in another terminal, and kill -9 the process it names;",
                ),
                ("", f"{command('resume ID', folder)} goes on, and every step is there once"),
                (
                    "  your own",
                    f"{command('train CONFIG.toml', folder)} with model = a folder or hub id, datasets = [...]",
                ),
                ("  its log", command(f"logs -f {self._id}", folder)),
                ("  listen", f"{program('python')} -m websockets '{follow_url}'"),
            ]
        )

    def _ask_to_end(self, address: ServerAddress) -> None:
        """Ask through the server while one answers, else by a signal, which means the same to the trainer."""
        assert self._id is not None
        try:
            with Api(address, timeout=10) as api:
                for _ in range(3):
                    status = api.training(self._id)["status"]
                    if status not in PROCESS_EXPECTED and status != "queued":
                        return
                    with contextlib.suppress(RequestRefused):  # its status has changed since it was asked for
                        api.control(self._id, "pause" if status == "running" else "stop")
                        return
        except ServerUnreachable:
            self._signal(signal.SIGINT)

    def _await_exit(self) -> None:
        """Wait until the trainer's process, which has let go of its folder, is gone as well."""
        deadline = time.monotonic() + _PATIENCE
        with contextlib.suppress(ProcessLookupError, PermissionError):
            while self._pid is not None and time.monotonic() < deadline:
                os.kill(self._pid, 0)
                time.sleep(0.05)

    def _signal(self, number: int) -> None:
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)


def outcome(row: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]) -> str:
    """What a training has come to, in a sentence: from its last evaluation where there is one."""
    last = [one for one in evaluations if one["step"] == row["step"]]
    config: Mapping[str, Any] = row["config"]
    count = len(row["saes"])
    latents = count * config["latent_dim"]
    if last:
        fvu, l0 = (sum(one[name] or 0.0 for one in last) / len(last) for name in ("fvu", "l0"))
        dead = sum(one["dead_latents"] for one in last)
        text = f"{last[0]['tokens']:,} held-out tokens"
    else:
        fvu, l0, dead, text = row["fvu"], row["l0"], row["dead_latents"], "its last tokens"
    share = "none" if not dead else f"{dead:,} ({dead / latents:.1%})"
    return (
        f"Done: {row['step']:,} steps of {config['batch_size']:,} tokens. On {text} the {count} autoencoders leave"
        f" {fvu:.1%} of the variance unexplained (FVU {fvu:.3f}) with {l0:.1f} active latents per token (L0);"
        f" {share} of the {latents:,} latents are dead."
    )


def _line(steps: Sequence[StepTrained]) -> headless.ProgressLine:
    """The newest step of every SAE as one line: means over the SAEs."""
    newest = steps[-1]
    left = (DEMO["total_steps"] - newest.step) * DEMO["batch_size"]
    return headless.ProgressLine(
        step=newest.step,
        total_steps=DEMO["total_steps"],
        loss=sum(one.loss for one in steps) / len(steps),
        l0=sum(one.l0 for one in steps) / len(steps),
        fvu=sum(one.fvu for one in steps) / len(steps),
        tokens_per_second=newest.tokens_per_second,
        eta_seconds=left / newest.tokens_per_second if newest.tokens_per_second > 0 else None,
    )
