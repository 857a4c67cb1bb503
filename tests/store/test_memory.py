"""What is the memory engine's alone: clients of one space in several threads."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import pytest

from roster.store.memory import MemoryStore
from roster.testing.clock import Clock


@pytest.fixture
def threads_take_turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_take_turns")
async def test_of_two_renewals_at_once_the_later_counts() -> None:
    """A team of `roster.testing` moves the clock and renews, beside its nodes that renew on a thread of their own."""
    clock = Clock()
    moved = False
    async with MemoryStore("renewed-twice", now=clock.now) as store:
        lease = await store.grant(1.0)

        async def renew() -> None:
            while not moved:
                await lease.keep_alive()

        beside = asyncio.create_task(asyncio.to_thread(asyncio.run, renew()))
        await asyncio.sleep(0)
        try:
            for _ in range(5_000):
                clock.advance(lease.ttl / 3)
                await lease.keep_alive()
        finally:
            moved = True
            await beside
        assert not lease.lost
