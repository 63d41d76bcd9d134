"""The list of trainings."""

from __future__ import annotations

from typing import Any

from ..components.training_list import TrainingList
from ..feed import Cursor
from ..gateway import ApiError
from ..gateway import TrainingPage as Answer
from ..session import Refresh, Route, Session, unparse
from ..state.trainings import FILTERS, ListView, list_page

_STEP = 50
_SECONDS_BETWEEN = 1.0


class TrainingsPage:
    """The list of trainings, live; filter and search are part of its address."""

    title = "Trainings"

    def __init__(self, session: Session, route: Route) -> None:
        self._session = session
        status = route.get("status", "")
        self._view = ListView(status=status if status in FILTERS else "", q=route.get("q", ""), limit=_STEP)
        self._cursor = Cursor(session.feed)
        self._refresh = Refresh(session, self._ask, pause=_SECONDS_BETWEEN)
        self._answer: Answer | None = None
        self._failed = ""
        self._list = TrainingList(sizing_mode="stretch_width")
        self._list.on_action(self._act)

    def body(self) -> list[Any]:
        return [self._list]

    def open(self) -> None:
        self._show()
        self._refresh.want(now=True)

    def push(self) -> None:
        events = self._cursor.take()
        if events is None:
            self._cursor.position = self._session.feed.position
        if events is None or events or (self._failed and self._session.feed.away is None):
            self._refresh.want()

    def close(self) -> None:
        self._refresh.stop()

    async def _ask(self) -> None:
        view = self._view
        try:
            answer = await self._session.gateway.trainings(statuses=view.statuses, q=view.q, limit=view.limit)
        except ApiError as error:
            reason = f"The trainings could not be loaded: {error}"
            self._session.change(lambda: self._fail(reason))
        else:
            self._session.change(lambda: self._take(answer, view))

    def _fail(self, reason: str) -> None:
        self._failed = reason
        self._show()

    def _take(self, answer: Answer, asked: ListView) -> None:
        # An answer to what is not asked any more would show the wrong rows for a moment.
        if asked == self._view:
            self._failed = ""
            self._answer = answer
            self._show()

    def _show(self) -> None:
        shown: dict[str, Any] = {"failed": self._failed, "loading": self._answer is None and not self._failed}
        if self._answer is not None:
            shown |= list_page(self._view, self._answer.data, self._answer.counts)
        self._list.present(shown)

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        match kind:
            case "filter":
                self._look(ListView(status=str(message.get("status", "")), q=self._view.q, limit=_STEP))
            case "search":
                self._look(ListView(status=self._view.status, q=str(message.get("q", "")).strip()[:200], limit=_STEP))
            case "clear":
                self._look(ListView(limit=_STEP))
            case "more":
                self._look(ListView(status=self._view.status, q=self._view.q, limit=self._view.limit + _STEP))
            case "retry":
                self._refresh.want(now=True)

    def _look(self, view: ListView) -> None:
        self._view = view
        self._session.router.replace(unparse({"status": view.status, "q": view.q}))
        self._refresh.want(now=True)
