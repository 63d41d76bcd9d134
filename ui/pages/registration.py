"""The dialog that registers a model or data set: it is checked first, and only what loads can be registered."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection
from typing import Any

from ..gateway import ApiError, ApiRefused
from ..session import Session
from ..state.catalogue import FIELDS, NOUNS, Entry, cleaned, facts, id_of, kind_of, wanted_of

_LOOK_EVERY = 0.5
"""Seconds between two looks at what a check does."""


class Registration:
    """One registration at a time. `show` draws the page anew, `done` is told in a sentence what was registered.

    Its actions are `register` (`kind`: open the dialog), `check` (`values`), `changed` (what was checked is not what
    stands there any more), `register_now` and `register_cancel`.
    """

    def __init__(self, session: Session, show: Callable[[], None], done: Callable[[str], None]) -> None:
        self._session = session
        self._show = show
        self._done = done
        self._opened = ""
        self._kind = "model"
        self._given: dict[str, str] = {}
        self._wanted: dict[str, str] = {}
        self._found: Entry | None = None
        self._problems: dict[str, str] = {}
        self._problem = ""
        self._doing = ""
        self._tasks: list[asyncio.Task[None]] = []

    def view(self, registered: Collection[str]) -> dict[str, Any] | None:
        """What the dialog shows; None while it is closed. `registered` are the ids that there are."""
        if not self._opened:
            return None
        found = None
        if self._found is not None:
            found = {
                "id": id_of(self._found),
                "title": self._found.title,
                "facts": facts(self._found),
                "known": id_of(self._found) in registered,
            }
        return {
            "opened": self._opened,
            "kind": self._kind,
            "noun": NOUNS[self._kind],
            "fields": list(FIELDS[self._kind]),
            "given": self._given,
            "problems": self._problems,
            "problem": self._problem,
            "doing": self._doing,
            "found": found,
        }

    def again(self, entry: Entry) -> None:
        """Open the dialog with what registered `entry`, and check that it still loads."""
        self._open(kind_of(entry), wanted_of(entry))
        self._check(self._given)

    def stop(self) -> None:
        """Wait for nothing any more. What is being checked is known to the server when it is asked for again."""
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._doing = ""

    def act(self, kind: str, message: dict[str, Any]) -> bool:
        """Do what was asked for; False where it is none of the dialog's actions."""
        match kind:
            case "register" if message.get("kind") in NOUNS:
                self._open(str(message["kind"]), {})
            case "check" if self._opened and isinstance(message.get("values"), dict):
                self._check(cleaned(self._kind, message["values"]))
            case "changed":
                self.stop()
                self._found, self._problems, self._problem = None, {}, ""
            case "register_now" if self._found is not None and not self._doing:
                self._doing = "Registering…"
                self._tasks = [self._session.spawn(self._register(self._opened))]
            case "register_cancel":
                self.stop()
                self._opened = ""
            case _:
                return False
        self._show()
        return True

    def _open(self, kind: str, given: dict[str, str]) -> None:
        self.stop()
        self._opened, self._kind, self._given = uuid.uuid4().hex, kind, given
        self._found, self._problems, self._problem = None, {}, ""

    def _check(self, wanted: dict[str, str]) -> None:
        self.stop()
        self._wanted, self._found, self._problems, self._problem = wanted, None, {}, ""
        if "source" not in wanted:
            self._problems = {"source": f"Give the {NOUNS[self._kind]}'s hub id, or a path on the server's machine."}
        else:
            self._doing = "Checking…"
            self._tasks = [self._session.spawn(self._inspect(self._opened)), self._session.spawn(self._watch())]
        self._show()

    async def _inspect(self, opened: str) -> None:
        found, failed = None, None
        try:
            found = await self._session.gateway.inspect(self._kind, self._wanted)
        except ApiError as error:
            failed = error

        def take() -> None:
            if opened == self._opened and self._doing:
                self.stop()
                self._found = found
                self._refuse(failed)
                self._show()

        self._session.change(take)

    async def _watch(self) -> None:
        """Tell what the check does, as long as it goes on."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                going_on = await self._session.gateway.inspections()
            except ApiError:
                # The check itself says what is wrong.
                continue
            source = self._wanted["source"]
            mine = next((one for one in going_on if (one.kind, one.source) == (self._kind, source)), None)
            if mine is not None:
                doing = f"{mine.doing[:1].upper()}{mine.doing[1:]}, for {mine.seconds:.0f} s"
                self._session.change(lambda doing=doing: self._say(doing))

    def _say(self, doing: str) -> None:
        if self._doing:
            self._doing = doing
            self._show()

    def _refuse(self, failed: ApiError | None) -> None:
        if isinstance(failed, ApiRefused) and failed.fields:
            self._problems = {one.field: one.message for one in failed.fields}
        elif failed is not None:
            self._problem = str(failed)

    async def _register(self, opened: str) -> None:
        failed = None
        try:
            await self._session.gateway.register(self._kind, self._wanted)
        except ApiError as error:
            failed = error

        def take() -> None:
            if opened != self._opened:
                return
            self._doing = ""
            if failed is not None:
                self._refuse(failed)
                self._show()
                return
            assert self._found is not None
            self._opened = ""
            self._done(f"The {NOUNS[self._kind]} {id_of(self._found)} is registered.")

        self._session.change(take)
