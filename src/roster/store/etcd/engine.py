"""The etcd engine as the rest of Roster sees it: the protocol of a store over a shared client."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from roster._clock import boottime
from roster.errors import RevisionCompactedError, StoreUnavailableError
from roster.store import limits
from roster.store.base import Batch, Check, Delete, Entry, Grade, Hint, Op, Page, Put, StoreInfo, Term
from roster.store.etcd.client import Client, acquire, release
from roster.store.etcd.failures import said
from roster.store.etcd.leases import EtcdLease, lease_name, lease_number
from roster.store.etcd.messages import (
    COMPARE_EQUAL,
    COMPARE_MOD,
    GRANT,
    RANGE,
    STATUS,
    TIME_TO_LIVE,
    TXN,
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseTimeToLiveRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    StatusRequest,
    TxnRequest,
)
from roster.store.etcd.past import Past
from roster.store.etcd.watch import Watch, decoded, open_watch
from roster.store.url import StoreUrl

# etcd bounds an answer by the number of keys alone: the first asks for few, the next for as many as these bytes hold.
FIRST_KEYS = 100
MOST_KEYS = 2000
ANSWER_BYTES = 2 * 1024 * 1024


def prefix_range(prefix: str) -> tuple[bytes, bytes]:
    """Return the first key of a prefix and the first one after it."""
    raw = prefix.encode()
    stem = raw.rstrip(b"\xff")
    # UTF-8 has no byte 0xff: only the empty prefix has no end.
    return (raw, stem[:-1] + bytes([stem[-1] + 1])) if stem else (b"\0", b"\0")


class EtcdStore:
    """A client of an etcd cluster; see `roster.store.base.Store`.

    Nothing is connected before the first use. All stores of one URL in one event loop share a connection.

    Args:
        url: servers, user, TLS files, timeout.
    """

    grade: Grade = "history"

    def __init__(self, url: StoreUrl) -> None:
        self._url = url
        self._client: Client | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        # What is asked for when only the state of the store is wanted: a user may have rights there and nowhere else.
        self._own_key = f"{url.prefix}/".encode()
        self._closed = False
        self._watches: set[Watch] = set()
        self._past = Past()

    @property
    def url(self) -> str:
        return self._url.display

    @property
    def client(self) -> Client:
        """The shared client, joined at the first use.

        Raises:
            StoreUnavailableError: this store is closed, or belongs to another event loop, or to the process from which
                this one was forked (connections do not survive that).
        """
        if self._closed:
            raise StoreUnavailableError(f"this client of {self.url} is closed: open another")
        if os.getpid() != self._pid:
            raise StoreUnavailableError(
                f"this client of {self.url} belongs to the process that opened it: open another after the fork"
            )
        loop = asyncio.get_running_loop()
        if self._client is None:
            self._client, self._loop = acquire(self._url), loop
        elif self._loop is not loop:
            raise StoreUnavailableError(
                f"this client of {self.url} belongs to another event loop: open one in each"
            )
        return self._client

    async def info(self) -> StoreInfo:
        client = self.client
        header = await self._header(self._own_key)
        status = await client.read(STATUS, StatusRequest(), "ask for the state")
        details = (
            ("version", said(status.version)),
            ("endpoints", ", ".join(f"{host}:{port}" for host, port in self._url.hosts)),
            ("leader", "known" if status.leader else "none"),
            ("database", f"{status.dbSize / 1e6:.1f} MB"),
            *(("alarm", said(error)) for error in status.errors),
        )
        await self._check_past(header.revision)
        past = f"-{self._past.changes}" if self._past.changes else ""
        return StoreInfo("etcd", f"{header.cluster_id:x}{past}", header.revision, 0, details)

    async def _check_past(self, newest: int) -> None:
        """Look whether the past is still the one that this store has seen."""
        fact = self._past.fact
        if fact is None:
            return
        if fact.revision > newest:
            self._past.disproved(fact)
            return
        request = RangeRequest(key=fact.key, keys_only=True, revision=fact.revision)
        try:
            found = (await self.client.read(RANGE, request, f"read {fact.key.decode()!r}")).kvs
        except RevisionCompactedError:
            return  # nobody can continue from there: whoever wants to is told so, and lists
        if (found[0].mod_revision if found else 0) != fact.mod_revision:
            self._past.disproved(fact)

    async def _header(self, key: bytes) -> Any:
        """Return the header of a linearizable read: what it says is not older than this moment."""
        request = RangeRequest(key=key, keys_only=True)
        return (await self.client.read(RANGE, request, f"read {key.decode(errors='replace')!r}")).header

    async def get(self, key: str) -> Entry | None:
        limits.check_key(key)
        answer = await self.client.read(RANGE, RangeRequest(key=key.encode()), f"read {key!r}")
        return _entry(key, answer.kvs[0]) if answer.kvs else None

    async def list(
        self, prefix: str, *, limit: int = 0, after: str | None = None, revision: int | None = None
    ) -> Page:
        limits.check_prefix(prefix)
        limits.check_limit(limit)
        start, end = prefix_range(prefix)
        if after is not None:
            start = max(start, after.encode() + b"\0")
        shown = revision or 0
        entries: list[Entry] = []
        fitting = FIRST_KEYS
        while True:
            wanted = min(fitting, limit - len(entries)) if limit else fitting
            answer = await self._range(
                RangeRequest(key=start, range_end=end, limit=wanted, revision=shown), f"list {prefix!r}"
            )
            shown = shown or answer.header.revision
            entries.extend(_entry(key, kv) for kv in answer.kvs if (key := decoded(kv.key)) is not None)
            if not (answer.more and answer.kvs):
                self._past.listed(((entry.key, entry.mod_revision) for entry in entries), shown)
                return Page(tuple(entries), shown)
            if limit and len(entries) == limit:
                return Page(tuple(entries), shown, entries[-1].key)
            start = answer.kvs[-1].key + b"\0"
            average = answer.ByteSize() // len(answer.kvs) + 1
            fitting = min(max(ANSWER_BYTES // average, 4), MOST_KEYS)

    async def _range(self, request: Any, doing: str) -> Any:
        try:
            return await self.client.read(RANGE, request, doing)
        except RevisionCompactedError as error:
            # The answer does not say which it is: compacted, or not written yet.
            newest = (await self._header(request.key)).revision
            raise RevisionCompactedError(str(error), min(request.revision, newest)) from None

    async def put(
        self, key: str, value: bytes, *, lease: str | None = None, if_revision: int | None = None
    ) -> int:
        checks = () if if_revision is None else (Check(key, if_revision),)
        return await self.transact(checks, (Put(key, value, lease),))

    async def delete(self, key: str, *, if_revision: int | None = None) -> bool:
        checks = () if if_revision is None else (Check(key, if_revision),)
        limits.check_transaction(checks, (Delete(key),))
        answer = await self._transact(checks, (Delete(key),))
        return any(response.response_delete_range.deleted for response in answer.responses)

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        limits.check_transaction(checks, ops)
        if not checks and not ops:
            return int((await self._header(self._own_key)).revision)
        return int((await self._transact(checks, ops)).header.revision)

    async def _transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> Any:
        request = TxnRequest(
            compare=[
                Compare(
                    result=COMPARE_EQUAL,
                    target=COMPARE_MOD,
                    key=check.key.encode(),
                    mod_revision=check.mod_revision,
                )
                for check in checks
            ],
            success=[_operation(op) for op in ops],
            # What the keys are at when a condition does not hold, as of the same moment.
            failure=[
                RequestOp(request_range=RangeRequest(key=check.key.encode(), keys_only=True))
                for check in checks
            ],
        )
        keys = [op.key for op in ops] or [check.key for check in checks]
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        answer = await self.client.write(TXN, request, f"write {keys[0]!r}{more}")
        if answer.succeeded:
            return answer
        for check, response in zip(checks, answer.responses, strict=False):
            found = response.response_range.kvs
            revision = found[0].mod_revision if found else 0
            if revision != check.mod_revision:
                raise limits.conflict(check.key, check.mod_revision, revision)
        raise self.client.away("it did not say which condition of a transaction failed")

    @asynccontextmanager
    async def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        limits.check_prefix(prefix)
        limits.check_from_revision(from_revision)
        client = self.client
        key, range_end = prefix_range(prefix)
        watch = await open_watch(client, key, range_end, from_revision, f"watch {prefix!r}", past=self._past)
        self._watches.add(watch)
        try:
            # Asked after the watch was opened: an etcd that is wiped between the two would keep it in silence. (What the
            # watch itself says of its revision is that of one member, which may lag behind.)
            newest = (await self._header(key)).revision
            if from_revision > newest + 1:
                raise RevisionCompactedError(
                    f"revision {from_revision} of {self.url} lies in the future (it is at {newest}): the store is "
                    "another one or was restored: list again",
                    newest,
                )
            _ = self.client  # not closed meanwhile
            yield watch
        finally:
            self._watches.discard(watch)
            await watch.end()

    async def grant(self, ttl: float, *, lingering: bool = False, hint: Hint | None = None) -> EtcdLease:
        limits.check_ttl(ttl)
        client = self.client
        sent = boottime()
        # A lease that was granted unheard holds nothing and runs out: asking twice does no harm.
        answer = await client.read(GRANT, LeaseGrantRequest(TTL=math.ceil(ttl)), "grant a lease")
        return EtcdLease(client, answer.ID, answer.TTL, sent)

    async def lease_terms(self, ids: Sequence[str]) -> Mapping[str, Term]:
        found = {}
        for name in ids:
            asked = LeaseTimeToLiveRequest(ID=lease_number(name))
            answer = await self.client.read(TIME_TO_LIVE, asked, "look at a lease")
            if answer.TTL >= 0:  # -1: there is none; whole seconds, rounded down
                found[name] = Term(answer.grantedTTL, answer.grantedTTL - answer.TTL, answer.TTL)
        return found

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for watch in self._watches:
            watch.fail(StoreUnavailableError(f"this client of {self.url} was closed"))
        if self._client is not None and self._loop is asyncio.get_running_loop():
            await release(self._client)

    async def __aenter__(self) -> EtcdStore:
        _ = self.client
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def _entry(key: str, kv: Any) -> Entry:
    return Entry(key, kv.value, kv.create_revision, kv.mod_revision, lease_name(kv.lease))


def _operation(op: Op) -> Any:
    if isinstance(op, Put):
        return RequestOp(
            request_put=PutRequest(key=op.key.encode(), value=op.value, lease=lease_number(op.lease))
        )
    return RequestOp(request_delete_range=DeleteRangeRequest(key=op.key.encode()))
