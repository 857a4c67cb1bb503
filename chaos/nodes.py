"""Nodes that come, go and change their state without end, and a note of every write that the store acknowledged.

Run as `python -m chaos.nodes FILE URL TTL PERMANENT PASSING`. Told `quiet`, it lets the passing nodes leave and
changes nothing more; it ends with its input.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
from collections.abc import Sequence

from chaos.ledger import LedgerWriter
from roster import Registry
from roster.errors import RosterError
from roster.registry.keys import STATUS
from roster.registry.registration import Registration
from roster.store import Check, Delete, Op, Put, Store, open_store
from roster.store.rooted import Rooted
from roster.store.url import DEFAULT_PREFIX

_STATES = ("draining", "ready", "starting", "ready")


class Noting(Rooted):
    """The store itself, where each write is noted before and, if it was acknowledged, after."""

    def __init__(self, store: Store, ledger: LedgerWriter) -> None:
        super().__init__(store, DEFAULT_PREFIX)
        self._ledger = ledger
        self._numbers = itertools.count()

    async def put(
        self, key: str, value: bytes, *, lease: str | None = None, if_revision: int | None = None
    ) -> int:
        number = self._begin([key])
        revision = await super().put(key, value, lease=lease, if_revision=if_revision)
        self._acknowledged(number, revision, [Put(key, value, lease)])
        return revision

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        number = self._begin([op.key for op in ops])
        revision = await super().transact(checks, ops)
        self._acknowledged(number, revision, ops)
        return revision

    def _begin(self, keys: list[str]) -> int:
        number = next(self._numbers)
        self._ledger.write(what="try", number=number, keys=keys)
        return number

    def _acknowledged(self, number: int, revision: int, ops: Sequence[Op]) -> None:
        said = [json.loads(op.value) for op in ops if isinstance(op, Put) and op.key.startswith(STATUS)]
        self._ledger.write(
            what="ack",
            number=number,
            revision=revision,
            puts=[op.key for op in ops if isinstance(op, Put)],
            deletes=[op.key for op in ops if isinstance(op, Delete)],
            reported=[[one["uid"], one["seq"]] for one in said],
        )


class Nodes:
    """Permanent nodes, and others that come and go."""

    def __init__(self, registry: Registry, ttl: float, ledger: LedgerWriter) -> None:
        self._registry = registry
        self._ttl = ttl
        self._ledger = ledger
        self._names = itertools.count()
        self.quiet = asyncio.Event()

    async def _register(self, name: str) -> Registration:
        passport = {
            "apiVersion": "ai-team.dev/v1",
            "kind": "NodePassport",
            "metadata": {"name": name, "namespace": "chaos"},
            "spec": {"type": "agent", "version": "1.0.0", "capabilities": [{"name": "work"}]},
        }
        registration = await self._registry.register(passport, ttl=self._ttl)
        self._ledger.write(what="registered", name=name, uid=registration.uid)
        registration.on_lost = lambda why: self._ledger.write(what="lost", name=name, why=why)
        registration.on_registered = lambda uid: self._ledger.write(what="again", name=name, uid=uid)
        registration.on_displaced = lambda error: self._ledger.write(
            what="displaced", name=name, why=str(error)
        )
        return registration

    async def stay(self, number: int) -> None:
        """One permanent node; some change their state all the time, some now and then."""
        registration = await self._register(f"permanent-{number}")
        pause = 3.0 if number % 3 else 0.3
        for state in itertools.cycle(_STATES):
            if self.quiet.is_set():
                break
            await self._change(registration, state)
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))
        await registration.wait_ended()

    async def pass_through(self) -> None:
        """One node after the other: it registers, changes its state, leaves."""
        while not self.quiet.is_set():
            name = f"passing-{next(self._names)}"
            try:
                registration = await self._register(name)
            except RosterError as error:
                self._ledger.write(what="failed", name=name, why=str(error))
                await asyncio.sleep(0.2)
                continue
            for state in _STATES:
                await asyncio.sleep(0.15)
                await self._change(registration, state)
            try:
                await registration.deregister()
            except RosterError as error:
                self._ledger.write(what="failed", name=name, why=str(error))

    async def _change(self, registration: Registration, state: str) -> None:
        try:
            await registration.set_state(state)
        except RosterError as error:  # it is written as soon as the store is back
            self._ledger.write(what="late", name=registration.key, why=str(error))


async def _main(ledger: LedgerWriter, url: str, ttl: float, permanent: int, passing: int) -> None:
    store = Noting(open_store(url), ledger)
    await store.__aenter__()
    registry = Registry(store)
    nodes = Nodes(registry, ttl, ledger)
    async with asyncio.TaskGroup() as group:
        for number in range(permanent):
            group.create_task(nodes.stay(number))
        passers = [group.create_task(nodes.pass_through()) for _ in range(passing)]
        await asyncio.to_thread(sys.stdin.readline)
        nodes.quiet.set()
        if passers:
            await asyncio.wait(passers)
        ledger.write(what="quiet")


if __name__ == "__main__":
    asyncio.run(
        _main(LedgerWriter(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    )
