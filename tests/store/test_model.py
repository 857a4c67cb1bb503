"""Each embedded engine against a model of a store, in random order of everything that one can do to it.

The clock is the test's own, so that leases end when it says so. Two clients share the store and take turns.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roster.errors import ConflictError, LeaseLostError
from roster.store import Change, Check, Delete, Entry, Lease, Put, Store
from roster.store.memory import MemoryStore
from roster.store.sqlite import SqliteStore

T = TypeVar("T")

KEYS = st.sampled_from(["/a", "/a/b", "/ab", "/b", "/b/ж", "/c"])
PREFIXES = st.sampled_from(["", "/", "/a", "/b", "/b/", "/nobody"])
VALUES = st.binary(max_size=3)
CLIENTS = st.integers(0, 1)


@dataclass
class ModelLease:
    """What the model knows of a lease."""

    real: Lease
    owner: int
    ttl: float
    deadline: float
    ended: bool = False


@dataclass
class Model:
    """A store, as the contract has it."""

    revision: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    log: list[Change] = field(default_factory=list)
    moments: list[dict[str, Entry]] = field(default_factory=lambda: [{}])
    leases: list[ModelLease] = field(default_factory=list)

    def alive(self, lease: str | None) -> bool:
        return lease is None or any(one.real.id == lease and not one.ended for one in self.leases)

    def transact(self, checks: list[Check], ops: list[Put | Delete]) -> int | type[Exception]:
        """Return the revision, or the error that must come."""
        for check in checks:
            entry = self.entries.get(check.key)
            if (entry.mod_revision if entry else 0) != check.mod_revision:
                return ConflictError
        if not all(self.alive(op.lease) for op in ops if isinstance(op, Put)):
            return LeaseLostError
        ops = [op for op in ops if isinstance(op, Put) or op.key in self.entries]
        if not ops:
            return self.revision
        self.revision += 1
        for op in ops:
            if isinstance(op, Delete):
                del self.entries[op.key]
                self.log.append(Change("delete", op.key, self.revision))
            else:
                old = self.entries.get(op.key)
                created = old.create_revision if old else self.revision
                self.entries[op.key] = Entry(op.key, op.value, created, self.revision, op.lease)
                self.log.append(Change("put", op.key, self.revision, op.value, created, op.lease))
        self.moments.append(dict(self.entries))
        return self.revision

    def end(self, lease: ModelLease) -> None:
        if not lease.ended:
            lease.ended = True
            self.transact(
                [], [Delete(k) for k, e in sorted(self.entries.items()) if e.lease == lease.real.id]
            )


class StoreMachine(RuleBasedStateMachine):
    """The comparison; each engine adds how it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.time = 1000.0
        self.model = Model()
        self.directory = Path(tempfile.mkdtemp(prefix="model"))
        self.name = uuid.uuid4().hex
        self.clients: list[Store] = []
        self.position = 0

    def open(self) -> Store:
        raise NotImplementedError

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(10):
                return await work

        return self.loop.run_until_complete(bounded())

    @initialize()
    def begin(self) -> None:
        self.clients = [self.open(), self.open()]
        for client in self.clients:
            self.run(client.info())

    def teardown(self) -> None:
        for client in self.clients:
            self.run(client.close())
        self.loop.close()
        shutil.rmtree(self.directory)

    def settle(self) -> None:
        """Let the leases end whose time is over."""
        for lease in self.model.leases:
            if lease.deadline <= self.time:
                self.model.end(lease)
        for client in self.clients:
            if isinstance(client, SqliteStore):
                self.run(client.sweep())

    def lease_of(self, data: st.DataObject) -> str | None:
        leases = [None, *(lease.real.id for lease in self.model.leases)]
        return data.draw(st.sampled_from([*leases[-4:], None]))

    def compare(self, work: Coroutine[Any, Any, T], expected: object) -> T | None:
        """Do it for real; the same must come of it."""
        if isinstance(expected, type):
            with pytest.raises(expected):
                self.run(work)
            return None
        result = self.run(work)
        assert result == expected
        return result

    @rule(
        who=CLIENTS,
        key=KEYS,
        value=VALUES,
        data=st.data(),
        condition=st.sampled_from(["", "absent", "now", "bad"]),
    )
    def put(self, who: int, key: str, value: bytes, data: st.DataObject, condition: str) -> None:
        lease = self.lease_of(data)
        wanted = self.wanted(key, condition)
        checks = [] if wanted is None else [Check(key, wanted)]
        expected = self.model.transact(checks, [Put(key, value, lease)])
        self.compare(self.clients[who].put(key, value, lease=lease, if_revision=wanted), expected)

    @rule(who=CLIENTS, key=KEYS, condition=st.sampled_from(["", "", "now", "bad"]))
    def delete(self, who: int, key: str, condition: str) -> None:
        wanted = self.wanted(key, condition)
        before = self.model.revision
        expected = self.model.transact([] if wanted is None else [Check(key, wanted)], [Delete(key)])
        if not isinstance(expected, type):
            expected = expected != before
        self.compare(self.clients[who].delete(key, if_revision=wanted), expected)

    @rule(who=CLIENTS, data=st.data(), keys=st.lists(KEYS, unique=True, max_size=4), good=st.booleans())
    def transact(self, who: int, data: st.DataObject, keys: list[str], good: bool) -> None:
        checks = [Check(key, self.wanted(key, "now" if good else "bad") or 0) for key in keys[:2]]
        ops: list[Put | Delete] = [
            Delete(key) if data.draw(st.booleans()) else Put(key, data.draw(VALUES), self.lease_of(data))
            for key in keys
        ]
        expected = self.model.transact(checks, ops)
        self.compare(self.clients[who].transact(checks, ops), expected)

    def wanted(self, key: str, condition: str) -> int | None:
        entry = self.model.entries.get(key)
        now = entry.mod_revision if entry else 0
        return {"": None, "absent": 0, "now": now, "bad": now + 1}[condition]

    @rule(who=CLIENTS, ttl=st.sampled_from([5.0, 20.0]), lingering=st.booleans())
    def grant(self, who: int, ttl: float, lingering: bool) -> None:
        lease = self.run(self.clients[who].grant(ttl, lingering=lingering))
        assert lease.ttl == ttl
        assert lease.id not in [one.real.id for one in self.model.leases]
        self.model.leases.append(ModelLease(lease, who, ttl, self.time + ttl))

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data())
    def keep_alive(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.model.leases[-4:]))
        if lease.owner < 0:
            return  # its client was closed: nobody can renew it
        self.compare(lease.real.keep_alive(), LeaseLostError if lease.ended else None)
        if not lease.ended:
            lease.deadline = self.time + lease.ttl
            assert lease.real.deadline == lease.deadline
        assert lease.real.lost == lease.ended

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.model.leases[-4:]))
        if lease.owner < 0:
            return
        self.run(lease.real.revoke())
        self.model.end(lease)
        assert lease.real.lost

    @rule(seconds=st.sampled_from([0.5, 4.0, 6.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.time += seconds
        self.settle()

    @rule(who=CLIENTS)
    def reopen(self, who: int) -> None:
        self.run(self.clients[who].close())
        self.clients[who] = self.open()
        self.run(self.clients[who].info())  # it joins at its first use, and the other may be closed next
        for lease in self.model.leases:
            if lease.owner == who:
                lease.owner = -1

    @rule(who=CLIENTS, key=KEYS)
    def get(self, who: int, key: str) -> None:
        self.compare(self.clients[who].get(key), self.model.entries.get(key))

    @rule(who=CLIENTS, prefix=PREFIXES, limit=st.integers(0, 3), back=st.integers(0, 3))
    def list_pages(self, who: int, prefix: str, limit: int, back: int) -> None:
        revision = max(0, self.model.revision - back)
        moment = {
            key: entry for key, entry in self.model.moments[revision].items() if self.model.alive(entry.lease)
        }
        page = self.run(self.clients[who].list(prefix, limit=limit, revision=revision))
        entries = [entry for entry in page.entries if self.model.alive(entry.lease)]
        while page.next is not None:
            page = self.run(self.clients[who].list(prefix, limit=limit, after=page.next, revision=revision))
            assert page.revision == revision
            entries += [entry for entry in page.entries if self.model.alive(entry.lease)]
        assert entries == [entry for key, entry in sorted(moment.items()) if key.startswith(prefix)]

    @rule(who=CLIENTS, prefix=PREFIXES, back=st.integers(0, 12))
    def watch(self, who: int, prefix: str, back: int) -> None:
        begin = max(0, self.model.revision - back) + 1
        expected = [c for c in self.model.log if c.revision >= begin and c.key.startswith(prefix)]
        assert self.run(self.watched(self.clients[who], prefix, begin, len(expected))) == expected

    @rule(who=CLIENTS)
    def resume(self, who: int) -> None:
        expected = [c for c in self.model.log if c.revision > self.position]
        assert self.run(self.watched(self.clients[who], "", self.position + 1, len(expected))) == expected
        self.position = self.model.revision

    async def watched(self, client: Store, prefix: str, begin: int, number: int) -> list[Change]:
        changes: list[Change] = []
        async with client.watch(prefix, from_revision=begin) as batches:
            while len(changes) < number:
                changes += (await anext(batches)).changes
        return changes

    @invariant()
    def the_revision_is_the_models(self) -> None:
        if self.clients:
            assert self.run(self.clients[0].info()).revision == self.model.revision


class MemoryMachine(StoreMachine):
    def open(self) -> Store:
        return MemoryStore(self.name, now=lambda: self.time)


class SqliteMachine(StoreMachine):
    def open(self) -> Store:
        return SqliteStore(str(self.directory / "registry.db"), now=lambda: self.time)


BOUNDS = settings(max_examples=60, stateful_step_count=40)
TestMemoryAgainstTheModel = MemoryMachine.TestCase
TestMemoryAgainstTheModel.settings = BOUNDS
TestSqliteAgainstTheModel = SqliteMachine.TestCase
TestSqliteAgainstTheModel.settings = BOUNDS
