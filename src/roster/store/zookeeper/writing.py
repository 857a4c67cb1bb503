"""Transactions on ZooKeeper: look, plan, write, and all of it again if somebody was faster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence

from roster.errors import LeaseLostError, LimitError, StoreUnavailableError
from roster.store.base import Check, Op, Put
from roster.store.zookeeper.lease import LastingLease, SessionLease
from roster.store.zookeeper.link import Link
from roster.store.zookeeper.names import BIRTHS, ancestors, directory_of, to_path, under
from roster.store.zookeeper.packets import Barren, Reply, exists, sync, transaction
from roster.store.zookeeper.planning import Plan, Seen, plan, session_of
from roster.store.zookeeper.session import SessionEndedError

# ZooKeeper takes no larger request (jute.maxbuffer, 0xfffff bytes, unless it is configured): it cuts the connection. Names,
# ACLs and versions take their part.
_LARGEST = 0xFFFFF
_STEP = 128
# Seconds before the next try after several that were overtaken, at most.
_PAUSE = 0.05

Leases = Mapping[str, SessionLease | LastingLease]


async def write(
    link: Link, leases: Leases, checks: Sequence[Check], ops: Sequence[Op], within: float
) -> tuple[int, frozenset[str]]:
    """Do `ops` if `checks` hold.

    Args:
        link: the servers.
        leases: those that we can act as, by id.
        checks: conditions.
        ops: writes.
        within: seconds for all tries.

    Returns:
        The revision, and which keys were there before.

    Raises:
        ConflictError, LeaseLostError, LimitError, StoreDeniedError, StoreUnavailableError: see `Store.transact`.
    """
    bindings = _bindings(leases, ops)
    own = {lease.owner for lease in leases.values() if not lease.ended}
    until = asyncio.get_running_loop().time() + within
    for turn in range(1_000_000):
        seen, now = await _look(link, checks, ops)
        wanted = plan(checks, ops, seen, bindings, own)
        there = frozenset(op.key for op in ops if seen.key(to_path(op.key)) is not None)
        if not wanted.steps:
            return now, there
        reply = await _submit(link, leases, wanted)
        error = reply.failure()
        if error is None:
            for op in ops:
                if isinstance(op, Put) and op.lease is not None and op.lease in leases:
                    leases[op.lease].wrote(op.key, reply.zxid)
            return reply.zxid, there
        if isinstance(error, Barren):
            raise LimitError("ZooKeeper has no keys below a key that is bound to a lease: choose other keys")
        if asyncio.get_running_loop().time() > until:
            break
        if turn > 2:
            await asyncio.sleep(random.uniform(0, _PAUSE))  # noqa: S311 - jitter
    raise StoreUnavailableError(
        f"others write the same keys all the time: nothing was written within {within:g} s"
    )


def _bindings(leases: Leases, ops: Sequence[Op]) -> dict[str, int]:
    """Return the session of each lease that the writes name."""
    found: dict[str, int] = {}
    for op in ops:
        if not isinstance(op, Put) or op.lease is None:
            continue
        lease = leases.get(op.lease)
        if lease is not None and lease.ended:
            raise lease.gone()
        session = lease.owner if lease is not None else session_of(op.lease)
        if session is None:
            raise LeaseLostError(f"there is no lease {op.lease!r}: grant one")
        found[op.lease] = session
    return found


async def _look(link: Link, checks: Sequence[Check], ops: Sequence[Op]) -> tuple[Seen, int]:
    """Return what the znodes look like, and the revision of that moment."""
    paths = list(dict.fromkeys(to_path(each.key) for each in (*checks, *ops)))
    directories = list(dict.fromkeys(map(directory_of, paths)))
    # The counters first: whoever is born behind that look is overtaking, whoever before it is in the next one.
    counters = [under(directory, BIRTHS) for directory in directories]
    replies = await link.ask([sync(), *map(exists, counters), *map(exists, paths)])
    stats = [reply.stat() for reply in replies[1:]]
    seen = Seen(
        births=dict(zip(directories, stats, strict=False)),
        znodes=dict(zip(paths, stats[len(directories) :], strict=True)),
    )
    unknown = [directory for directory, stat in seen.births.items() if stat is None]
    above = {directory: ancestors(directory) for directory in unknown}
    asked = list(dict.fromkeys(path for chain in above.values() for path in chain))
    there = dict(zip(asked, await link.ask(list(map(exists, asked))), strict=True))
    for directory, chain in above.items():
        seen.missing[directory] = [path for path in chain if there[path].stat() is None]
    return seen, replies[-1].zxid


async def _submit(link: Link, leases: Leases, wanted: Plan) -> Reply:
    size = sum(_STEP + 2 * len(step.path.encode()) + len(getattr(step, "data", b"")) for step in wanted.steps)
    if size > _LARGEST:
        raise LimitError(
            f"a transaction of about {size} bytes; ZooKeeper takes {_LARGEST} (its jute.maxbuffer): write less at once"
        )
    request = transaction(wanted.steps, protected=link.settings.credential is not None)
    if wanted.session is None:
        (reply,) = await link.session().ask([request])
        return reply
    lease = next(
        each for each in leases.values() if isinstance(each, SessionLease) and each.owner == wanted.session
    )
    try:
        (reply,) = await lease.session.ask([request])
    except SessionEndedError:
        raise lease.gone() from None
    return reply
