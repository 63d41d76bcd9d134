"""The list of trainings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..answers import Training
from ..answers import TrainingPage as Answer
from ..components.training_list import TrainingList
from ..feed import Cursor
from ..gateway import ApiError, ApiRefused
from ..session import Refresh, Route, Session, unparse
from ..state import training_list
from ..state.training_list import SIGNS, ListView, Plan, list_page

_MORE = 200
"""Rows that are added at a time."""

_MOST = 1_000
"""Rows that are shown at most: what the API gives at once."""

_SECONDS_BETWEEN = 1.0
_LONGEST_TAG = 64
_BAD_REQUEST = 400


class TrainingsPage:
    """The list of trainings, live; what it shows is part of its address, what is selected in it is not.

    Only rows that are shown are selected: one that a filter hides, or that is gone, is selected no more, so that
    nothing is ever done to a training that nobody sees.
    """

    title = "Trainings"

    def __init__(self, session: Session, route: Route) -> None:
        self._session = session
        self._view = ListView.of(route)
        self._cursor = Cursor(session.feed)
        self._refresh = Refresh(session, self._ask, pause=_SECONDS_BETWEEN)
        self._answer: Answer | None = None
        self._failed = ""
        self._refused = ""
        self._selected: set[str] = set()
        self._plan: Plan | None = None
        self._busy = False
        self._problem = ""
        self._unfolded = ""
        self._over = False
        self._list = TrainingList(sizing_mode="stretch_width")
        self._list.on_action(self._act)

    def body(self) -> list[Any]:
        return [self._list]

    def open(self) -> None:
        self._show()
        self._refresh.want(now=True)

    def push(self) -> None:
        if self._cursor.has_news() or (self._failed and self._session.feed.away is None):
            self._refresh.want()

    def close(self) -> None:
        self._over = True
        self._refresh.stop()

    async def _ask(self) -> None:
        view = self._view
        try:
            answer = await self._session.gateway.trainings(
                statuses=view.statuses,
                q=view.q,
                where=view.where,
                tags=view.tags,
                group=view.group,
                sort=view.sort,
                limit=view.limit,
            )
        except ApiRefused as refused:
            reason = " ".join(field.message for field in refused.fields) or str(refused)
            if refused.status == _BAD_REQUEST:
                self._session.change(lambda: self._refuse(reason, view))
            else:
                self._session.change(lambda: self._fail(f"The trainings could not be loaded: {reason}"))
        except ApiError as error:
            reason = f"The trainings could not be loaded: {error}"
            self._session.change(lambda: self._fail(reason))
        else:
            self._session.change(lambda: self._take(answer, view))

    def _fail(self, reason: str) -> None:
        self._failed = reason
        self._show()

    def _refuse(self, reason: str, asked: ListView) -> None:
        """The address asks for something that the API does not know: it is said, and the list shows nothing."""
        if asked == self._view:
            self._failed = ""
            self._refused = reason
            self._answer = Answer(data=())
            self._show()

    def _take(self, answer: Answer, asked: ListView) -> None:
        # An answer to what is not asked any more would show the wrong rows for a moment.
        if asked == self._view:
            self._failed = self._refused = ""
            self._answer = answer
            self._selected &= {training.id for training in answer.data}
            if self._plan is not None and not self._busy:
                self._plan = training_list.narrowed(self._plan, answer.data)
            self._show()

    def _show(self) -> None:
        shown: dict[str, Any] = {"failed": self._failed, "loading": self._answer is None and not self._failed}
        if self._answer is not None:
            shown |= list_page(
                self._view,
                self._answer.data,
                self._answer.counts,
                tags=self._answer.tags,
                selected=list(self._selected),
            )
            shown |= {
                "refused": self._refused,
                "asking": training_list.question(self._plan) if self._plan is not None else None,
                "problem": self._problem,
                "busy": self._busy,
                "unfolded": training_list.unfolded(self._answer.data, self._unfolded),
            }
            if not self._over:
                self._session.name(training_list.tab_title(self._answer.counts))
        self._list.present(shown)

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        view = self._view
        said = {name: str(value) for name, value in message.items() if isinstance(value, str)}
        match kind:
            case "filter":
                self._look(status=said.get("status", ""))
            case "search":
                self._look(q=said.get("q", "").strip()[:200])
            case "where":
                self._look(where=(*view.where, _condition(said)))
            case "unwhere":
                self._look(where=tuple(one for one in view.where if one != said.get("said")))
            case "tag":
                tag = said.get("tag", "")
                without = tuple(one for one in view.tags if one != tag)
                self._look(tags=without if tag in view.tags else (*view.tags, tag))
            case "group":
                self._look(group=said.get("group", ""))
            case "sort":
                self._look(sort=said.get("sort", ""))
            case "clear":
                self._look(status="", q="", where=(), tags=())
            case "more":
                self._look(limit=min(_MOST, view.limit + _MORE))
            case "select":
                self._select(message.get("ids"), on=message.get("on") is True)
            case "bulk":
                self._plan = training_list.plan(said.get("action", ""), self._chosen())
                self._problem = ""
                self._show()
            case "keep":
                self._plan = None
                self._show()
            case "do" if self._plan is not None and not self._busy:
                self._begin(self._plan, said.get("tag", "").strip(), remove=message.get("remove") is True)
            case "unfold":
                self._unfolded = said.get("id", "")
                self._show()
            case "describe":
                changes = {name: said[name] for name in ("name", "note") if name in said}
                self._session.spawn(self._describe(said.get("id", ""), changes))
            case "retry":
                self._refresh.want(now=True)

    def _look(self, **changes: Any) -> None:
        route = msgspec.structs.replace(self._view, **changes).route()
        view = msgspec.structs.replace(ListView.of(route), limit=changes.get("limit", self._view.limit))
        if view == self._view:
            return
        self._view = view
        self._session.router.replace(unparse(route))
        self._refresh.want(now=True)

    # What is selected, and what is done with it

    def _select(self, ids: Any, *, on: bool) -> None:
        wanted = {id for id in ids if isinstance(id, str)} if isinstance(ids, list) else set[str]()
        shown = {training.id for training in self._answer.data} if self._answer is not None else set[str]()
        self._selected = self._selected | (wanted & shown) if on else self._selected - wanted
        self._plan = None
        self._show()

    def _chosen(self) -> list[Training]:
        found = self._answer.data if self._answer is not None else ()
        return [training for training in found if training.id in self._selected]

    def _begin(self, planned: Plan, tag: str, *, remove: bool) -> None:
        if planned.action == "tag" and not 0 < len(tag) <= _LONGEST_TAG:
            self._problem = f"A tag has 1 to {_LONGEST_TAG} characters."
            self._show()
            return
        self._busy = True
        self._show()
        self._session.spawn(self._do(planned, tag, remove))

    async def _do(self, planned: Plan, tag: str, remove: bool) -> None:
        """What was named, one after the other, and nothing else."""
        done: list[str] = []
        refused: list[tuple[str, str]] = []
        for training in planned.does:
            name = training.name or training.id
            try:
                await self._do_one(planned.action, training, tag, remove)
            except ApiError as error:
                refused.append((name, str(error)))
            else:
                done.append(name)
        action = "untag" if remove else planned.action
        self._session.change(lambda: self._did(action, done, refused))

    async def _do_one(self, action: str, training: Training, tag: str, remove: bool) -> None:
        gateway = self._session.gateway
        match action:
            case "tag":
                # Somebody else may have tagged it meanwhile.
                now, _ = await gateway.training(training.id)
                without = [one for one in now.tags if one != tag]
                await gateway.tag_training(training.id, without if remove else [*without, tag])
            case "delete":
                await gateway.delete_training(training.id)
            case _:
                await gateway.control(training.id, action)

    def _did(self, action: str, done: Sequence[str], refused: Sequence[tuple[str, str]]) -> None:
        self._busy = False
        self._plan = None
        # Not on this page: it may have been left meanwhile.
        self._session.toasts.say(training_list.outcome(action, done, refused))
        if not self._over:
            self._refresh.want(now=True)
            self._show()

    def _name_of(self, id: str) -> str:
        found = self._answer.data if self._answer is not None else ()
        return next((training.name for training in found if training.id == id), "") or id

    async def _describe(self, id: str, changes: dict[str, str]) -> None:
        problem = ""
        # As it was called by whoever changed it.
        name = self._name_of(id)
        try:
            await self._session.gateway.edit_training(id, **changes)
        except ApiError as error:
            problem = f"Nothing was changed: {error}"
        self._session.change(lambda: self._described(id, name, problem))

    def _described(self, id: str, name: str, problem: str) -> None:
        self._list.described(id, problem)
        if problem and (self._over or id != self._unfolded):
            # The form that would say it is not there any more.
            self._session.toasts.say(training_list.not_described(name, problem))
        if not self._over:
            self._refresh.want(now=True)


def _condition(said: dict[str, str]) -> str:
    """A condition as the API reads it. What would end it early is left out of its value."""
    sign = said.get("sign", "=")
    return f"{said.get('field', '')}{sign if sign in SIGNS else '='}{said.get('value', '').replace(';', ' ').strip()}"
