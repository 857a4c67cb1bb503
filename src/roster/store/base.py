"""The contract of a store: what every engine promises to the registry above it.

A store holds bytes under keys; it knows nothing of passports. `tests/contract/test_store.py` holds every engine to each
clause below, by name. All coroutines have a deadline inside them: when the engine stays silent they raise
`StoreUnavailableError`, and what was asked may or may not have happened.

**Keys** are paths such as `/ai-team/nodes/default/writer-001`: they begin with `/`, are at most 512 bytes of UTF-8, and
hold no NUL. A prefix is matched as a plain string, in UTF-8 byte order. **Values** are at most 512 KiB.

**Revisions.** One counter a store, raised by one for each write that changes something; all writes of one transaction
share a revision. It never goes back while the store's `cluster_id` stays the same.

**Leases.** What is put under a lease is deleted by the store when the lease ends: revoked, not kept alive for `ttl`
seconds, or its holder proven dead. `keep_alive` writes nothing to the log of changes. A lease that has ended never comes
back, and its holder learns of it (`LeaseLostError`, `lost`) no later than the next `keep_alive`. The holder's own deadline
is `CLOCK_BOOTTIME`-based and begins when the keep-alive was *sent*, so it never outlives the store's.

**Watches** are, in etcd's words, ordered (by revision), unique (no change twice), reliable (none left out), atomic (the
changes of one revision are never split between batches), resumable (from any kept revision) and bookmarked (an empty batch
says up to which revision there was nothing). A watch that cannot keep this raises: `RevisionCompactedError` when the changes
are no longer kept, or when the revision asked for lies beyond `store revision + 1` (the store was restored or wiped);
`StoreUnavailableError` when the engine is out of reach. It never waits in silence.

Two grades of watch: `history` (every change is seen) and `state` (changes of one key between two looks may merge: its last
state is always seen, and a batch may be a `snapshot`: all keys under the prefix as they are now, what is missing is gone).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

MAX_KEY_BYTES = 512
MAX_VALUE_BYTES = 512 * 1024
MIN_TTL = 1.0
MAX_TTL = 7 * 24 * 3600.0

Grade = Literal["history", "state"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as the store has it.

    Attributes:
        key: its path.
        value: its bytes.
        create_revision: the revision that created it.
        mod_revision: the revision that wrote it last.
        lease: the id of the lease it is bound to, or None.
    """

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing. All pages of one listing show the store at one `revision`.

    Attributes:
        entries: the entries, in key order.
        revision: the store's revision that this listing shows.
        next: pass it as `after` (with `revision`) for the next page; None on the last.
    """

    entries: tuple[Entry, ...]
    revision: int
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one key.

    Attributes:
        type: `put` or `delete`.
        key: its path.
        revision: the revision of the change (`mod_revision` of the entry that it made).
        value: the new bytes; None for `delete`.
        create_revision: of the entry put; 0 for `delete`.
        lease: the lease the entry is bound to, or None.
    """

    type: Literal["put", "delete"]
    key: str
    revision: int
    value: bytes | None = None
    create_revision: int = 0
    lease: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What a watch yields: the changes up to and including `revision`. Without changes it is a bookmark.

    Attributes:
        changes: in order of revision; the changes of one revision are never split between batches.
        revision: resume from `revision + 1`.
        snapshot: True when `changes` are puts of all keys under the prefix and whatever is missing is gone
            (engines of grade `state` only).
    """

    changes: tuple[Change, ...]
    revision: int
    snapshot: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """A condition of a transaction: the key is at this `mod_revision` now; 0 means that it is absent."""

    key: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key, bound to a lease or to none (which unbinds it)."""

    key: str
    value: bytes
    lease: str | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key; nothing happens if it is absent."""

    key: str


Op = Put | Delete


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store says of itself.

    Attributes:
        engine: `sqlite`, `memory`, `etcd`, `consul`, `zookeeper`.
        cluster_id: another id means another store: a revision of the old one means nothing.
        revision: the newest revision.
        compacted: the newest revision whose changes are gone (0: none).
        details: engine-specific words for people, such as the file or the server's version.
    """

    engine: str
    cluster_id: str
    revision: int
    compacted: int
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Hint:
    """What a lease stands for, for engines that show services to others (Consul); the rest ignore it.

    Attributes:
        name: what it is called, such as `default/writer-001`.
        words: what others look for, such as the capabilities on offer.
        key: the key that tells more.
    """

    name: str
    words: tuple[str, ...] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class Term:
    """How a lease stands.

    Attributes:
        ttl: seconds it lives after a renewal.
        renewed: seconds since it was granted or last renewed.
        left: seconds until it ends unless it is renewed.
    """

    ttl: float
    renewed: float
    left: float


