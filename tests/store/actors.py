"""Processes that the store's tests start, stop and kill: `python actors.py ROLE URL ...`, one line of output an event."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from roster._clock import boottime
from roster.errors import LeaseLostError, StoreError, StoreUnavailableError
from roster.store import Lease, Store, open_store

# Imported before the crowd is forked: an engine is imported at its first use, and two hundred imports take their time.
from roster.store.sqlite import SqliteStore as SqliteStore

T = TypeVar("T")


def say(*words: object) -> None:
    """Write one line at once, whole: the process may be killed at any moment."""
    os.write(1, (" ".join(str(word) for word in words) + "\n").encode())


async def keep(lease: Lease) -> None:
    """Keep a lease alive until it is lost."""
    while True:
        await asyncio.sleep(lease.ttl / 3)
        try:
            await lease.keep_alive()
        except LeaseLostError:
            say("lost", lease.id)
            return


async def write(store: Store, prefix: str) -> None:
    """Write one key after the other; say each that was acknowledged."""
    number = 0
    while True:
        revision = await store.put(f"{prefix}{number}", b"%d" % number)
        say("wrote", number, revision)
        number += 1


async def persist(action: Callable[[], Awaitable[T]], tries: int = 3) -> T:
    """Try again while others hold the file: on a machine whose disk is slow just now, two hundred take their time."""
    for _ in range(tries - 1):
        try:
            return await action()
        except StoreUnavailableError:
            pass
    return await action()


async def hold(store: Store, key: str, ttl: str, lingering: str = "") -> None:
    """Register a key under a lease and keep it alive."""
    lease = await persist(lambda: store.grant(float(ttl), lingering=bool(lingering)))
    await persist(lambda: store.put(key, b"held", lease=lease.id, if_revision=0))
    say("holds", lease.id)
    await keep(lease)


async def watch(store: Store, prefix: str, revision: str) -> None:
    """Say each change, and when it came."""
    async with store.watch(prefix, from_revision=int(revision)) as batches:
        say("watching", os.getpid())
        async for batch in batches:
            for change in batch.changes:
                say(change.type, change.key, change.revision, f"{boottime():.4f}")


async def read(store: Store, prefix: str) -> None:
    """Say how many keys there are for each line of input."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            page = await store.list(prefix)
        except StoreError as error:
            say("error", error)
        else:
            say("sees", len(page.entries), line.strip())


ROLES: dict[str, Callable[..., Awaitable[None]]] = {
    "write": write,
    "hold": hold,
    "watch": watch,
    "read": read,
}


async def act(role: str, url: str, *args: str) -> None:
    """Play a role until it ends or the process is killed."""
    async with open_store(url) as store:
        await ROLES[role](store, *args)


def crowd(number: int, role: str, url: str, args: list[str]) -> None:
    """Fork that many processes, `{}` in their arguments being their number; stay until the input ends."""
    children = []
    for index in range(number):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            try:
                asyncio.run(act(role, url, *(arg.replace("{}", str(index)) for arg in args)))
            except StoreError as error:
                say("error", index, error)
            finally:
                os._exit(0)
        children.append(child)
    say("crowd", *children)
    sys.stdin.read()
    for child in children:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    if sys.argv[1] == "crowd":
        crowd(int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:])
    else:
        asyncio.run(act(sys.argv[1], sys.argv[2], *sys.argv[3:]))
