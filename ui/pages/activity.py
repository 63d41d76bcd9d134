"""Who did what, over everything: live, and as far back as the log goes."""

from __future__ import annotations

from typing import Any

from ..answers import AllActivityPage, Deed
from ..components.activity import Activity
from ..feed import Cursor
from ..gateway import ApiError
from ..session import Refresh, Route, Session, unparse
from ..state import activity

_AT_ONCE = 50


class ActivityPage:
    """What is shown is the newest page of the API's answer joined to the older ones that were asked for.

    Kind and actor are part of the address.
    """

    title = "Activity"

    def __init__(self, session: Session, route: Route) -> None:
        self._session = session
        self._cursor = Cursor(session.feed)
        self._refresh = Refresh(session, self._ask, pause=0.5)
        kind = route.get("kind", "")
        self._kind = kind if kind in activity.KINDS else ""
        self._actor = route.get("actor", "")
        self._actors: tuple[str, ...] = ()
        self._deeds: list[Deed] | None = None
        self._more = False
        self._fetching = False
        self._failed = ""
        self._list = Activity(sizing_mode="stretch_width")
        self._list.on_action(self._act)

    def body(self) -> list[Any]:
        return [self._list]

    def open(self) -> None:
        self._show()
        self._refresh.want(now=True)

    def push(self) -> None:
        if self._cursor.has_news(activity.concerns) or (self._failed and self._session.feed.away is None):
            self._refresh.want()

    def close(self) -> None:
        self._refresh.stop()

    async def _page(self, before: int | None = None) -> tuple[AllActivityPage | None, str]:
        """A page of the answer, or why there is none."""
        try:
            # One more than is shown tells whether there are older ones.
            found = await self._session.gateway.everything_done(
                actor=self._actor, kind=self._kind, limit=_AT_ONCE + 1, before=before
            )
        except ApiError as error:
            return None, f"What was done could not be loaded: {error}"
        return found, ""

    async def _ask(self) -> None:
        asked = (self._kind, self._actor)
        page, failed = await self._page()
        self._session.change(lambda: self._take(page, failed, asked))

    def _take(self, page: AllActivityPage | None, failed: str, asked: tuple[str, str]) -> None:
        if asked != (self._kind, self._actor):
            return
        self._failed = failed
        if page is not None:
            self._actors = page.actors
            newest, more = page.data[:_AT_ONCE], len(page.data) > _AT_ONCE
            joined = activity.joined(self._deeds or (), newest) if more else None
            # Otherwise it is all there is; or so much has happened that what was shown does not follow any more.
            self._deeds = list(newest) if joined is None else joined
            self._more = more if joined is None else self._more
        self._show()

    async def _older(self, before: int) -> None:
        asked = (self._kind, self._actor)
        page, failed = await self._page(before)
        self._session.change(lambda: self._take_older(page, failed, before, asked))

    def _take_older(self, page: AllActivityPage | None, failed: str, before: int, asked: tuple[str, str]) -> None:
        self._fetching = False
        known = self._deeds or []
        if asked == (self._kind, self._actor) and known and known[-1].position == before:
            self._failed = failed
            if page is not None:
                self._deeds = known + list(page.data[:_AT_ONCE])
                self._more = len(page.data) > _AT_ONCE
        self._show()

    def _show(self) -> None:
        names = [*self._actors, *([self._actor] if self._actor and self._actor not in self._actors else [])]
        view: dict[str, Any] = {
            "failed": self._failed,
            "loading": self._deeds is None and not self._failed,
            "more": self._more,
            "filtered": bool(self._kind or self._actor),
            "kinds": {"list": [("", "everything"), *activity.KINDS.items()], "value": self._kind},
            "actors": {"list": [("", "anybody"), *activity.actors(names)], "value": self._actor},
            "rows": [activity.row(deed) for deed in self._deeds or ()],
        }
        self._list.present(view)

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        match kind:
            case "kind" if message.get("kind") in ("", *activity.KINDS):
                self._look(message["kind"], self._actor)
            case "actor" if isinstance(message.get("actor"), str):
                self._look(self._kind, message["actor"])
            case "clear":
                self._look("", "")
            case "more" if self._deeds and self._more and not self._fetching:
                self._fetching = True
                self._session.spawn(self._older(self._deeds[-1].position))
            case "retry":
                self._refresh.want(now=True)

    def _look(self, kind: str, actor: str) -> None:
        self._kind, self._actor = kind, actor
        self._deeds, self._more = None, False
        self._session.router.replace(unparse({"page": "activity", "kind": kind, "actor": actor}))
        self._show()
        self._refresh.want(now=True)
