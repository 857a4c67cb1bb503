"""Puts passports back into a registry: as nodes that are offline, and never over one that lives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from roster.errors import ConflictError, DocumentError, Fault, RegistryError
from roster.passport import NodePassport
from roster.passport.limits import MAX_STORED_BYTES
from roster.registry.keys import node_key, status_key
from roster.store.base import Check, Entry, Lease, Put, Store

AT_ONCE = 16
_MAX_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of one passport.

    Attributes:
        node: `namespace/name`.
        outcome: `imported`; `unchanged`: it is there already; `alive`: left alone, somebody lives under this name.
        reason: why it was left alone, empty if it was not.
    """

    node: str
    outcome: Literal["imported", "unchanged", "alive"]
    reason: str = ""


def as_offline(passport: NodePassport, source: str) -> bytes:
    """Return a passport as it is stored while its node is offline; everything but `status` stays as it is.

    Raises:
        DocumentError: it is over the limit of a stored passport.
    """
    raw = passport.with_status(state="offline", active_tasks=0, conditions=None).to_json()
    if len(raw) > MAX_STORED_BYTES:
        text = f"{passport.key} takes {len(raw)} bytes as stored; the limit is {MAX_STORED_BYTES}: make it smaller"
        raise DocumentError(source, [Fault("", text)])
    return raw


async def restore(
    store: Store,
    passports: Sequence[NodePassport],
    *,
    retention: float,
    dry_run: bool = False,
    source: str = "<import>",
) -> list[Restored]:
    """Write passports whose nodes are not alive.

    Those with a `metadata.uid` (a registry of ours wrote them) stay for `retention` seconds unless their nodes register;
    others, which nobody has registered, have no lease and stay until somebody registers under the name, or removes them.

    Args:
        store: where to.
        passports: each name once.
        retention: seconds.
        dry_run: write nothing; say what would become of each.
        source: what to call them in an error.

    Raises:
        DocumentError: one is over the limit of a stored passport; nothing was written.
        StoreError: the store cannot be reached, or refuses; what was written so far stays.

    Example:
        outcomes = await restore(store, [NodePassport.load("writer-001.yaml")], retention=3600)
    """
    prepared = [(passport, as_offline(passport, source)) for passport in passports]
    restoring = _Restoring(store, retention, dry_run=dry_run)
    found: list[Restored] = []
    for at in range(0, len(prepared), AT_ONCE):
        found += await asyncio.gather(*(restoring.one(*pair) for pair in prepared[at : at + AT_ONCE]))
    return found


class _Restoring:
    """One run: the lease that it binds passports to is made for the first that needs it."""

    def __init__(self, store: Store, retention: float, *, dry_run: bool) -> None:
        self._store = store
        self._retention = retention
        self._dry_run = dry_run
        self._lease: Lease | None = None
        self._granting = asyncio.Lock()

    async def one(self, passport: NodePassport, raw: bytes) -> Restored:
        key, status = (
            node_key(passport.namespace, passport.name),
            status_key(passport.namespace, passport.name),
        )
        for _ in range(_MAX_ROUNDS):
            there = await self._store.get(key)
            if await self._store.get(status) is not None:
                return Restored(passport.key, "alive", "it is alive")
            known = _passport(there)
            if known is not None and _content(known) == _content(passport):
                return Restored(passport.key, "unchanged")
            if there is not None and known is not None and not known.uid and known.state != "offline":
                return Restored(passport.key, "alive", "a founding-style agent may be alive under this name")
            if self._dry_run:
                return Restored(passport.key, "imported")
            lease = await self._long_lease() if passport.uid else None
            try:
                await self._store.transact(
                    [Check(key, there.mod_revision if there is not None else 0), Check(status, 0)],
                    [Put(key, raw, lease)],
                )
            except ConflictError:
                continue  # somebody wrote in between: look again
            return Restored(passport.key, "imported")
        raise RegistryError(
            f"the keys of {passport.key} are being written all the time: find out who writes them"
        )

    async def _long_lease(self) -> str:
        async with self._granting:
            if self._lease is None:
                self._lease = await self._store.grant(self._retention, lingering=True)
            return self._lease.id


def _passport(entry: Entry | None) -> NodePassport | None:
    if entry is None:
        return None
    try:
        return NodePassport.from_stored(entry.value)
    except DocumentError:
        return None  # nobody can use it, so nobody lives under it: it may be replaced


def _content(passport: NodePassport) -> dict[str, object]:
    return {field: value for field, value in passport.to_dict().items() if field != "status"}
