"""The catalogue of models and data sets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from events.catalog import DatasetRegistered, ModelRegistered

from ..answers import CatalogueUse, Use
from ..components.catalogue import Catalogue
from ..feed import Cursor
from ..gateway import ApiError
from ..session import Refresh, Route, Session
from ..state.catalogue import Entry, catalogue_view, id_of, kind_of, removed
from ..state.news import toast
from .registration import Registration

_STREAMS = ("catalog", "control-", "template-")
"""What is registered, and what uses it."""


class CataloguePage:
    """Every model and data set that can be chosen by its id, with what each is used by, live."""

    title = "Catalogue"

    def __init__(self, session: Session, route: Route) -> None:
        self._session = session
        self._cursor = Cursor(session.feed)
        self._refresh = Refresh(session, self._ask, pause=0.5)
        self._models: tuple[ModelRegistered, ...] = ()
        self._datasets: tuple[DatasetRegistered, ...] = ()
        self._uses: CatalogueUse | None = None
        self._failed = ""
        self._said = ""
        self._tone = ""
        self._removed: Entry | None = None
        self._left = False
        self._registration = Registration(session, self._show, self._say)
        self._catalogue = Catalogue(sizing_mode="stretch_width")
        self._catalogue.on_action(self._act)

    def body(self) -> list[Any]:
        return [self._catalogue]

    def open(self) -> None:
        self._show()
        self._refresh.want(now=True)

    def push(self) -> None:
        changed = self._cursor.has_news(lambda recorded: recorded.stream.startswith(_STREAMS))
        if changed or (self._failed and self._session.feed.away is None):
            self._refresh.want()

    def close(self) -> None:
        self._left = True
        self._refresh.stop()
        self._registration.stop()

    async def _ask(self) -> None:
        gateway = self._session.gateway
        try:
            models, datasets, uses = await asyncio.gather(
                gateway.models(), gateway.datasets(), gateway.catalogue_uses()
            )
        except ApiError as error:
            reason = f"The catalogue could not be loaded: {error}"
            self._session.change(lambda: self._fail(reason))
            return

        def take() -> None:
            self._failed = ""
            self._models, self._datasets, self._uses = models, datasets, uses
            self._show()

        self._session.change(take)

    def _fail(self, reason: str) -> None:
        self._failed = reason
        self._show()

    def _say(self, said: str, *, tone: str = "", removed: Entry | None = None) -> None:
        if self._left:
            if said:
                self._session.toasts.say(toast("warn" if tone else "plain", said))
            return
        self._said, self._tone, self._removed = said, tone, removed
        self._show()
        self._refresh.want(now=True)

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        if self._registration.act(kind, message):
            return
        gateway = self._session.gateway
        match kind:
            case "again" if (entry := self._found(message)) is not None:
                self._registration.again(entry)
            case "remove" if (entry := self._found(message)) is not None:
                said = removed(entry, self._use_of(entry))
                self._do(lambda: gateway.remove_from_catalogue(kind_of(entry), id_of(entry)), said, entry)
            case "undo" if self._removed is not None:
                entry = self._removed
                self._do(lambda: gateway.restore_to_catalogue(kind_of(entry), id_of(entry)), f"{id_of(entry)} is back.")
            case "dismiss":
                self._said, self._tone, self._removed = "", "", None
                self._show()
            case "retry":
                self._refresh.want(now=True)

    def _found(self, message: dict[str, Any]) -> Entry | None:
        known = self._models if message.get("kind") == "model" else self._datasets
        return next((one for one in known if id_of(one) == message.get("id")), None)

    def _use_of(self, entry: Entry) -> Use:
        if self._uses is None:
            return Use()
        uses = self._uses.models if isinstance(entry, ModelRegistered) else self._uses.datasets
        return uses.get(id_of(entry), Use())

    def _do(self, work: Callable[[], Awaitable[None]], said: str, removed: Entry | None = None) -> None:
        """Say what `work` has done, or why not. `removed` can be brought back afterwards."""

        async def run() -> None:
            try:
                await work()
            except ApiError as error:
                sentence = f"Nothing was changed. {error}"
                self._session.change(lambda: self._say(sentence, tone="bad", removed=self._removed))
            else:
                self._session.change(lambda: self._say(said, removed=removed))

        self._session.spawn(run())

    def _show(self) -> None:
        shown: dict[str, Any] = {
            "failed": self._failed,
            "loading": self._uses is None and not self._failed,
            "said": self._said,
            "tone": self._tone,
            "undo": self._removed is not None,
            "register": self._registration.view({id_of(one) for one in (*self._models, *self._datasets)}),
        }
        if self._uses is not None:
            shown |= catalogue_view(self._models, self._datasets, self._uses)
        self._catalogue.present(shown)
