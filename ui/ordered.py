"""One order for everything that changes of a document send to the browser."""

from __future__ import annotations

from collections.abc import Callable

from bokeh.document import Document


def change(document: Document, work: Callable[[], None]) -> None:
    """Call `work` soon, with the document locked, and send what it changes in the order in which it changes.

    Panel calls handlers without the lock while the document is busy, and writes layouts and messages past Bokeh's own
    queue: at once or, while the socket is busy, some time later. A step for a chart then arrives before the chart does,
    "reference isn't known", and is lost. What a document holds back goes through Bokeh's queue alone.

    A model is sent as it stands at the end: what is streamed into a source by the same work that has also made or
    replaced the source's data arrives twice.
    """
    document.add_next_tick_callback(lambda: _in_order(document, work))


def _in_order(document: Document, work: Callable[[], None]) -> None:
    # Not "combine": it would move a later change of a layout before the messages in between.
    document.hold("collect")
    try:
        work()
    finally:
        document.unhold()
