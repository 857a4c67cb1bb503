"""What stands on the envelope of a message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiormq import spec

Table = Mapping[str, Any]


@dataclass(slots=True)
class Properties:
    """What stands on the envelope of a message.

    Attributes:
        content_type: MIME type of the body.
        headers: whatever else.
        delivery_mode: 2: survives a restart of the broker in a durable queue.
        priority: 0 to 9.
        correlation_id: what the answer belongs to.
        reply_to: the queue for the answer.
        expiration: milliseconds, as text.
        message_id: the message's id.
        type: what kind of message it is.
        app_id: who made it.
    """

    content_type: str = ""
    headers: Table | None = None
    delivery_mode: int = 0
    priority: int | None = None
    correlation_id: str = ""
    reply_to: str = ""
    expiration: str = ""
    message_id: str = ""
    type: str = ""
    app_id: str = ""


def read_properties(found: spec.Basic.Properties) -> Properties:
    """Return what the library has read."""
    return Properties(
        found.content_type or "",
        found.headers,
        found.delivery_mode or 0,
        found.priority,
        found.correlation_id or "",
        found.reply_to or "",
        found.expiration or "",
        found.message_id or "",
        found.message_type or "",
        found.app_id or "",
    )
