"""Writes the two keys of one node, each time on the condition that they are as it left them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from roster.errors import (
    ConflictError,
    DocumentError,
    LeaseLostError,
    NameConflictError,
    StoreUnavailableError,
)
from roster.passport import NodePassport
from roster.registry.claim import Claimed
from roster.registry.draft import Draft, declared
from roster.registry.facts import Facts, Sharing, read_facts
from roster.registry.keys import NodeKey, node_key, status_key
from roster.registry.leases import Leases
from roster.registry.status import NodeStatus
from roster.store.base import Check, Delete, Entry, Op, Put, Store

logger = logging.getLogger("roster.registry")

# Between two writes of the status: 5 000 busy nodes at one a second would fill an etcd.
LOAD_INTERVAL = 5.0
# A node of one task flips between ready and busy with each command: the first flip is written at once, the
# rest at most this often, the last one always.
FLIP_INTERVAL = 1.0
# The passport is 2 KB where a status is 400 bytes: flips reach it no more often than load does.
PASSPORT_INTERVAL = 5.0
_MAX_ROUNDS = 20
_NEVER = float("-inf")


class Writer:
    """What is to be written of a draft, when, and under which revisions.

    Args:
        own: the uids of this registration's lives.

    Attributes:
        uid: the incarnation whose keys these are.
        stored: the passport as last written.
        urgent: something is to be written now.
        flip: the state went between ready and busy.
        load: the load changed.
        passport_dirty: the passport is to be written now.
    """

    def __init__(
        self,
        store: Store,
        identity: NodeKey,
        draft: Draft,
        leases: Leases,
        *,
        own: Collection[str],
        refresh: float,
        now: Callable[[], float],
        rng: Callable[[], float],
    ) -> None:
        self.uid = ""
        self.stored: NodePassport = draft.content
        self.urgent = self.flip = self.load = self.passport_dirty = False
        self._store = store
        self._identity = identity
        self._status_key = status_key(*identity)
        self._node_key = node_key(*identity)
        self._draft = draft
        self._leases = leases
        self._own = own
        self._refresh = refresh
        self._now = now
        self._rng = rng
        self._next_refresh = float("inf")
        self._status_revision = self._passport_revision = 0
        self._written = self._flipped = self._passport_written = _NEVER

    def documents(self, uid: str, known: Facts | None) -> tuple[NodeStatus, bytes]:
        """Return both documents of a new incarnation, over whatever stood under the name before."""
        self._draft.begin(known)
        return self._draft.status(uid), self._encode(uid)

    def adopt(self, claimed: Claimed) -> None:
        """Go on from a claim that has just succeeded: everything was written with it."""
        self.uid = claimed.uid
        self._status_revision = self._passport_revision = claimed.revision
        self.urgent = self.flip = self.load = self.passport_dirty = False
        self._written = self._now()
        self._note_passport(self._written)

    def _note_passport(self, now: float) -> None:
        self._passport_written = now
        if self._refresh:
            # Jitter: nodes that started together must not rewrite 2 KB each in the same instant for ever after.
            self._next_refresh = now + self._refresh * (0.8 + 0.2 * self._rng())

    @property
    def due(self) -> float:
        """When something is to be written next, in seconds of the clock."""
        if self.urgent or self.passport_dirty:
            return _NEVER
        due = float("inf")
        if self.flip:
            due = self._flipped + FLIP_INTERVAL
        elif self.load:
            due = self._written + LOAD_INTERVAL
        return min(due, self._next_refresh)

    # -- looking -----------------------------------------------------------------------------------

    async def check_status(self) -> None:
        """Compare the status in the store with ours.

        Raises:
            LeaseLostError: it is gone, or one of a former life of ours.
            NameConflictError: it is somebody else's.
        """
        entry = await self._store.get(self._status_key)
        if entry is None:
            raise LeaseLostError(f"the status of {self._identity} is gone")
        self._compare(entry)

    def _compare(self, entry: Entry) -> None:
        try:
            said: NodeStatus | None = NodeStatus.decode(entry.value, entry.key)
        except DocumentError:
            said = None
        if said is not None and said.uid != self.uid and said.uid in self._own:
            raise LeaseLostError(f"the store shows {self._identity} in a former life: it was restored")
        if (said is not None and said.uid != self.uid) or (
            said is None and entry.lease != self._leases.own.id
        ):
            who = said.holder if said is not None and said.holder is not None else "another process"
            raise NameConflictError(
                f"the name {self._identity} was taken over by {who}; this registration has ended"
            )
        if entry.mod_revision != self._status_revision:
            # Somebody asked whether we live (see `claim`), or scribbled over it: say again what is true.
            self._status_revision = entry.mod_revision
            self.urgent = True

    async def check_passport(self) -> None:
        """Take the cordon mark over, and have the passport put back if it was deleted or overwritten."""
        entry = await self._store.get(self._node_key)
        revision = entry.mod_revision if entry is not None else 0
        if revision == self._passport_revision:
            return
        self._passport_revision = revision
        if entry is None:
            logger.warning(
                "the passport of %s was deleted while it lives: written again",
                self._identity,
                extra={"node": str(self._identity)},
            )
        else:
            facts = _facts(entry)
            if facts is not None and facts.uid == self.uid:
                self._draft.cordoned = facts.cordoned
                if declared(NodePassport.from_stored(entry.value)) == declared(self._draft.content):
                    return
            logger.warning(
                "the passport of %s was changed by somebody else: written again",
                self._identity,
                extra={"node": str(self._identity)},
            )
        self.passport_dirty = True

    # -- writing -----------------------------------------------------------------------------------

    async def write(self) -> None:
        """Write the status, and the passport if that is due, in one transaction.

        Raises:
            LeaseLostError: the node's lease has ended.
            NameConflictError: the name is somebody else's.
            StoreUnavailableError: unconfirmed; what was to be written still is.
        """
        for _ in range(_MAX_ROUNDS):
            now = self._now()
            age = now - self._passport_written
            with_passport = self.passport_dirty or (
                self._refresh > 0
                and (self.urgent or now >= self._next_refresh or (self.flip and age >= PASSPORT_INTERVAL))
            )
            # Taken before the writing, so that what is reported meanwhile is written the next time.
            marks = (self.urgent, self.flip, self.load, self.passport_dirty)
            self.urgent = self.flip = self.load = self.passport_dirty = False
            try:
                revision = await self._transact(with_passport)
            except BaseException as error:
                self.urgent |= marks[0]
                self.flip |= marks[1]
                self.load |= marks[2]
                self.passport_dirty |= marks[3]
                if isinstance(error, ConflictError):
                    await self.check_status()
                    await self.check_passport()
                    continue
                if isinstance(error, LeaseLostError) and with_passport and await self._leases.life_was_lost():
                    continue
                raise
            self._status_revision = revision
            self._written = now
            if marks[1]:
                self._flipped = now
            if with_passport:
                self._passport_revision = revision
                self._note_passport(now)
            return
        raise StoreUnavailableError(f"others write the keys of {self._identity} all the time: find out who")

    async def _transact(self, with_passport: bool) -> int:
        checks = [Check(self._status_key, self._status_revision)]
        ops: list[Op] = [Put(self._status_key, self._draft.status(self.uid).encode(), self._leases.own.id)]
        if with_passport:
            checks.append(Check(self._node_key, self._passport_revision))
            ops.append(Put(self._node_key, self._encode(self.uid), await self._leases.life_id()))
        return await self._store.transact(checks, ops)

    async def remove(self) -> None:
        """Delete both keys, if they are still ours."""
        for _ in range(_MAX_ROUNDS):
            status = await self._store.get(self._status_key)
            try:
                if status is not None:
                    self._compare(status)
            except NameConflictError:
                return  # the name is somebody else's by now
            except LeaseLostError:
                pass  # a former life of ours leaves, too
            passport = await self._store.get(self._node_key)
            facts = _facts(passport) if passport is not None else None
            checks = [Check(self._status_key, status.mod_revision if status is not None else 0)]
            ops: list[Op] = [Delete(self._status_key)] if status is not None else []
            if passport is not None and facts is not None and facts.uid in self._own:
                checks.append(Check(self._node_key, passport.mod_revision))
                ops.append(Delete(self._node_key))
            try:
                if ops:
                    await self._store.transact(checks, ops)
                return
            except ConflictError:
                continue  # somebody wrote in between: look again

    def _encode(self, uid: str) -> bytes:
        self.stored = self._draft.passport(uid)
        return self.stored.to_json()


def _facts(entry: Entry) -> Facts | None:
    try:
        return read_facts(entry, Sharing())
    except DocumentError:
        return None  # not ours, then
