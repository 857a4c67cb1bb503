"""A node as the API shows it, and the copies of it that need not be made twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from roster.gateway.encoding import encode
from roster.registry import NodeRecord
from roster.registry.status import LIVE_STATES


def summary(record: NodeRecord) -> dict[str, Any]:
    """Return a node in short: everything but schemas, annotations and what only its owner reads, and but `last_seen`."""
    return {
        "key": record.key,
        "namespace": record.namespace,
        "name": record.name,
        "uid": record.uid,
        "type": record.type,
        "version": record.version,
        "state": record.state,
        "healthy": record.healthy,
        "cordoned": record.cordoned,
        "active_tasks": record.active_tasks,
        "capacity": record.capacity,
        "labels": dict(record.labels),
        "capabilities": dict(record.capabilities),
        "withdrawn": list(record.withdrawn),
        "queue": record.mindbus_queue,
        "generation": record.generation,
        "revision": record.revision,
        "registered_at": record.registered_at,
        "last_written": record.last_written,
        "conditions": [condition.to_dict() for condition in record.conditions],
    }


def moment(staleness: float) -> str:
    """Return the wall time up to which a copy of this staleness is known to be true, RFC 3339 UTC."""
    then = datetime.now(UTC) - timedelta(seconds=min(staleness, 1e9))
    return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Views:
    """Written summaries by node. One is written when its node changes, and joined into answers as it is.

    What is not kept is `last_seen`: of a node that lives it is the present, as far as the copy is fresh.
    """

    def __init__(self) -> None:
        self._written: dict[str, tuple[NodeRecord, bytes, bool]] = {}

    def forget(self, key: str) -> None:
        """The node is gone."""
        self._written.pop(key, None)

    def of(self, record: NodeRecord, now: bytes) -> bytes:
        """Return a node as JSON.

        Args:
            now: the moment up to which the copy is true, as JSON.
        """
        known = self._written.get(record.key)
        if known is None or known[0] is not record:
            known = self._written[record.key] = _write(record)
        return known[1] + now + b"}" if known[2] else known[1]


def _write(record: NodeRecord) -> tuple[NodeRecord, bytes, bool]:
    view = summary(record)
    live = record.state in LIVE_STATES
    if live:
        return record, encode(view)[:-1] + b',"last_seen":', True
    return record, encode({**view, "last_seen": record.last_seen}), False
