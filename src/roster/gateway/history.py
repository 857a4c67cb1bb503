"""What is known of each node's past: its states, its tasks, what it published. In memory, bounded."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from roster._clock import utc_now
from roster.bus import Message
from roster.bus.message import Kind
from roster.errors import Attempt
from roster.gateway.encoding import encode
from roster.registry import NodeEvent

if TYPE_CHECKING:
    from roster.gateway.member import Member

logger = logging.getLogger("roster.gateway")

KEPT = 100
MAX_NODES = 2000
MAX_DATA = 2048
_MAX_TEXT = 500


def _ring() -> deque[dict[str, Any]]:
    return deque(maxlen=KEPT)


@dataclass(slots=True)
class Past:
    """What is known of one node, oldest first."""

    states: deque[dict[str, Any]] = field(default_factory=_ring)
    tasks: deque[dict[str, Any]] = field(default_factory=_ring)
    events: deque[dict[str, Any]] = field(default_factory=_ring)


class History:
    """The pasts of the nodes that were heard of last."""

    def __init__(self) -> None:
        self._pasts: OrderedDict[str, Past] = OrderedDict()

    def of(self, key: str) -> dict[str, Any]:
        """Return what is known of a node, newest first."""
        past = self._pasts.get(key) or Past()
        return {
            "key": key,
            "states": list(reversed(past.states)),
            "tasks": list(reversed(past.tasks)),
            "events": list(reversed(past.events)),
        }

    def _past(self, key: str) -> Past:
        past = self._pasts.get(key)
        if past is None:
            past = self._pasts[key] = Past()
            if len(self._pasts) > MAX_NODES:
                self._pasts.popitem(last=False)
        else:
            self._pasts.move_to_end(key)
        return past

    # -- what happens ------------------------------------------------------------------------------

    def on_event(self, event: NodeEvent) -> None:
        """Note what the registry tells, mere load apart."""
        record = event.record
        past = self._past(event.key)
        said = {
            "at": utc_now(),
            "type": event.type,
            "state": record.state,
            "uid": record.uid,
            "active_tasks": record.active_tasks,
            "capacity": record.capacity,
        }
        last = past.states[-1] if past.states else None
        if (
            event.type == "modified"
            and last is not None
            and (last["state"], last["uid"]) == (record.state, record.uid)
        ):
            return
        past.states.append(said)

    def call_over(self, id: str, capability: str, attempts: Iterable[Attempt]) -> None:
        """Note the tries of a call made here."""
        for attempt in attempts:
            self._task(
                attempt.node,
                id,
                capability,
                attempt.duration,
                "ok" if not attempt.error else str(attempt.code or "UNKNOWN"),
                attempt.error,
                "call",
            )

    def command_over(
        self, member: Member, id: str, capability: str, duration: float, outcome: str, error: str
    ) -> None:
        """Note a command of a node over HTTP."""
        self._task(member.key, id, capability, duration, outcome, error, "http")

    def _task(
        self, key: str, id: str, capability: str, duration: float, outcome: str, error: str, via: str
    ) -> None:
        self._past(key).tasks.append(
            {
                "id": id,
                "capability": capability,
                "at": utc_now(),
                "duration": round(duration, 6),
                "outcome": outcome,
                "error": error[:_MAX_TEXT],
                "via": via,
            }
        )

    def on_published(self, topic: str, message: Message) -> None:
        """Note what a node published. Whose it is its source says: a convention, as everywhere on the bus."""
        if message.kind is not Kind.EVENT:
            return
        key = message.source.removeprefix("/")
        if key not in self._pasts:
            return  # a node that nobody knows: anybody may publish under any name
        try:
            fits = len(encode(message.data)) <= MAX_DATA
        except (ValueError, RecursionError):
            fits = False
        self._past(key).events.append(
            {
                "at": utc_now(),
                "topic": topic[:_MAX_TEXT],
                "subject": message.subject[:_MAX_TEXT],
                "data": message.data if fits else None,
            }
        )
