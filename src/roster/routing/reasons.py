"""Why each node was chosen or passed over, in words: the same in errors and in `explain`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import ceil, inf

from roster.errors import AllNodesBusyError, NoCapableNodesError, PassedOver
from roster.routing.account import Account
from roster.routing.pool import Pool
from roster.routing.tier import Tier

TABLE_LIMIT = 1000
"""Rows of the table in an error: more than a person looks through. `Router.explain` has no limit."""


WITHDRAWN = "capability withdrawn at present"


def table(
    pool: Pool,
    accounts: Iterable[Account],
    withdrawn: Iterable[Account],
    now: float,
    exclude: Collection[str],
) -> list[PassedOver]:
    """Return one row a node: candidates with room first, the least loaded first, then the others by name.

    Args:
        accounts: the nodes that offer the capability.
        withdrawn: those that declare it and do not offer it now.
    """
    asked = pool.asked(exclude)
    rows: list[tuple[tuple[bool, float, str], PassedOver]] = []
    for account in accounts:
        node = account.node
        reason, chosen = _reason(pool, asked, account, now, exclude)
        load = account.count.load().fraction
        row = PassedOver(node.key, reason, node.state, load, chosen)
        rows.append(((not chosen, load if chosen else 0.0, node.key), row))
    for account in withdrawn:
        node = account.node
        row = PassedOver(node.key, WITHDRAWN, node.state, account.count.load().fraction)
        rows.append(((True, 0.0, node.key), row))
    rows.sort(key=lambda row: row[0])
    return [row for _, row in rows]


def refusal(
    pool: Pool, rows: list[PassedOver], exclude: Collection[str]
) -> NoCapableNodesError | AllNodesBusyError:
    """Return the error that says why nobody was chosen."""
    name = pool.capability
    shown = f" (the first {TABLE_LIMIT} of {len(rows)} are listed)" if len(rows) > TABLE_LIMIT else ""
    tier = pool.asked(exclude)
    if tier is not None:
        return AllNodesBusyError(
            f"every node that can do {name!r} is full: wait, or start another{shown}",
            capability=name,
            retry_after=_retry_after(tier),
            passed_over=rows[:TABLE_LIMIT],
        )
    if not rows:
        return NoCapableNodesError(
            f"no registered node has the capability {name!r}: start one whose passport declares it",
            capability=name,
        )
    return NoCapableNodesError(
        f"no node can take {name!r} now: each that has the capability was passed over{shown}",
        capability=name,
        passed_over=rows[:TABLE_LIMIT],
    )


def _reason(
    pool: Pool, asked: Tier[Account] | None, account: Account, now: float, exclude: Collection[str]
) -> tuple[str, bool]:
    """Return the one reason of a node, the first that holds, and whether it is a candidate with room."""
    node, record = account.node, account.record
    mismatch = pool.mismatch(node)
    if mismatch is not None:
        return mismatch, False
    seat = pool.seat(account)
    if seat is None or seat.tier is None:
        return f"state {node.state}", False
    if node.key in exclude:
        return "already tried", False
    if not seat.tier.counts(seat):
        seconds = max(1, ceil((record.until or now) - now))
        noun = "failure" if record.failures == 1 else "failures"
        return f"ejected for {seconds} s after {record.failures} {noun}", False
    doubt = ""
    if seat.tier is pool.last:
        doubt = "state unknown" if account.suspicion is None else f"suspect: {account.suspicion}"
        if seat.tier is not asked:
            return doubt, False
    count = account.count.load()
    tasks = f"{count.active} of {count.capacity} tasks"
    if not seat.spare:
        if count.active < count.capacity:
            return "on trial after an ejection: one task at a time", False
        return f"full: {tasks}", False
    if doubt:
        return f"candidate of last resort ({doubt}): {tasks}", True
    if seat.out:
        return f"candidate though ejected, or too few would be left: {tasks}", True
    return f"candidate: {tasks}", True


def _retry_after(tier: Tier[Account]) -> float:
    """Return the seconds until the next of the candidates' tasks should end, as they usually take."""
    soonest = inf
    for seat in tier.candidates():
        account = seat.what
        active = account.count.others + account.count.mine
        if account.usual is not None and active:
            soonest = min(soonest, account.usual / active)
    return min(30.0, max(0.05, soonest)) if soonest < inf else 1.0
