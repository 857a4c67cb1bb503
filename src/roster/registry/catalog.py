"""The copy itself: takes what the store says, decides each node's state, and says what changed. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from roster._clock import boottime
from roster.errors import DocumentError
from roster.registry.due import Due
from roster.registry.events import EventType, NodeEvent, kind_of_change
from roster.registry.facts import Facts, Sharing, read_facts
from roster.registry.grace import Grace, many
from roster.registry.index import Index
from roster.registry.keys import NODES, STATUS, split
from roster.registry.record import NodeRecord
from roster.registry.status import HEALTHY_STATES, LIVE_STATES, Condition, NodeStatus
from roster.store.base import Change, Entry

logger = logging.getLogger("roster.registry")

FOUNDING_TIMEOUT = 60.0  # the founding document's `age < 60 s`, by our own clock
MAX_GRACE = 300.0  # whatever TTL a status claims
_CHUNK = 500


class _Node:
    """What the store has of one node, and the record made of it."""

    __slots__ = ("aged", "facts", "ghost", "record", "status", "status_revision")

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.status: bytes | None = None
        self.status_revision = 0
        self.record: NodeRecord | None = None
        self.aged = False  # founding-style without a lease, and unchanged for too long
        self.ghost = False  # gone with a store that was wiped or restored; kept as `unknown` for a while


@dataclass(slots=True)
class Staging:
    """A listing on its way in."""

    facts: dict[str, Facts] = field(default_factory=dict)
    statuses: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)


class Catalog:
    """Every node that the store has, with indexes.

    It belongs to one event loop; lookups are dictionary look-ups.

    Args:
        now: the clock that decides, `CLOCK_BOOTTIME` seconds.
        thaw_grace: hold nodes that vanish after an outage, or many at once, as `unknown` for one TTL
            (an etcd frozen for longer than the TTL revokes leases the moment it thaws, though
            their holders kept them).
        fresh: tells for how many seconds the copy has not been confirmed; 0 while it is live.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = boottime,
        thaw_grace: bool = True,
        founding_timeout: float = FOUNDING_TIMEOUT,
        fresh: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.index = Index()
        self.revision = 0
        self.quarantined: dict[str, str] = {}
        self._now = now
        self._grace = Grace(now, enabled=thaw_grace)
        self._founding_timeout = founding_timeout
        self._fresh = fresh
        self._sharing = Sharing()
        self._nodes: dict[str, _Node] = {}
        self._orphans: dict[str, tuple[bytes, int]] = {}  # statuses that came before their passports
        self._live = 0
        self._due = Due()

    # -- from the store ----------------------------------------------------------------------------

    def apply(self, changes: Iterable[Change], revision: int) -> list[NodeEvent]:
        """Take the changes of a watch, in order; return one event for each change of a node.

        Changes of one revision count as one: a passport and its status arrive together, and leave together when
        their owner takes them away. A node that vanishes and is back within the batch never was away.
        """
        events: list[NodeEvent] = []
        vanished: set[str] = set()
        touched: dict[str, None] = {}
        gone: dict[str, None] = {}  # live nodes whose passports were deleted
        current = 0
        for change in changes:
            if change.revision != current:
                self._settle(touched, gone, events, vanished)
                touched, gone = {}, {}
                current = change.revision
                self.revision = max(self.revision, current)
            key = self._take(change, gone, events)
            if key is not None:
                touched[key] = None
        self._settle(touched, gone, events, vanished)
        self.revision = max(self.revision, revision)
        self._judge(vanished, events)
        return events

    def stage(self, entries: Iterable[Entry], staging: Staging) -> None:
        """Take part of a listing; nothing changes before `swap`."""
        for entry in entries:
            if entry.key.startswith(NODES):
                identity = split(entry.key, NODES)
                known = self._nodes.get(str(identity)) if identity else None
                if (
                    known is not None
                    and known.facts.revision == entry.mod_revision
                    and known.facts.raw == entry.value
                ):
                    staging.facts[str(identity)] = known.facts
                    continue
                try:
                    facts = read_facts(entry, self._sharing)
                except DocumentError as error:
                    staging.quarantined[entry.key] = _reason(error)
                else:
                    staging.facts[str(facts.identity)] = facts
            elif entry.key.startswith(STATUS):
                identity = split(entry.key, STATUS)
                if identity is None:
                    staging.quarantined[entry.key] = _BAD_STATUS_KEY
                else:
                    staging.statuses[str(identity)] = (entry.value, entry.mod_revision)

    def swap(self, staging: Staging, revision: int, *, rebuilt: bool = False) -> Iterator[list[NodeEvent]]:
        """Make the copy what the listing says; yield the differences as events, some hundred nodes at a time.

        Args:
            rebuilt: the store is another one, or an older state of it: what is missing was not taken away
                by its owner, so it stays as `unknown` for one TTL, to register again.
        """
        events: list[NodeEvent] = []
        vanished: set[str] = set()
        if rebuilt:
            self.outage_over()
        for path in [path for path in self.quarantined if path not in staging.quarantined]:
            del self.quarantined[path]
        for path, reason in staging.quarantined.items():
            self._quarantine(path, reason)
        self.revision = revision
        self._orphans = {key: status for key, status in staging.statuses.items() if key not in staging.facts}
        for key in [key for key in self._nodes if key not in staging.facts]:
            node = self._nodes[key]
            if node.ghost:
                continue  # its time to come back still runs
            if (
                rebuilt
                and node.record is not None
                and node.record.state in LIVE_STATES | {"unknown"}
                and node.facts.uid
            ):
                node.ghost = True
                node.status = None
                vanished.add(key)
            else:
                self._remove(key, events)
        for number, (key, facts) in enumerate(staging.facts.items()):
            raw, status_revision = staging.statuses.get(key, (None, 0))
            known = self._nodes.get(key)
            if known is not None and known.facts is facts and known.status == raw and not known.ghost:
                known.status_revision = status_revision
                continue
            if known is None:
                known = self._nodes[key] = _Node(facts)
            known.ghost = False
            known.facts = facts
            known.status = raw
            known.status_revision = status_revision
            self._touch_clock(key, known)
            self._refresh(key, known, events, vanished)
            if number % _CHUNK == _CHUNK - 1:
                yield events
                events = []
        self._judge(vanished, events)
        yield events

    def _take(self, change: Change, gone: dict[str, None], events: list[NodeEvent]) -> str | None:
        """Take one change in; return the key of the node that it concerns."""
        if change.key.startswith(NODES):
            return self._take_passport(change, gone, events)
        if change.key.startswith(STATUS):
            return self._take_status(change)
        return None  # something else of the same team; not ours to read

    def _take_passport(self, change: Change, gone: dict[str, None], events: list[NodeEvent]) -> str | None:
        identity = split(change.key, NODES)
        key = str(identity) if identity else ""
        node = self._nodes.get(key)
        if change.value is None:
            self.quarantined.pop(change.key, None)
            if (
                node is not None
                and node.facts.uid
                and node.record is not None
                and node.record.state != "offline"
            ):
                gone[key] = None
            elif node is not None:
                self._remove(key, events)
            return None
        gone.pop(key, None)
        entry = Entry(change.key, change.value, change.create_revision, change.revision, change.lease)
        try:
            facts = read_facts(entry, self._sharing)
        except DocumentError as error:
            self._quarantine(change.key, _reason(error))
            if node is not None:
                self._remove(key, events)
            return None
        self.quarantined.pop(change.key, None)
        if node is None:
            node = self._nodes[key] = _Node(facts)
            if key in self._orphans:
                node.status, node.status_revision = self._orphans.pop(key)
        node.facts = facts
        node.ghost = False
        self._touch_clock(key, node)
        return key

    def _take_status(self, change: Change) -> str | None:
        identity = split(change.key, STATUS)
        if identity is None:
            if change.value is None:
                self.quarantined.pop(change.key, None)
            else:
                self._quarantine(change.key, _BAD_STATUS_KEY)
            return None
        key = str(identity)
        node = self._nodes.get(key)
        if node is None:
            # On engines whose transactions arrive in pieces a status may come first. It waits for its
            # passport.
            if change.value is None:
                self._orphans.pop(key, None)
            else:
                self._orphans[key] = (change.value, change.revision)
            return None
        node.status = change.value
        node.status_revision = change.revision
        if change.value is None:
            self.quarantined.pop(change.key, None)
        return key

    # -- deciding ----------------------------------------------------------------------------------

    def _settle(
        self,
        touched: Mapping[str, None],
        gone: Mapping[str, None],
        events: list[NodeEvent],
        vanished: set[str],
    ) -> None:
        """Decide about the nodes that one revision concerns."""
        for key in touched:
            node = self._nodes.get(key)
            if node is not None and key not in gone:
                self._refresh(key, node, events, vanished)
        # Nobody takes several nodes away in one revision. (Where nobody knows the revision of a deletion, they share one.)
        suspect = many(len(gone), self._live)
        for key in gone:
            node = self._nodes[key]
            assert node.record is not None  # noqa: S101  # only nodes that were shown are in `gone`
            together = key in touched and node.status is None and not suspect
            if together or (node.status is None and node.record.state == "draining"):
                self._remove(key, events)
                self._grace.forget(key)
            else:
                # Not its owner's doing: the passport's own lease has ended, too.
                node.ghost = True
                vanished.add(key)

    def _refresh(self, key: str, node: _Node, events: list[NodeEvent], vanished: set[str]) -> None:
        """Work the record out anew. One that was live and has lost its lease is only noted: see `_judge`."""
        facts = node.facts
        status = self._status_of(key, node)
        if not facts.uid:
            state = "offline" if node.aged else facts.state
        elif status is not None:
            state = status.state
        elif node.record is not None and node.record.state in LIVE_STATES:
            vanished.add(key)
            return
        else:
            state = node.record.state if node.record is not None and key in self._due else "offline"
        if status is not None or not facts.uid:
            vanished.discard(key)
            self._grace.forget(key)
            if facts.uid:
                self._due.drop(key)
        self._make(key, node, state, status, events)

    def _status_of(self, key: str, node: _Node) -> NodeStatus | None:
        """Return the status if it can be read and belongs to the passport's incarnation."""
        if node.status is None or not node.facts.uid:
            return None
        path = STATUS + key
        try:
            status = NodeStatus.decode(node.status, path)
        except DocumentError as error:
            self._quarantine(path, _reason(error))
            return None
        self.quarantined.pop(path, None)
        return status if status.uid == node.facts.uid else None

    def _make(
        self, key: str, node: _Node, state: str, status: NodeStatus | None, events: list[NodeEvent]
    ) -> None:
        facts, old = node.facts, node.record
        if facts.cordoned is not None and state in ("starting", "ready", "busy"):
            state = "draining"
        capabilities = facts.capabilities
        if status is not None and status.withdrawn:
            gone = set(status.withdrawn)
            capabilities = self._sharing.share(
                tuple(item for item in capabilities.items() if item[0] not in gone)
            )
        raw = node.status if status is not None else None
        if raw is None and old is not None and old.uid == facts.uid:
            raw = old._status_raw
            status = old.status
        record = NodeRecord(
            facts,
            old.key if old is not None else key,
            state=state,
            capabilities=capabilities,
            status=status,
            status_raw=raw,
            revision=max(facts.revision, node.status_revision),
            home=self,
        )
        node.record = record
        self.index.add(record)
        self._live += (state in LIVE_STATES) - (old is not None and old.state in LIVE_STATES)
        kind = kind_of_change(old, record)
        if kind is not None:
            events.append(self._event(kind, record))

    def _judge(self, vanished: set[str], events: list[NodeEvent]) -> None:
        """Decide about nodes whose lease ended: `offline`, or `unknown` while the store itself is suspect."""
        # Whoever lost its lease and was then removed, both within one batch, is gone for good.
        vanished &= self._nodes.keys()
        if not vanished:
            return
        now = self._now()
        # They still count as live: their records are not made yet.
        graced = self._grace.given({key: self._ttl_of(self._nodes[key]) for key in vanished}, self._live)
        for key in sorted(vanished | graced):
            node = self._nodes.get(key)
            if node is None:
                continue
            if key in graced:
                self._due.set(key, now + self._ttl_of(node))
                self._make(key, node, "unknown", None, events)
            elif node.ghost:
                self._remove(key, events)
            else:
                self._make(key, node, "offline", None, events)

    def _ttl_of(self, node: _Node) -> float:
        status = node.record.status if node.record is not None else None
        return min(status.ttl, MAX_GRACE) if status is not None else 30.0

    # -- clocks ------------------------------------------------------------------------------------

    @property
    def next_due(self) -> float | None:
        """When `tick` has something to do next, in seconds of the clock."""
        return self._due.next

    def tick(self) -> list[NodeEvent]:
        """Let what has run out run out; return the changes. Not to be called while the store is away."""
        events: list[NodeEvent] = []
        now = self._now()
        while (key := self._due.take(now)) is not None:
            node = self._nodes.get(key)
            if node is None:
                continue
            if not node.facts.uid:
                node.aged = True
                self._refresh(key, node, events, set())
            elif node.ghost:
                self._remove(key, events)
            else:
                self._make(key, node, "offline", None, events)
        return events

    def restart_clocks(self) -> None:
        """Begin every ageing anew: we stood still, or could not see."""
        now = self._now()

        def anew(key: str) -> float:
            node = self._nodes[key]
            return now + (self._ttl_of(node) if node.facts.uid else self._founding_timeout)

        self._due.put_off(anew)

    def outage_over(self) -> None:
        """Say that the store is back: whoever vanishes within a TTL from now is suspected of nothing."""
        self._grace.outage_over()
        self.restart_clocks()

    def _touch_clock(self, key: str, node: _Node) -> None:
        """A founding-style document without a lease has just changed, or was just seen for the first time."""
        if node.facts.uid or node.facts.lease is not None:
            if node.aged or not node.facts.uid:
                self._due.drop(key)
            node.aged = False
            return
        node.aged = False
        self._due.set(key, self._now() + self._founding_timeout)

    # -- small things ------------------------------------------------------------------------------

    def confirmed_at(self, record: NodeRecord) -> str | None:
        """Return the wall time up to which a live record is known to be true; None if it is superseded."""
        if record.state not in LIVE_STATES or self.index.by_key.get(record.key) is not record:
            return None
        then = datetime.now(UTC) - timedelta(seconds=self._fresh())
        return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def conditions_of(self, record: NodeRecord) -> tuple[Condition, ...]:
        """Return the conditions that comparing nodes gives one of them; none for a record that is superseded."""
        if record.state == "offline" or self.index.by_key.get(record.key) is not record:
            return ()
        return self.index.contracts.conditions(record)

    @property
    def healthy(self) -> int:
        """How many nodes are ready or busy. Counted when asked."""
        return sum(1 for record in self.index.by_key.values() if record.state in HEALTHY_STATES)

    def _remove(self, key: str, events: list[NodeEvent]) -> None:
        node = self._nodes.pop(key)
        self._due.drop(key)
        if node.status is not None:
            self._orphans[key] = (node.status, node.status_revision)
        record = node.record
        if record is not None:
            self.index.remove(record)
            self._live -= record.state in LIVE_STATES
            events.append(self._event("removed", record))

    def _event(self, kind: EventType, record: NodeRecord) -> NodeEvent:
        return NodeEvent(kind, record.namespace, record.name, record, self.revision)

    def _quarantine(self, path: str, reason: str) -> None:
        if self.quarantined.get(path) != reason:
            self.quarantined[path] = reason
            logger.warning("quarantined %r: %s", path, reason, extra={"key": path})


_BAD_STATUS_KEY = "the key is not /ai-team/status/NAMESPACE/NAME of two DNS-1123 labels"


def _reason(error: DocumentError) -> str:
    return "; ".join(
        f"{fault.path}: {fault.message}" if fault.path else fault.message for fault in error.faults
    )
