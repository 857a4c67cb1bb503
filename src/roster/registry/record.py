"""One node as lookups return it: a small snapshot, and a read-only view of its whole document when asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from roster._clock import seconds_since
from roster.passport import NodePassport, Selector
from roster.registry.keys import status_key
from roster.registry.status import HEALTHY_STATES, Condition, NodeStatus

if TYPE_CHECKING:
    from roster.registry.catalog import Catalog
    from roster.registry.facts import Facts


@lru_cache(
    maxsize=256
)  # 13 KB a passport: at most 4 MB, and a loop over the same few nodes decodes each once
def _passport(raw: bytes) -> NodePassport:
    return NodePassport.from_stored(raw)


MISMATCH = "ContractMismatch"
REACHABLE = "Reachable"


class NodeRecord(Mapping[str, Any]):
    """A node at one moment. It never changes: a change of the node makes another record.

    It is also a read-only Mapping over the passport's document with the live status merged in, so that the
    founding document's lines run on it: `record["spec"]["communication"]["mindbus_queue"]`,
    `record.get("status")`. The passport is decoded from the stored bytes when it is asked for.

    Attributes:
        key: `namespace/name`.
        namespace: of the node.
        name: of the node.
        uid: its incarnation; empty for a founding-style node.
        state: `starting`, `ready`, `busy`, `draining`, `unknown` (perhaps alive: a candidate of last
            resort) or `offline`.
        active_tasks: commands that it ran when it last said.
        capacity: how many it may run at once.
        seq: number of that report; meaningful within one uid.
        labels: read-only, shared between nodes with equal ones.
        capabilities: what it offers now, name -> version (the node's own version where the capability names
            none).
        withdrawn: capabilities of its passport that it does not offer now.
        mindbus_queue: where its commands go.
        revision: the newest store revision that this record shows.
    """

    __slots__ = (
        "_facts",
        "_home",
        "_status_raw",
        "active_tasks",
        "capabilities",
        "capacity",
        "key",
        "labels",
        "mindbus_queue",
        "name",
        "namespace",
        "revision",
        "seq",
        "state",
        "uid",
        "withdrawn",
    )

    def __init__(
        self,
        facts: Facts,
        key: str,
        *,
        state: str,
        capabilities: Mapping[str, str | None],
        status: NodeStatus | None,
        status_raw: bytes | None,
        revision: int,
        home: Catalog | None = None,
    ) -> None:
        self._facts = facts
        self._home = home
        self._status_raw = status_raw
        self.key = key
        self.namespace = facts.identity.namespace
        self.name = facts.identity.name
        self.uid = facts.uid
        self.state = state
        self.active_tasks = facts.active_tasks if status is None else status.active_tasks
        self.capacity = facts.capacity if status is None else status.capacity
        self.seq = 0 if status is None else status.seq
        self.labels: Mapping[str, str] = facts.labels
        self.capabilities = capabilities
        self.withdrawn: tuple[str, ...] = (
            ()
            if capabilities is facts.capabilities
            else tuple(name for name in facts.capabilities if name not in capabilities)
        )
        self.mindbus_queue = facts.queue
        self.revision = revision

    # -- what is asked now and then ----------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """Whether it is `ready` or `busy`."""
        return self.state in HEALTHY_STATES

    @property
    def founding(self) -> bool:
        """Whether its passport was written as the founding document does, by no registry of ours."""
        return not self.uid

    @property
    def cordoned(self) -> bool:
        """Whether `Registry.drain` has marked it: it gets no new work, whatever it says of itself."""
        return self._facts.cordoned is not None

    @property
    def type(self) -> str:
        """`spec.type`: agent, orchestrator, component, service, or another word."""
        return self._facts.type

    @property
    def version(self) -> str | None:
        """`spec.version`."""
        return self._facts.version

    @property
    def generation(self) -> int:
        """How often the content of its passport has changed."""
        return self._facts.generation

    @property
    def raw(self) -> bytes:
        """The passport as stored."""
        return self._facts.raw

    @property
    def lease(self) -> str | None:
        """The lease that the stored passport is bound to, None if it is bound to none."""
        return self._facts.lease

    @property
    def passport_revision(self) -> int:
        """The store's revision that wrote the passport last."""
        return self._facts.revision

    @property
    def spellings(self) -> Mapping[str, bytes]:
        """How the contract of each declared capability is written, see `Capability.spelling`: for comparing many nodes."""
        return self._facts.spellings

    @property
    def passport(self) -> NodePassport:
        """The whole passport."""
        return _passport(self._facts.raw)

    @property
    def status(self) -> NodeStatus | None:
        """What it last said of itself under this uid; None if that is not known (offline since before we looked)."""
        if self._status_raw is None:
            return None
        return NodeStatus.decode(self._status_raw, status_key(self.namespace, self.name))

    @property
    def cut_off(self) -> bool:
        """Whether the node says that it lives and cannot be reached: its queue on the bus is gone, for the time being."""
        return any(one.type == REACHABLE and one.status == "False" for one in self.conditions)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What is worth knowing about it: what it said itself, and what its readers see by comparing nodes.

        The latter is `ContractMismatch`: another node that is not offline declares the same version of the same
        capability with other schemas. No node can say that of itself, so what one says is passed over. A record that
        has been superseded keeps only what the node said.
        """
        return self._conditions(self.status)

    def _conditions(self, status: NodeStatus | None) -> tuple[Condition, ...]:
        said = status.conditions if status is not None else ()
        found = self._home.conditions_of(self) if self._home is not None else ()
        return (*(condition for condition in said if condition.type != MISMATCH), *found)

    @property
    def registered_at(self) -> str | None:
        """When this incarnation registered, RFC 3339 UTC, by its own clock: for people."""
        status = self.status
        return (status.registered_at if status else "") or self._said("registered_at")

    @property
    def last_seen(self) -> str | None:
        """When it was last known to live, RFC 3339 UTC: for people, never to decide by.

        A live node is known to live as long as the copy is fresh; of any other it is what it last wrote.
        """
        if self._home is not None and (confirmed := self._home.confirmed_at(self)):
            return confirmed
        return self.last_written

    @property
    def last_written(self) -> str | None:
        """When it last wrote its status, RFC 3339 UTC, by its own clock: for people."""
        status = self.status
        return (status.updated_at if status else "") or self._said("last_heartbeat")

    @property
    def age(self) -> float | None:
        """Seconds since it registered, by wall clocks: for people."""
        age = seconds_since(self.registered_at)
        return None if age is None else max(0.0, age)

    def matches(self, selector: Selector | Mapping[str, Any] | str | None) -> bool:
        """Return whether a selector chooses this node.

        Args:
            selector: `role=writer,tier in (a,b)`, or a `Selector`; field paths see the document with the
                live status.

        Raises:
            SelectorError: it cannot be read.
        """
        wanted = selector if isinstance(selector, Selector) else Selector.parse(selector)
        if wanted.needs_document:
            return wanted.matches(self.labels, self.document())
        return wanted.matches(self.labels)

    # -- a Mapping over the document ---------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """Return the passport's document with the live status merged in, as plain values of your own."""
        document = self.passport.to_dict()
        said = document.get("status")
        merged: dict[str, Any] = dict(said) if isinstance(said, dict) else {}
        merged["state"] = self.state
        merged["active_tasks"] = self.active_tasks
        status = self.status
        if status is not None and status.registered_at:
            merged["registered_at"] = status.registered_at
        conditions: list[Any] = [condition.to_dict() for condition in self._conditions(status)]
        if (status is None or not status.conditions) and isinstance(merged.get("conditions"), list):
            # What a founding-style document says of itself.
            own = merged["conditions"]
            conditions = [*(one for one in own if _type_of(one) != MISMATCH), *conditions]
        if conditions:
            merged["conditions"] = conditions
        else:
            merged.pop("conditions", None)
        if seen := self.last_seen:
            merged["last_heartbeat"] = seen
        document["status"] = merged
        return document

    def __getitem__(self, field: str) -> Any:
        return self.document()[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self.document())

    def __len__(self) -> int:
        return len(self.document())

    # Two snapshots are equal when they are the same one: comparing documents would decode both, and pools
    # hash records.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self) >> 4

    def __repr__(self) -> str:
        return f"<NodeRecord {self.key} {self.state} {self.active_tasks}/{self.capacity} uid={self.uid!r}>"

    def _said(self, field: str) -> str | None:
        value = (self.passport.get("status") or {}).get(field)
        return value if isinstance(value, str) else None


def _type_of(condition: object) -> object:
    return condition.get("type") if isinstance(condition, Mapping) else None
