"""Examines the store: whether it answers, how fast, and what it says of itself; returns the nodes that it lists."""

from __future__ import annotations

import asyncio
import ipaddress
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from roster.cli.doctor.finding import Finding, fail, few, ok, warn
from roster.errors import ConfigError, StoreDeniedError, StoreError, StoreUnavailableError
from roster.registry.catalog import Catalog, Staging
from roster.registry.keys import ROOT
from roster.store import Entry, LeaseTerms, Store, StoreInfo, StoreUrl, Term, open_store, store_url
from roster.store.sqlite.inspect import FileFacts, look

AREA = "store"
OPEN_DEADLINE = 5.0
ASK_DEADLINE = 5.0
LIST_DEADLINE = 20.0
SLOW = 0.1
PAGE = 500
MOST_LEASES = 500
SCARCE = 64 * 1024 * 1024
# What an engine says of itself that belongs into the first line.
_FACTS = ("keys", "leases", "version", "leader", "datacenter", "servers", "server", "session")
_SERVERS = ("etcd", "consul", "zookeeper")
FULL = 1024 * 1024  # below it SQLite's log of one larger transaction may not fit


@dataclass(frozen=True, slots=True)
class Listing:
    """What the store lists, read once; no watch was opened for it.

    Attributes:
        catalog: the nodes.
        entries: the documents as stored, by key.
        terms: how the leases of founding-style nodes stand, by id, where the engine can say so.
    """

    catalog: Catalog
    entries: dict[str, Entry]
    terms: Mapping[str, Term]


async def examine(url: str | None) -> tuple[list[Finding], Listing | None]:
    """Return findings, and what is listed if the store could be read."""
    try:
        where = store_url(url)
    except ConfigError as error:
        return [fail(AREA, str(error), "correct the URL")], None
    found: list[Finding] = []
    if where.scheme == "sqlite":
        found, usable = file_findings(where.path)
        if not usable:
            return found, None
    if where.scheme == "memory":
        found.append(
            warn(
                AREA,
                f"the registry {where.display} is seen by this process alone",
                "set ROSTER_REGISTRY to the one that your agents use",
            )
        )
    try:
        store = open_store(url)
    except ConfigError as error:
        return [*found, fail(AREA, str(error), "use an engine that this version has")], None
    try:
        async with asyncio.timeout(OPEN_DEADLINE):
            await store.__aenter__()
        info, took = await _ask(store)
        found += say(store.url, info, took) + distance(where)
        listing = await _list(store)
    except StoreError as error:
        return [*found, _failed(error, where)], None
    except TimeoutError:
        return [
            *found,
            fail(
                AREA,
                f"the store {store.url} does not answer within {ASK_DEADLINE:g} s",
                "see whether it runs, or whether a process that holds its lock is stopped",
            ),
        ], None
    finally:
        await _close(store)
    return found, listing


def _failed(error: StoreError, where: StoreUrl) -> Finding:
    """Return why the store cannot be read; an engine of this machine says itself what to do."""
    if not where.hosts:
        what, _, remedy = str(error).partition(": ")
        return fail(AREA, what, remedy or "see the store's own log")
    if isinstance(error, StoreDeniedError):
        remedy = "correct user, password or token, certificate or ?prefix=, or have the rights granted"
    elif isinstance(error, StoreUnavailableError):
        remedy = (
            "see whether it runs and can be reached from here, and whether scheme, host and port are right"
        )
    else:
        remedy = "see the server's own log"
    return fail(AREA, str(error), remedy)


async def _close(store: Store) -> None:
    try:
        async with asyncio.timeout(ASK_DEADLINE):
            await store.close()
    except (StoreError, TimeoutError):
        pass  # what is wrong with it has been found before


async def _ask(store: Store) -> tuple[StoreInfo, float]:
    """Ask it three times, writing nothing; return the last answer and the median of the times."""
    times = []
    for _ in range(3):
        began = perf_counter()
        async with asyncio.timeout(ASK_DEADLINE):
            info = await store.info()
        times.append(perf_counter() - began)
    return info, median(times)


async def _list(store: Store) -> Listing:
    catalog, staging = Catalog(thaw_grace=False), Staging()
    entries: dict[str, Entry] = {}
    async with asyncio.timeout(LIST_DEADLINE):
        page = await store.list(ROOT, limit=PAGE)
        while True:
            catalog.stage(page.entries, staging)
            entries.update((entry.key, entry) for entry in page.entries)
            if page.next is None:
                break
            page = await store.list(ROOT, limit=PAGE, after=page.next, revision=page.revision)
    for _ in catalog.swap(staging, page.revision):
        pass
    return Listing(catalog, entries, await _terms(store, catalog))


