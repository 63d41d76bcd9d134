"""One order for everything that a change of the document sends to the browser."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bokeh.document import Document


@contextlib.contextmanager
def ordered(document: Document | None) -> Iterator[None]:
    """Send what changes in here in the order in which it changes. The document is locked.

    Panel writes layouts and messages past Bokeh's own queue: at once or, while the socket is busy, some time later.
    A step for a chart then arrives before the chart does, "reference isn't known", and is lost. What a document holds
    back goes through Bokeh's queue alone.

    A model is sent as it stands at the end: what is streamed into a source in the same change that has also made or
    replaced the source's data arrives twice.
    """
    if document is None or document.callbacks.hold_value:
        yield
        return
    # Not "combine": it would move a later change of a layout before the messages in between.
    document.hold("collect")
    try:
        yield
    finally:
        document.unhold()
