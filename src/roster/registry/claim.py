"""Takes a name in the registry: one transaction, and what to do when somebody has it already."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from roster.errors import ConflictError, DocumentError, LeaseLostError, NameConflictError
from roster.registry.facts import Facts, Sharing, read_facts
from roster.registry.holder import this_process
from roster.registry.keys import NodeKey, node_key, status_key
from roster.registry.status import NodeStatus
from roster.store.base import Check, Entry, Put, Store

logger = logging.getLogger("roster.registry")

# What a lease may live beyond its TTL before it is seen to be gone: Consul's sessions take up to twice
# theirs.
SLACK = 2.0
# A founding-style document with a lease says nothing of its TTL; its own readers give it this long.
FOUNDING_PATIENCE = 60.0
# Each round is a lost race against another writer of the same two keys; 64 racers settle in far fewer.
_MAX_ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class Claimed:
    """A name taken.

    Attributes:
        uid: of the new incarnation.
        status: as written.
        revision: of both keys.
        passport: the bytes as written.
    """

    uid: str
    status: NodeStatus
    revision: int
    passport: bytes


Documents = Callable[[str, Facts | None], tuple[NodeStatus, bytes]]
"""Makes status and passport for a new uid, given what stood at the passport's key before."""


class Claim:
    """One try to take a name.

    Args:
        store: where.
        identity: which name.
        status_lease: id of the node's lease.
        passport_lease: id of the long lease of its passport.
        documents: makes the two documents.
        takeover: replace whoever holds it.
        wait: at most so many seconds to wait for another holder's lease to end; None: as long as that may
            take.
        own: uids that are this very registration's own: nothing to wait for. Those tried here are added.
        on_wait: told once, in a sentence, when it begins to wait.
    """

    def __init__(
        self,
        store: Store,
        identity: NodeKey,
        *,
        status_lease: str,
        passport_lease: str,
        documents: Documents,
        takeover: bool = False,
        wait: float | None = None,
        own: deque[str] | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self._store = store
        self._identity = identity
        self._status_lease = status_lease
        self._passport_lease = passport_lease
        self._documents = documents
        self._takeover = takeover
        self._wait = wait
        self._own = deque() if own is None else own
        self._on_wait = on_wait
        self._status_key = status_key(*identity)
        self._node_key = node_key(*identity)

    async def take(self) -> Claimed:
        """Take the name.

        Raises:
            NameConflictError: a live process holds it, or may hold it longer than `wait`.
            LeaseLostError: our own lease ended meanwhile; nothing was written.
            StoreUnavailableError: the store is out of reach.
        """
        waited = False
        for _ in range(_MAX_ROUNDS):
            status = await self._store.get(self._status_key)
            passport = await self._store.get(self._node_key)
            known = self._facts(passport)
            if not self._free(status, passport, known):
                if waited:
                    raise NameConflictError(
                        f"another process took the name {self._identity} first; choose another name"
                    )
                waited = await self._outwait(status, passport)
                continue
            try:
                return await self._write(status, passport, known)
            except ConflictError:
                continue  # somebody wrote between our reading and our writing: look again
        raise NameConflictError(
            f"the name {self._identity} changes hands all the time ({_MAX_ROUNDS} tries): "
            "find out who else registers it, or choose another name"
        )

    def _about(self) -> dict[str, str]:
        return {"node": str(self._identity)}

    def _facts(self, entry: Entry | None) -> Facts | None:
        if entry is None:
            return None
        try:
            return read_facts(entry, Sharing())
        except DocumentError as error:
            logger.warning("replacing a document that cannot be read: %s", error, extra=self._about())
            return None

    def _free(self, status: Entry | None, passport: Entry | None, known: Facts | None) -> bool:
        """Return whether the name may be taken now.

        Raises:
            NameConflictError: its holder provably lives.
        """
        if self._takeover:
            return True
        if status is None:
            # A founding-style agent has no status: its lease alone says that it lives. Without one nothing
            # does.
            return known is None or known.uid != "" or passport is None or passport.lease is None
        said = _decode(status)
        if said is None:
            return False  # unreadable, but its lease lives
        if said.uid in self._own or said.mirrored_from:
            return True  # a mirror holds no name: its node lives in another registry, and may come over
        if said.holder is None:
            return False
        liveness = said.holder.liveness()
        if liveness == "dead":
            logger.info(
                "%s was held by %s, which is dead: replaced",
                self._identity,
                said.holder,
                extra=self._about(),
            )
            return True
        if liveness == "alive":
            raise NameConflictError(
                f"the name {self._identity} is held by {said.holder}, which is alive: "
                "stop it, choose another name, or take it over (--takeover)"
            )
        return False

    async def _write(self, status: Entry | None, passport: Entry | None, known: Facts | None) -> Claimed:
        uid = str(uuid.uuid4())
        # Before the writing: a store that falls silent now may have it, and the next try must know it again.
        self._own.append(uid)
        new_status, new_passport = self._documents(uid, known)
        revision = await self._store.transact(
            [
                Check(self._status_key, status.mod_revision if status else 0),
                Check(self._node_key, passport.mod_revision if passport else 0),
            ],
            [
                Put(self._node_key, new_passport, self._passport_lease),
                Put(self._status_key, new_status.encode(), self._status_lease),
            ],
        )
        return Claimed(uid, new_status, revision, new_passport)

    # -- somebody who may live ---------------------------------------------------------------------

    async def _outwait(self, status: Entry | None, passport: Entry | None) -> bool:
        """Wait until the other's lease ends. Returns True when it has.

        Raises:
            NameConflictError: it lives (it wrote, or answered our challenge), or it takes longer than
                allowed.
        """
        held = status or passport
        if held is None:
            return True
        said = _decode(status) if status is not None else None
        who = str(said.holder) if said is not None and said.holder is not None else "another process"
        most = (said.ttl * 2 if said is not None else FOUNDING_PATIENCE) + SLACK
        expected = said.ttl if said is not None else FOUNDING_PATIENCE
        patience = most if self._wait is None else min(most, self._wait)
        if patience <= 0:
            raise self._conflict(who, "its lease has not ended")
        text = (
            f"the name {self._identity} is held by {who}; waiting for its lease to end, "
            f"at most {expected:.0f} s, unless it proves to be alive"
        )
        logger.warning("%s", text, extra=self._about())
        if self._on_wait is not None:
            self._on_wait(text)
        revision = held.mod_revision
        if said is not None and status is not None:
            revision = await self._challenge(status, said)
        if await self._watch(held.key, revision, patience):
            return True
        if self._wait is not None and self._wait < most:
            raise self._conflict(who, f"its lease has not ended after {self._wait:g} s")
        raise self._conflict(who, "its lease goes on being renewed")

    async def _challenge(self, status: Entry, said: NodeStatus) -> int:
        """Ask the holder for a sign of life: it looks at its status after each keep-alive, and writes it anew.

        A store shows nobody whether another's lease was renewed; this way we know after one keep-alive, not
        one TTL.
        """
        asked = replace(said, challenge=f"{this_process()} {os.urandom(8).hex()}")
        try:
            return await self._store.put(
                self._status_key, asked.encode(), lease=status.lease, if_revision=status.mod_revision
            )
        except (ConflictError, LeaseLostError):
            return status.mod_revision  # it wrote, or its lease has just ended: the watch tells which

    async def _watch(self, key: str, revision: int, patience: float) -> bool:
        """Return True when the key is gone, False when `patience` is over.

        Raises:
            NameConflictError: its holder wrote it.
        """
        try:
            async with (
                asyncio.timeout(patience),
                self._store.watch(key, from_revision=revision + 1) as batches,
            ):
                async for batch in batches:
                    for change in batch.changes:
                        if change.key != key or change.revision <= revision:
                            continue
                        if change.value is None:
                            return True
                        if not _is_challenge(key, change.value):
                            raise self._conflict("a process", "it has just shown that it is alive")
                    if batch.snapshot and not any(change.key == key for change in batch.changes):
                        return True
        except TimeoutError:
            pass  # looked at once more below: an engine may be slow to tell of an ended lease
        return await self._store.get(key) is None

    def _conflict(self, who: str, why: str) -> NameConflictError:
        return NameConflictError(
            f"the name {self._identity} is held by {who}: {why}; "
            "stop it, choose another name, or take it over (--takeover)"
        )


def _decode(entry: Entry) -> NodeStatus | None:
    try:
        return NodeStatus.decode(entry.value, entry.key)
    except DocumentError:
        return None  # its lease is what counts; the informer shows the document as quarantined


def _is_challenge(key: str, value: bytes) -> bool:
    """Return whether a write of this key was another contender's question, not the holder's answer."""
    try:
        return NodeStatus.decode(value, key).challenge != ""
    except DocumentError:
        return False  # a founding-style passport, or nonsense: somebody writes there
