"""What people do to nodes from outside: cordon, delete, prune."""

from __future__ import annotations

from collections.abc import Iterable

from roster._clock import seconds_since
from roster.errors import ConflictError, NodeNotFoundError, RegistryError
from roster.passport import NodePassport
from roster.registry.facts import CORDONED
from roster.registry.keys import node_key, status_key
from roster.registry.record import NodeRecord
from roster.store.base import Check, Delete, Entry, Op, Store

DEFAULT_NAMESPACE = "default"
FOUNDING_DEATH = (
    60.0  # seconds without a heartbeat after which the founding document's readers call a node dead
)
_MAX_ROUNDS = 20


def identity(name: str, namespace: str | None) -> tuple[str, str]:
    """Return namespace and name of `name`, `namespace/name`, or both given apart."""
    if "/" in name and namespace is None:
        space, _, name = name.partition("/")
        return space, name
    return namespace or DEFAULT_NAMESPACE, name


async def set_mark(store: Store, namespace: str, name: str, value: str | None) -> None:
    """Put the cordon mark on a stored passport, or take it away with None; the rest of it stays as it is.

    Raises:
        NodeNotFoundError: no such node.
        DocumentError: its passport cannot be read.
    """
    for _ in range(_MAX_ROUNDS):
        entry = await _need(store, namespace, name)
        passport = NodePassport.from_stored(entry.value)
        annotations = dict(passport.annotations)
        if (CORDONED in annotations) == (value is not None):
            return
        if value is None:
            del annotations[CORDONED]
        else:
            annotations[CORDONED] = value
        marked = passport.with_metadata(annotations=annotations or None).to_json()
        try:
            await store.put(entry.key, marked, lease=entry.lease, if_revision=entry.mod_revision)
            return
        except ConflictError:
            continue  # its node has just written it: read again
    raise _restless(namespace, name)


async def delete_node(store: Store, namespace: str, name: str, *, force: bool) -> None:
    """Remove both keys of a node; of one that lives only by force.

    Raises:
        NodeNotFoundError: no such node.
        RegistryError: it lives.
    """
    for _ in range(_MAX_ROUNDS):
        entry = await _need(store, namespace, name)
        status = await store.get(status_key(namespace, name))
        if status is not None and not force:
            raise RegistryError(
                f"the node {namespace}/{name} is alive: stop it (it then leaves by itself), or delete it by "
                "force: it then drops its work and registers again"
            )
        checks = [Check(entry.key, entry.mod_revision)]
        ops: list[Op] = [Delete(entry.key)]
        if status is not None:
            checks.append(Check(status.key, status.mod_revision))
            ops.append(Delete(status.key))
        try:
            await store.transact(checks, ops)
            return
        except ConflictError:
            continue  # it has just changed: look again
    raise _restless(namespace, name)


async def prune_nodes(
    store: Store, records: Iterable[NodeRecord], older_than: float | None, *, dry_run: bool = False
) -> list[str]:
    """Remove the passports of the dead among these; see `Registry.prune`."""
    gone = []
    for record in records:
        if not _prunable(record, older_than):
            continue
        if dry_run:
            gone.append(record.key)
            continue
        passport = node_key(record.namespace, record.name)
        try:
            await store.transact(
                [
                    Check(passport, record.passport_revision),
                    Check(status_key(record.namespace, record.name), 0),
                ],
                [Delete(passport)],
            )
        except ConflictError:
            continue  # it is back, or gone already
        gone.append(record.key)
    return sorted(gone)


def _prunable(record: NodeRecord, older_than: float | None) -> bool:
    if older_than is None:
        return record.state == "offline"
    leaseless = record.founding and record.lease is None
    silent = seconds_since(record.last_written)
    old = silent is None or silent >= max(older_than, FOUNDING_DEATH if leaseless else 0.0)
    return old and (record.state == "offline" or leaseless)


async def _need(store: Store, namespace: str, name: str) -> Entry:
    entry = await store.get(node_key(namespace, name))
    if entry is None:
        raise NodeNotFoundError(f"no node {namespace}/{name} is registered")
    return entry


def _restless(namespace: str, name: str) -> RegistryError:
    return RegistryError(
        f"the keys of {namespace}/{name} are being written all the time: find out who writes them"
    )
