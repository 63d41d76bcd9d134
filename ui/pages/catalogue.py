"""The catalogue of models and data sets."""

from __future__ import annotations

import asyncio
from typing import Any

from events.catalog import DatasetRegistered, ModelRegistered

from ..components.catalogue import Catalogue
from ..feed import Cursor
from ..gateway import ApiError, CatalogueUse
from ..session import Refresh, Route, Session
from ..state.catalogue import catalogue_view, id_of
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

    def _say(self, said: str) -> None:
        self._said = said
        self._show()
        self._refresh.want(now=True)

    def _act(self, kind: str, message: dict[str, Any]) -> None:
        if self._registration.act(kind, message):
            return
        match kind:
            case "again":
                known = self._models if message.get("kind") == "model" else self._datasets
                entry = next((one for one in known if id_of(one) == message.get("id")), None)
                if entry is not None:
                    self._registration.again(entry)
            case "dismiss":
                self._said = ""
                self._show()
            case "retry":
                self._refresh.want(now=True)

    def _show(self) -> None:
        shown: dict[str, Any] = {
            "failed": self._failed,
            "loading": self._uses is None and not self._failed,
            "said": self._said,
            "register": self._registration.view({id_of(one) for one in (*self._models, *self._datasets)}),
        }
        if self._uses is not None:
            shown |= catalogue_view(self._models, self._datasets, self._uses)
        self._catalogue.present(shown)
