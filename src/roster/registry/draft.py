"""What a registration says of itself, and the two documents made of it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roster._clock import utc_now
from roster.passport import NodePassport
from roster.registry.facts import CORDONED, Facts
from roster.registry.holder import this_process
from roster.registry.status import HEALTHY_STATES, Condition, NodeStatus


class Draft:
    """The node's own picture of itself.

    Attributes:
        content: the passport as its owner declared it.
        state: `starting`, `ready`, `busy` or `draining`.
        ttl: seconds of the node's lease.
        active_tasks: commands running.
        capacity: how many may run.
        seq: number of the newest report.
        conditions: by type.
        withdrawn: capabilities not offered at present.
        generation: of the content, as it will be stored.
        cordoned: the mark of `Registry.drain` as found in the store; it is kept through every write.
        registered_at: when this incarnation began, for people.
    """

    def __init__(self, content: NodePassport, *, state: str, ttl: float) -> None:
        self.content = content
        self.state = state
        self.ttl = ttl
        self.active_tasks = 0
        self.capacity = content.max_concurrent_tasks
        self.seq = 0
        self.conditions: dict[str, Condition] = {}
        self.withdrawn: set[str] = set()
        self.generation = 1
        self.cordoned: str | None = None
        self.registered_at = ""

    @property
    def offered(self) -> tuple[str, ...]:
        """The capabilities that new work may be sent for, sorted; none unless ready or busy, and not cordoned."""
        if self.state not in HEALTHY_STATES or self.cordoned is not None:
            return ()
        return tuple(sorted({one.name for one in self.content.capabilities} - self.withdrawn))

    def begin(self, known: Facts | None) -> None:
        """Start an incarnation over whatever stood under the name before: go on counting, keep the cordon."""
        self.registered_at = utc_now()
        if known is None:
            return
        self.cordoned = known.cordoned
        same = declared(NodePassport.from_stored(known.raw)) == declared(self.content)
        self.generation = max(known.generation + (not same), 1)

    def status(self, uid: str) -> NodeStatus:
        """Return the small document."""
        return NodeStatus(
            uid=uid,
            state=self.state,
            active_tasks=self.active_tasks,
            capacity=self.capacity,
            seq=self.seq,
            ttl=self.ttl,
            holder=this_process(),
            conditions=tuple(self.conditions.values()),
            withdrawn=tuple(sorted(self.withdrawn)),
            registered_at=self.registered_at,
            updated_at=utc_now(),
        )

    def passport(self, uid: str) -> NodePassport:
        """Return the passport as it is stored: the content, our metadata, and the status of this moment."""
        annotations = {key: note for key, note in self.content.annotations.items() if key != CORDONED}
        if self.cordoned is not None:
            annotations[CORDONED] = self.cordoned
        conditions = [condition.to_dict() for condition in self.conditions.values()]
        return self.content.with_metadata(
            uid=uid, generation=self.generation, annotations=annotations or None
        ).with_status(
            state=self.state,
            registered_at=self.registered_at,
            last_heartbeat=utc_now(),
            active_tasks=self.active_tasks,
            conditions=conditions or None,
        )

    def set_condition(self, type_: str, status: str | None, reason: str, message: str) -> bool:
        """Take a condition in, or out with status None; return whether anything changed."""
        old = self.conditions.get(type_)
        if status is None:
            return self.conditions.pop(type_, None) is not None
        if old is not None and (old.status, old.reason, old.message) == (status, reason, message):
            return False
        since = old.since if old is not None and old.status == status else utc_now()
        self.conditions[type_] = Condition(type_, status, reason, message, since)
        return True

    def change(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        capabilities: Sequence[Mapping[str, Any]] | None = None,
    ) -> bool:
        """Replace parts of the content; return whether that changed anything.

        Raises:
            DocumentError: the result is no valid passport; nothing has changed.
        """
        changed = self.content
        if labels is not None:
            changed = changed.with_metadata(labels=dict(labels))
        if annotations is not None:
            changed = changed.with_metadata(annotations=dict(annotations))
        if capabilities is not None:
            changed = changed.with_spec(capabilities=[dict(capability) for capability in capabilities])
        if declared(changed) == declared(self.content):
            return False
        self.content = changed
        self.generation += 1
        return True


def declared(passport: NodePassport) -> dict[str, Any]:
    """Return what a passport's owner declared: no status, and nothing that the registry adds."""
    document = passport.to_dict()
    document.pop("status", None)
    metadata = {key: value for key, value in document["metadata"].items() if key not in ("uid", "generation")}
    metadata["namespace"] = passport.namespace
    annotations = {key: note for key, note in passport.annotations.items() if key != CORDONED}
    metadata["annotations"] = annotations
    metadata["labels"] = dict(passport.labels)
    document["metadata"] = metadata
    return document
