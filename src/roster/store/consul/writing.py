"""Writes to Consul's KV store: one transaction each, planned so that keys end up bound to the lease that was asked for."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

from roster._clock import boottime
from roster.errors import LeaseLostError, LimitError, StoreUnavailableError
from roster.store.base import Check, Delete, Entry, Op, Put
from roster.store.consul.kv import Kv, Step, entry_of, name_of, pack, plain_part, transact
from roster.store.consul.wire import Wire, denied, unreadable
from roster.store.limits import conflict

# https://developer.hashicorp.com/consul/api-docs/txn; conditions and the halves of a move count as well.
MAX_STEPS = 64
MAX_BODY = 512 * 1024
_SESSION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_WRITE = "key_prefix write"


class Writer:
    """Writes of one store.

    Args:
        wire: where to send them.
        kv: reads what a plan needs to know.
        where: the URL without secrets, for errors.
        patience: seconds to try again when others change the same keys meanwhile.
    """

    def __init__(self, wire: Wire, kv: Kv, where: str, patience: float) -> None:
        self._wire = wire
        self._kv = kv
        self._where = where
        self._patience = patience

    async def commit(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        """Do all `ops` in one transaction if all `checks` hold; return its index."""
        for op in ops:
            if isinstance(op, Put) and op.lease is not None and not _SESSION.match(op.lease):
                raise await self._lost(checks, op.lease)
        absent = {check.key for check in checks if check.mod_revision == 0}
        # Writing without a lease keeps a key bound to what it was bound to before: that must be known first.
        unsure = [op.key for op in ops if isinstance(op, Put) and op.lease is None and op.key not in absent]
        known = await self._kv.read(unsure)
        for _ in self._tries():
            steps = plan(checks, ops, known)
            if len(pack(steps)) > MAX_BODY:
                if (
                    len(ops) == 1
                    and isinstance(ops[0], Put)
                    and {check.key for check in checks} <= {ops[0].key}
                ):
                    return await self._put_large(checks, ops[0])
                raise LimitError(
                    f"{self._where}: Consul takes transactions of at most {MAX_BODY} bytes (values count four thirds); "
                    "write fewer keys, or smaller ones, at once"
                )
            indexes, errors = await self._send(steps) if steps else ([], {})
            if not errors:
                return await self._revision(checks, ops, indexes)
            await self._judge(checks, steps, errors)
            known = await self._kv.read(op.key for op in ops if isinstance(op, Put))
        raise self._contended()

    async def _revision(self, checks: Sequence[Check], ops: Sequence[Op], indexes: Sequence[int]) -> int:
        if any(isinstance(op, Put) for op in ops):
            if not indexes:
                raise unreadable(self._where)
            return max(indexes)
        # A transaction that only deletes does not tell its index; what it deleted does.
        touched = [op.key for op in ops] or [check.key for check in checks]
        return (
            max([await self._kv.index(key) for key in touched]) if touched else await self._kv.store_index()
        )

    async def delete(self, key: str, wanted: int | None) -> bool:
        """Remove a key; return whether it was there."""
        for _ in self._tries():
            entry = await self._kv.get(key)
            found = entry.mod_revision if entry else 0
            if wanted is not None and found != wanted:
                raise conflict(key, wanted, found)
            if entry is None:
                return False
            # Not delete-cas: that succeeds as well where somebody else has deleted the key meanwhile.
            steps = plan((Check(key, found),), (Delete(key),), {})
            _, errors = await self._send(steps)
            if not errors:
                return True
            await self._judge((), steps, errors)
        raise self._contended()

    def _tries(self) -> Iterator[None]:
        until = boottime() + self._patience
        while boottime() < until:
            yield

    def _contended(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"{self._where}: others changed the same keys all the time for {self._patience:g} s: try again later"
        )

    async def _send(self, steps: Sequence[Step]) -> tuple[list[int], dict[int, str]]:
        results, errors = await transact(self._wire, self._where, steps, _WRITE)
        return [entry_of(one, self._where).mod_revision for one in results], errors

    async def _judge(self, checks: Sequence[Check], steps: Sequence[Step], errors: Mapping[int, str]) -> None:
        """Raise what a refused transaction means; return if another plan may do better."""
        for said in errors.values():
            if "Permission denied" in said:
                raise denied(self._where, said, _WRITE)
        await self._require(checks)
        for number, said in errors.items():
            if "invalid session" in said or "session lookup" in said:
                raise LeaseLostError(f"the lease {steps[number].get('Session')} has ended: grant another")
            if "lock delay" in said:
                raise StoreUnavailableError(
                    f"{self._where}: the key {steps[number]['Key']!r} is barred for some seconds: "
                    "its last session was made with a LockDelay, and not by Roster"
                )

    async def _require(self, checks: Sequence[Check]) -> dict[str, Entry | None]:
        found = await self._kv.read(check.key for check in checks)
        for check in checks:
            entry = found[check.key]
            now = entry.mod_revision if entry else 0
            if now != check.mod_revision:
                raise conflict(check.key, check.mod_revision, now)
        return found

    async def _lost(self, checks: Sequence[Check], lease: str) -> LeaseLostError:
        await self._require(checks)
        return LeaseLostError(f"there is no lease {lease!r}: grant one")

    async def _put_large(self, checks: Sequence[Check], put: Put) -> int:
        """Write a value that fits into no transaction; such a request can hold one condition."""
        for _ in self._tries():
            entry = (await self._require(checks) if checks else await self._kv.read([put.key]))[put.key]
            held = entry.lease if entry else None
            query: dict[str, str | int] = {"flags": _flags()}
            if put.lease is not None and not checks and held in (None, put.lease):
                query["acquire"] = put.lease
            elif put.lease is None and held is not None and not checks:
                query["release"] = held
            elif put.lease is None and held is None:
                query["cas"] = entry.mod_revision if entry else 0
            else:
                raise LimitError(
                    f"{self._where}: a value of {len(put.value)} bytes is too large for Consul to be written on a condition "
                    "together with a lease, or to be moved between leases; the limit there is 384 KiB"
                )
            name = name_of(put.key)
            if plain_part(name) != name:
                raise LimitError(
                    f"{self._where}: Consul takes a value above 384 KiB only at a key of plain ASCII"
                )
            answer = await self._wire.ask(
                "PUT", f"/v1/kv/{quote(name)}", query, body=put.value, expect=(200, 500), what=_WRITE
            )
            if answer.status == 500:
                if "invalid session" in answer.text:
                    raise LeaseLostError(f"the lease {put.lease} has ended: grant another")
                raise StoreUnavailableError(f"{self._where}: Consul answered 500: {answer.text}")
            if answer.body.strip() == b"true":
                return await self._revision_of(put)
        raise self._contended()

    async def _revision_of(self, put: Put) -> int:
        entry = await self._kv.get(put.key)
        if entry is None:
            return await self._kv.index(put.key)
        # Somebody who wrote since made a newer one: ours is surely older than that.
        return entry.mod_revision if entry.value == put.value else entry.mod_revision - 1


def plan(checks: Sequence[Check], ops: Sequence[Op], known: Mapping[str, Entry | None]) -> list[Step]:
    """Return the steps of a transaction.

    Args:
        checks: what must hold; they come first.
        ops: what to do.
        known: entries as read before. An op on a key that changed since fails, and is planned anew.

    Raises:
        LimitError: Consul takes no transaction of so many steps.
    """
    steps: list[Step] = []
    # Such a put creates its key or fails: that is the check.
    creating = {
        op.key for op in ops if isinstance(op, Put) and op.lease is None and known.get(op.key) is None
    }
    for check in checks:
        name = name_of(check.key)
        if check.mod_revision:
            steps.append({"Verb": "check-index", "Key": name, "Index": check.mod_revision})
        elif check.key not in creating:
            steps.append({"Verb": "check-not-exists", "Key": name})
    for op in ops:
        name = name_of(op.key)
        if isinstance(op, Delete):
            steps.append({"Verb": "delete", "Key": name})
            continue
        content: Step = {"Key": name, "Value": base64.b64encode(op.value).decode(), "Flags": _flags()}
        entry = known.get(op.key)
        held = entry.lease if entry else None
        if held is not None and held != op.lease:
            steps.append({"Verb": "unlock", **content, "Session": held})
        if op.lease is not None:
            steps.append({"Verb": "lock", **content, "Session": op.lease})
        elif held is None:
            steps.append({"Verb": "cas", **content, "Index": entry.mod_revision if entry else 0})
    if len(steps) > MAX_STEPS:
        raise LimitError(
            f"Consul takes at most {MAX_STEPS} steps a transaction, conditions and moves between leases included; "
            f"this one has {len(steps)}"
        )
    return steps


def _flags() -> int:
    # What Consul keeps beside each value for its users. It drops a write of what is there already as no change; with
    # other flags each write is one.
    return random.getrandbits(32)