class Lease(Protocol):
    """A time-to-live that its holder keeps alive. It is renewed by its owner, never by itself."""

    @property
    def id(self) -> str:
        """Unique for ever in this store."""
        ...

    @property
    def ttl(self) -> float:
        """Seconds it lives after the last keep-alive, as the store granted it (it may be more than was asked for)."""
        ...

    @property
    def deadline(self) -> float:
        """The `CLOCK_BOOTTIME` second at which its holder must treat it as lost unless it is renewed before."""
        ...

    @property
    def lost(self) -> bool:
        """Whether the holder knows that it has ended."""
        ...

    async def keep_alive(self) -> None:
        """Renew it for another `ttl`. Writes nothing to the log of changes.

        Raises:
            LeaseLostError: it has ended; it never comes back.
            StoreUnavailableError: unconfirmed: the store is silent; try again before `deadline`.
        """
        ...

    async def describe(self, hint: Hint) -> None:
        """Replace the hint that it was granted with. Engines that show nobody a hint do nothing.

        Raises:
            LeaseLostError: it has ended.
            StoreUnavailableError: the engine is out of reach.
        """
        ...

    async def revoke(self) -> None:
        """End it now; what is bound to it is deleted in one revision. A lease that has ended already is no error."""
        ...


@runtime_checkable
class Store(Protocol):
    """An engine. Made by `roster.store.open_store(url)`; used as an async context manager, or closed with `close`."""

    @property
    def url(self) -> str:
        """The URL without secrets, for people to read."""
        ...

    @property
    def grade(self) -> Grade:
        """How much a watch shows: `history` or `state`."""
        ...

    async def info(self) -> StoreInfo:
        """Return what the store says of itself; a round trip to the engine."""
        ...

    async def get(self, key: str) -> Entry | None:
        """Return one entry, or None. Reads never write."""
        ...

    async def list(
        self, prefix: str, *, limit: int = 0, after: str | None = None, revision: int | None = None
    ) -> Page:
        """Return the entries whose key begins with `prefix`, in key order.

        Args:
            prefix: plain string prefix.
            limit: at most so many entries, 0 for all.
            after: the `next` of the page before.
            revision: the `revision` of the page before: all pages show the same moment.

        Raises:
            RevisionCompactedError: `revision` is no longer kept: begin again.
        """
        ...

    async def put(
        self, key: str, value: bytes, *, lease: str | None = None, if_revision: int | None = None
    ) -> int:
        """Write one key and return the new revision.

        Args:
            if_revision: write only if the key is at this `mod_revision`; 0: only if it is absent.

        Raises:
            ConflictError: `if_revision` did not hold.
            LeaseLostError: the lease has ended.
            LimitError: key or value are over the limits.
        """
        ...

    async def delete(self, key: str, *, if_revision: int | None = None) -> bool:
        """Remove one key; return whether it was there.

        Raises:
            ConflictError: `if_revision` did not hold.
        """
        ...

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        """Do all `ops` in one revision if all `checks` hold, else nothing; return the revision.

        At most 64 operations, each key at most once.

        Raises:
            ConflictError: a check did not hold.
            LeaseLostError: a lease named by a put has ended.
        """
        ...

    def watch(self, prefix: str, *, from_revision: int) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """Follow the changes under `prefix` with revision >= `from_revision`.

        The watch is open, and nothing is missed from then on, when the context manager is entered.

        Raises:
            RevisionCompactedError: on entering or while iterating, see the contract above.
            StoreUnavailableError: the engine is out of reach.
        """
        ...

    async def grant(self, ttl: float, *, lingering: bool = False, hint: Hint | None = None) -> Lease:
        """Make a lease of `ttl` seconds (between `MIN_TTL` and `MAX_TTL`).

        Args:
            lingering: it ends by time or by `revoke` alone, even where the engine can prove that its holder is dead.
            hint: what to show of its holder to others, where the engine can.
        """
        ...

    async def close(self) -> None:
        """End this client: its watches end with `StoreUnavailableError`, its leases are left to run out."""
        ...

    async def __aenter__(self) -> Store: ...

    async def __aexit__(self, *exc: object) -> None: ...


@runtime_checkable
class LeaseTerms(Protocol):
    """What an engine offers besides, if it can: how leases stand, whoever holds them. For examinations."""

    async def lease_terms(self, ids: Sequence[str]) -> Mapping[str, Term]:
        """Return how leases stand, by id; those that have ended or never were are left out.

        Raises:
            StoreUnavailableError: the engine is out of reach.
        """
        ...
