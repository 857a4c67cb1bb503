"""Examines what is registered: documents that cannot be read, contracts, founding-style nodes, clocks, conditions."""

from __future__ import annotations

from collections import Counter

from roster._clock import seconds_since
from roster._durations import show_duration
from roster.cli.doctor.finding import Finding, fail, few, ok, warn
from roster.cli.doctor.store import Listing
from roster.errors import ConfigError
from roster.registry import NodeRecord
from roster.registry.keys import node_key
from roster.registry.settings import DEFAULT_RETENTION, seconds

AREA = "nodes"
MOST = 50  # findings of one kind
FOUNDING_AGE = 60.0  # seconds after which readers of the founding document call a node dead
AHEAD = 5.0  # seconds that a node's wall clock may be ahead of ours
_UNRENEWED = 3.0  # seconds that a heartbeat may come later than the renewal of its lease


def examine(listing: Listing) -> list[Finding]:
    """Return what is wrong with what is registered, after a line of what there is."""
    records = sorted(listing.catalog.index.by_key.values(), key=lambda record: record.key)
    states = Counter(record.state for record in records)
    said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    found = [ok(AREA, f"{len(records)} registered" + (f": {said}" if said else ""))]
    for kind in (
        quarantined(listing),
        mismatches(listing),
        founding(records, listing),
        left_over(records),
        ahead(records),
        conditions(records),
    ):
        found += kind[:MOST]
        if len(kind) > MOST:
            found.append(warn(AREA, f"{len(kind) - MOST} more like the last one", "see to these first"))
    return found


def quarantined(listing: Listing) -> list[Finding]:
    """Name the documents that cannot be read."""
    return [
        fail(
            AREA,
            f"the document {key} is quarantined: {reason}",
            "correct it and write it again, or remove it with 'roster delete node NAME -n NS'",
        )
        for key, reason in sorted(listing.catalog.quarantined.items())
    ]


def mismatches(listing: Listing) -> list[Finding]:
    """Name the contracts that contradict each other."""
    return [
        warn(
            AREA,
            f"contract mismatch: {mismatch.title}: {mismatch.said()}",
            "give the changed contract a version of its own",
        )
        for mismatch in listing.catalog.index.contracts.mismatches()
    ]


def founding(records: list[NodeRecord], listing: Listing) -> list[Finding]:
    """Name the founding-style nodes that do not keep themselves alive."""
    those = [record for record in records if record.founding]
    found = []
    for record in those:
        heartbeat = seconds_since(record.last_written)
        if record.lease is None:
            if heartbeat is None or heartbeat > FOUNDING_AGE:
                seen = "never" if heartbeat is None else f"{show_duration(heartbeat)} ago"
                found.append(
                    warn(
                        AREA,
                        f"{record.key} was put without a lease and its last heartbeat was {seen}: nothing removes it",
                        "start it again, or 'roster prune --older-than 1m'",
                    )
                )
            continue
        term = listing.terms.get(record.lease)
        entry = listing.entries[node_key(record.namespace, record.name)]
        put_again = entry.mod_revision > entry.create_revision
        if term is not None and heartbeat is not None and put_again and term.renewed > heartbeat + _UNRENEWED:
            found.append(
                warn(
                    AREA,
                    f"{record.key} was put with a lease but never renews it: heartbeats come, the last renewal was "
                    f"{term.renewed:.0f} s ago, in {max(0.0, term.left):.0f} s it is gone",
                    "call lease.refresh() in its heartbeat loop",
                )
            )
        elif heartbeat is not None and heartbeat > FOUNDING_AGE:
            found.append(
                warn(
                    AREA,
                    f"{record.key} renews its lease, but its last heartbeat was {show_duration(heartbeat)} ago: readers "
                    "of the founding document call it dead",
                    "have it put its document again in its heartbeat loop",
                )
            )
    return found


def left_over(records: list[NodeRecord]) -> list[Finding]:
    """Name the nodes that are listed beyond their retention, for no lease ends that: ZooKeeper has no long ones."""
    try:
        retention = seconds(None, "ROSTER_RETENTION", DEFAULT_RETENTION)
    except ConfigError:
        return []  # the environment's own examination says so
    those = [
        record.key
        for record in records
        if record.state == "offline"
        and record.lease is None
        and not record.founding
        and (age := seconds_since(record.last_written)) is not None
        and age > retention + FOUNDING_AGE
    ]
    if not those:
        return []
    return [
        warn(
            AREA,
            f"offline for longer than the retention of {show_duration(retention)}, and no lease ends that: {few(those)}",
            f"roster prune --older-than {show_duration(retention)}",
        )
    ]


def ahead(records: list[NodeRecord]) -> list[Finding]:
    """Name the nodes that wrote in what is the future here."""
    those = [
        (record, -age)
        for record in records
        if (age := seconds_since(record.last_written)) is not None and age < -AHEAD
    ]
    if not those:
        return []
    named = few([f"{record.key} by {lead:.0f} s" for record, lead in those])
    return [
        warn(
            AREA,
            f"wall clocks differ: what was written last lies in the future of this machine's clock: {named}",
            "synchronise the clocks (NTP): no lease depends on them, the founding document's check of 60 s does",
        )
    ]


def conditions(records: list[NodeRecord]) -> list[Finding]:
    """Name what nodes say is wrong with them."""
    found = []
    for record in records:
        if record.state == "offline" or record.status is None:
            continue
        for condition in record.status.conditions:
            if condition.status == "False":
                why = ": ".join(text for text in (condition.reason, condition.message) if text)
                found.append(
                    warn(
                        AREA,
                        f"{record.key} says {condition.type}=False ({why})",
                        f"see 'roster describe node {record.name} -n {record.namespace}' and its log",
                    )
                )
    return found