async def _terms(store: Store, catalog: Catalog) -> Mapping[str, Term]:
    """Return how the leases of founding-style nodes stand: whether ours are renewed their own status tells."""
    leases = [record.lease for record in catalog.index.by_key.values() if record.founding and record.lease]
    if not leases or not isinstance(store, LeaseTerms):
        return {}
    async with asyncio.timeout(ASK_DEADLINE):
        return await store.lease_terms(leases[:MOST_LEASES])


def say(url: str, info: StoreInfo, took: float) -> list[Finding]:
    """Put what the store says of itself into findings."""
    facts = f"{url} answers in {took * 1000:.1f} ms (revision {info.revision}, compacted to {info.compacted}"
    if info.engine in _SERVERS:  # how far one of these is compacted it does not say
        facts = f"{url} answers in {took * 1000:.1f} ms ({info.engine}, revision {info.revision}"
    extra = "".join(f", {name} {text}" for name, text in info.details if name in _FACTS)
    found = [
        ok(AREA, f"{facts}{extra})")
        if took < SLOW
        else warn(AREA, f"{facts}{extra}): slow", "see what else uses its disk or its machine")
    ]
    for name, text in info.details:
        if name == "readonly":
            found.append(
                fail(
                    AREA,
                    f"the registry can be read but not written: {text}; no node can register",
                    "give this user the rights to the file and its directory, or name another in ROSTER_REGISTRY",
                )
            )
        elif name == "wakeups":
            found.append(
                warn(AREA, f"changes are seen late: {text}", "make the directory beside the file writable")
            )
        elif name.startswith("lease "):
            found.append(
                warn(
                    AREA,
                    f"{name} {text}",
                    "restart its holder; if many are named, this process's own clock is wrong",
                )
            )
    return found


def distance(where: StoreUrl) -> list[Finding]:
    """Say what follows from where a Consul agent runs."""
    far = [host for host, _ in where.hosts if not _here(host)]
    if where.engine != "consul" or not far:
        return []
    return [
        warn(
            AREA,
            f"the Consul agent {few(far)} may be on another machine: what registers through it goes when that agent goes",
            "run a Consul agent on each machine, and name it: consul://localhost",
        )
    ]


def _here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def file_findings(path: str) -> tuple[list[Finding], bool]:
    """Examine a registry file before it is opened; say as well whether it may be.

    A client makes the file that is not there, and repairs what was taken from beside it: this command writes nothing.
    """
    try:
        facts = look(path)
    except OSError as error:
        what = f"the registry file {path} cannot be looked at: {error.strerror}"
        return [fail(AREA, what, "give this user the rights, or name another in ROSTER_REGISTRY")], False
    broken = _broken(facts)
    if broken is not None:
        return [broken], False
    found = []
    if facts.mode & (stat.S_IWGRP | stat.S_IWOTH):
        found.append(warn(AREA, f"{facts.path} can be written by other users", f"chmod go-w '{facts.path}'"))
    if facts.free is not None and facts.free < SCARCE:
        left = f"{facts.free // 1024} KiB are free where {facts.path} lies"
        if facts.free < FULL:
            found.append(
                fail(
                    AREA,
                    f"the disk is full: {left}; leases go on, nothing else can be written",
                    "free some space",
                )
            )
        else:
            found.append(warn(AREA, f"the disk is nearly full: {left}", "free some space"))
    return found, True


def _broken(facts: FileFacts) -> Finding | None:
    """Return what forbids to open a registry file."""
    name = f"the registry file {facts.path}"
    again = "agents that run register again by themselves; start those that do not"
    if facts.size is None and (facts.used or facts.leases):
        return fail(AREA, f"{name} was deleted", again)
    if facts.size is None:
        return warn(
            AREA,
            f"{name} is not there: nothing was ever registered",
            "start an agent, or name the registry that your agents use in ROSTER_REGISTRY",
        )
    if facts.size == 0:
        return fail(AREA, f"{name} is empty", f"delete it; {again}")
    if not facts.used:
        return warn(
            AREA,
            f"{name} was never used in this place (a copy?), so it is not opened",
            "start an agent on it, or name another registry in ROSTER_REGISTRY",
        )
    if not facts.same:
        return fail(AREA, f"{name} was replaced by another", again)
    if not facts.leases:
        return fail(AREA, f"{name} has lost its file of leases ({facts.path.name}-leases)", again)
    return None
