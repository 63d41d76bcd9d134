"""The messages of the two WebSockets. Each carries its kind under `"type"`; JSON and MessagePack have the same shape.

Follow (`/api/v1/events/follow`): the server sends `Subscribed`, then `Events` in position order, `CaughtUp` once, and
`Heartbeat` in silence. Ingest (`/api/v1/ingest`, MessagePack only): the client says `Hello` and sends `Batch`es; the
server answers `Ready`, `Appended`, `Checkpointed`, `Rejected`, and sends the training's `Control` events.
"""

from __future__ import annotations

import msgspec

from .control import TrainingCreated

CLOSE_BAD_REQUEST = 4400
CLOSE_UNAUTHORISED = 4401
CLOSE_UNKNOWN = 4404
CLOSE_OTHER_LOG = 4409
CLOSE_RESTART = 1012

ACTOR_HEADER = "X-Saestudio-Actor"
"""Where the server tells the dashboard who asks for a page, and the dashboard tells the API for whom it acts."""


class RawRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """A `Recorded` whose payload is not decoded: what travels, and what is spliced unchanged into many messages."""

    position: int
    stream: str
    version: int
    type: str
    occurred_at: int
    recorded_at: int
    actor: str | None = None
    metadata: dict[str, str] | None = None
    data: msgspec.Raw


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=True):
    """Base of every message."""


class Subscribed(Message, frozen=True, kw_only=True):
    """The subscription stands: events after `after` follow; the log's head is `head`."""

    log_id: str
    after: int
    head: int


class Events(Message, frozen=True, kw_only=True):
    """Events in position order; each element is one encoded `Recorded`."""

    events: list[msgspec.Raw]


class CaughtUp(Message, frozen=True, kw_only=True):
    """Everything up to `position` has been sent; what follows is live. Sent once."""

    position: int


class Heartbeat(Message, frozen=True, kw_only=True):
    """Nothing that this subscription asks for happened up to `position`, which may serve as resume token."""

    position: int


class Rejected(Message, frozen=True, kw_only=True):
    """What the client sent was refused, and nothing was changed by it.

    `code` is one of `malformed`, `wrong_version`, `fenced`, `unknown`, `other_log`, `unavailable`, `too_large`;
    `current` is the stream's version where that helps.
    """

    code: str
    reason: str
    current: int | None = None


class Hello(Message, frozen=True, kw_only=True):
    """A writer introduces itself.

    `version` is the last that it has spooled; `epoch` None asks for a new one; `created` creates the training where the
    log does not know it (a headless trainer).
    """

    stream: str
    version: int
    epoch: int | None = None
    log_id: str | None = None
    created: TrainingCreated | None = None
    created_at: int | None = None
    host: str = ""
    pid: int | None = None


class Batch(Message, frozen=True, kw_only=True):
    """Frames `[occurred_at, event]`, the first of which gets version `expected + 1`."""

    expected: int
    events: list[msgspec.Raw]


class Ready(Message, frozen=True, kw_only=True):
    """The writer may send after `version`, under `epoch`."""

    version: int
    epoch: int
    log_id: str


class Appended(Message, frozen=True, kw_only=True):
    """Everything up to `version` is durable; its last event has `position`."""

    version: int
    position: int


class Checkpointed(Message, frozen=True, kw_only=True):
    """Everything up to `version` lies in the checkpointed database: the writer may delete it from its spool."""

    version: int


class Control(Message, frozen=True, kw_only=True):
    """A control event of the writer's training, as one encoded `Recorded`."""

    event: msgspec.Raw


ServerMessage = Subscribed | Events | CaughtUp | Heartbeat | Rejected
WriterMessage = Hello | Batch
IngestReply = Ready | Appended | Checkpointed | Rejected | Control
