"""What a trainer has been asked to do: by the server, over its socket, or by a signal."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from events.control import CheckpointRequested, PauseRequested, StopRequested
from events.event import Event, Recorded


class Wishes:
    """Requests waiting for the loop, which looks at them between two steps. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[Recorded] = []
        self._signalled = False
        self._handled_until = 0
        self.latest = 0
        """When the latest control event that came in occurred (the server's clock, µs since 1970); 0 for none."""

    def on_control(self, recorded: Recorded) -> None:
        """Take in a control event."""
        with self._lock:
            if recorded.occurred_at > self._handled_until:
                self.latest = max(self.latest, recorded.occurred_at)
                self._requests.append(recorded)

    def forget_up_to(self, occurred_at: int) -> None:
        """An earlier process carried out everything that was asked for up to `occurred_at`.

        The server sends a training's control again to every new process, also to one that it was not asked to resume.
        """
        with self._lock:
            self._handled_until = occurred_at
            self._requests = [request for request in self._requests if request.occurred_at > occurred_at]
            self.latest = max(self.latest, occurred_at)

    def on_signal(self, number: int, _: FrameType | None) -> None:
        """SIGINT and SIGTERM mean pause. Runs between two instructions of the main thread: it must not lock."""
        self._signalled = True

    def listen_to_signals(self) -> None:
        """From now on SIGINT and SIGTERM pause the training."""
        signal.signal(signal.SIGINT, self.on_signal)
        signal.signal(signal.SIGTERM, self.on_signal)

    @property
    def stop(self) -> bool:
        """Whether the training should end for good."""
        return self._asked(StopRequested)

    @property
    def leave(self) -> bool:
        """Whether the loop should end: a pause or a stop."""
        return self._signalled or self._asked(PauseRequested, StopRequested)

    def take_checkpoint(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        if not self._asked(CheckpointRequested):
            return False
        with self._lock:
            self._requests = [one for one in self._requests if not isinstance(one.data, CheckpointRequested)]
        return True

    def _asked(self, *kinds: type[Event]) -> bool:
        # A list is replaced or appended to, never changed in place: reading it needs no lock.
        return any(isinstance(request.data, kinds) for request in self._requests)
