"""The log of a training: the last lines at once, older ones on the way up, new ones as they are written."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from events.event import Recorded
from events.log import LogWritten

from ..answers import LogLine, LogPage
from ..components.log import Log
from ..feed import Cursor
from ..gateway import ApiError
from ..session import Refresh, Session

LINES = 50
"""Lines that are shown at the opening."""

OLDER = 200
"""Lines that are added at once on the way up."""

SEVERITY = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}


class LogSection:
    """Log lines, each once and in order.

    What is shown is always an answer of the API and what the feed has brought since the position that it is true at;
    nothing is remembered over closing, so that reopening shows what the log holds.
    """

    def __init__(self, session: Session, training_id: str) -> None:
        self._session = session
        self._id = training_id
        self._cursor = Cursor(session.feed, (f"training-{training_id}",))
        self._refresh = Refresh(session, self._ask, pause=0.2)
        self._open = True
        self._level = ""
        self._q = ""
        self._failed = ""
        self._note = "Loading the log…"
        self._ready = False
        self._beginning = 0
        self.root = Log(sizing_mode="stretch_width")
        self.root.on_action(self._act)
        self._show()

    def open(self) -> None:
        """Begin with the last lines."""
        self._begin()

    def close(self) -> None:
        """Ask no more."""
        self._refresh.stop()

    def push(self) -> None:
        """Add the lines that have come."""
        if not self._ready:
            if self._failed and self._open and self._session.feed.away is None:
                self._begin()
            return
        events = self._cursor.take()
        if events is None:
            self._begin()
            return
        lines = [line for line in map(_line, events) if line is not None and self._wanted(line)]
        if lines:
            if self._note:
                self._note = ""
                self._show()
            self.root.append(lines)

    def _begin(self) -> None:
        self._ready = False
        self._beginning += 1
        self._show()
        self._refresh.want(now=True)

    async def _ask(self) -> None:
        beginning = self._beginning
        try:
            page = await self._session.gateway.logs(self._id, limit=LINES, level=self._level, q=self._q)
        except ApiError as error:
            reason = f"The log could not be loaded: {error}"
            self._session.change(lambda: self._fail(reason, beginning))
        else:
            self._session.change(lambda: self._take(page, beginning))

    def _fail(self, reason: str, beginning: int) -> None:
        if beginning != self._beginning or not self._open:
            # Something else is looked for by now.
            return
        self._failed = reason
        self._note = ""
        self._show()

    def _take(self, page: LogPage, beginning: int) -> None:
        if beginning != self._beginning or not self._open:
            return
        self._failed = ""
        self._note = "" if page.data else "No line fits." if self._q or self._level else "Nothing has been logged yet."
        self._cursor.position = page.position
        self._ready = True
        # The lines before the view that names their beginning, or the browser would ask for what is on its way.
        self.root.reset(page.data, more=len(page.data) == LINES, beginning=beginning)
        self._show()
        self.push()

    async def _older(self, before: int) -> None:
        beginning = self._beginning
        try:
            page = await self._session.gateway.logs(self._id, limit=OLDER, before=before, level=self._level, q=self._q)
        except ApiError as error:
            reason = f"Older lines could not be loaded: {error}"
            self._session.change(lambda: self._fail(reason, beginning))
        else:
            self._session.change(lambda: self._take_older(page, beginning))

    def _take_older(self, page: LogPage, beginning: int) -> None:
        # Lines from before another beginning would not connect to those that are shown.
        if self._ready and beginning == self._beginning:
            self.root.prepend(page.data, more=len(page.data) == OLDER)

    def _wanted(self, line: LogLine) -> bool:
        if self._level and SEVERITY.get(line.level, 0) < SEVERITY[self._level]:
            return False
        looked_for = self._q.lower()
        return not looked_for or looked_for in line.message.lower() or looked_for in line.logger.lower()

    def _download(self) -> str:
        """Where the whole log is as text, with what is looked for now."""
        query = {"format": "text", "level": self._level, "q": self._q}
        wanted = urlencode({name: value for name, value in query.items() if value})
        return f"api/v1/trainings/{quote(self._id, safe='')}/logs?{wanted}"

    def _show(self) -> None:
        self.root.present(
            {
                "place": self._id,
                "open": self._open,
                "download": self._download(),
                "level": self._level,
                "q": self._q,
                "note": self._note,
                "failed": self._failed,
                "beginning": self._beginning if self._ready else None,
            }
        )

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        match kind:
            case "toggle" if bool(message.get("open")) != self._open:
                self._open = not self._open
                self._failed = ""
                if self._open:
                    self._begin()
                else:
                    self._ready = False
                    self._show()
            case "level" if message.get("level") in ("", *SEVERITY):
                self._level = message["level"]
                self._begin()
            case "search":
                self._q = str(message.get("q", "")).strip()[:200]
                self._begin()
            case "older" if self._ready and isinstance(message.get("before"), int):
                self._session.spawn(self._older(message["before"]))
            case "retry":
                self._failed = ""
                self._begin()
            case "drawn" if self._ready:
                self._begin()


def _line(recorded: Recorded) -> LogLine | None:
    if not isinstance(recorded.data, LogWritten):
        return None
    return LogLine(
        version=recorded.version,
        timestamp=recorded.occurred_at,
        level=recorded.data.level,
        logger=recorded.data.logger,
        message=recorded.data.message,
        position=recorded.position,
    )
