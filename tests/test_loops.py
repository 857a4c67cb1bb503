"""A loop on a thread of its own: it runs, it waits for nobody for ever, it ends."""

from __future__ import annotations

import asyncio
import threading

import pytest

from roster._loops import LoopThread
from roster.errors import RosterError


async def thread_name() -> str:
    return threading.current_thread().name


def test_what_is_run_there_runs_on_its_thread() -> None:
    thread = LoopThread("io").start()
    assert thread.run(thread_name()) == "io"
    thread.stop()
    assert not thread.alive


def test_a_wait_that_is_too_long_is_cancelled() -> None:
    thread = LoopThread("io").start()
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        thread.run(forever(), timeout=0.01)
    assert cancelled.wait(5)
    thread.stop()


def test_a_thread_that_would_wait_for_itself_is_told() -> None:
    thread = LoopThread("io").start()

    async def nested() -> str:
        return thread.run(thread_name())

    with pytest.raises(RosterError, match="cannot wait for itself"):
        thread.run(nested())
    thread.stop()


async def test_another_loop_stops_it_without_being_blocked() -> None:
    thread = LoopThread("io").start()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def slow_to_end() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0.05)

    work = thread.submit(slow_to_end())
    ticking = asyncio.create_task(tick())
    assert await thread.submit(thread_name()) == "io"
    before = ticks
    await thread.stop_from()
    assert ticks > before + 10
    assert thread.loop.is_closed()
    ticking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await thread.stop_from()  # a second time: nothing happens
    thread.stop()


async def test_a_loop_that_hangs_does_not_hold_up_whoever_stops_it() -> None:
    thread = LoopThread("io").start()
    release = threading.Event()
    thread.loop.call_soon_threadsafe(release.wait, 20)
    await thread.stop_from(timeout=0.05)
    assert thread.alive
    release.set()
    thread.stop()
    assert not thread.alive
