"""Work that is handed down: stopping it stops everything below, and it never goes round in circles."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.conftest import eventually
from tests.faults.stage import Handler, serving

import roster.sync
from roster import CallError, Orchestrator, RemoteError
from roster.errors import Code

Urls = tuple[str, str]


class Leaf:
    """A handler at the bottom, which notes what becomes of its work."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.stopped: list[str] = []

    async def work(self, who: str) -> str:
        self.begun.append(who)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.stopped.append(who)
            raise
        return "done"


class Middle:
    """A handler that hands its work down, async or on a thread."""

    def __init__(self, orchestrator: Orchestrator, urls: Urls) -> None:
        self._orchestrator = orchestrator
        self._urls = urls
        self.begun = False
        self.heard: list[BaseException] = []

    async def on_the_loop(self) -> Any:
        self.begun = True
        try:
            return await self._orchestrator.call("leaf", {"who": "middle"}, timeout=60)
        except BaseException as error:
            self.heard.append(error)
            raise

    def handing_to(self, capability: str) -> Handler:
        async def handler() -> Any:
            try:
                return await self._orchestrator.call(capability, timeout=60)
            except BaseException as error:
                self.heard.append(error)
                raise

        return handler

    def on_a_thread(self) -> Any:
        with roster.sync.Orchestrator.connect(*self._urls) as orchestrator:
            self.begun = True
            try:
                return orchestrator.call("leaf", {"who": "middle"}, timeout=60)
            except BaseException as error:
                self.heard.append(error)
                raise


@pytest.mark.parametrize("how", ["on_the_loop", "on_a_thread"])
@pytest.mark.parametrize("end", ["cancelled", "deadline"])
@pytest.mark.parametrize("ahead", [0, 1, 3])
async def test_the_end_of_a_call_is_the_end_of_what_was_called_for_it(
    urls: Urls, how: str, end: str, ahead: int
) -> None:
    """Below it runs, or waits in the hands of a node, or with its caller for room: then it never begins."""
    leaf = Leaf()
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(Orchestrator.connect(*urls)) for _ in range(3)]
        lower = await stack.enter_async_context(Orchestrator.connect(*urls))
        await stack.enter_async_context(serving(urls, {"bottom": {"leaf": leaf.work}}, at_once=1))
        middle = Middle(lower, urls)
        top = {"middle": {"middle": getattr(middle, how)}}
        caller = await stack.enter_async_context(serving(urls, top, at_once=1))
        neighbours = [
            asyncio.create_task(one.call("leaf", {"who": "neighbour"}, timeout=60)) for one in others[:ahead]
        ]
        await eventually(lambda: len(leaf.begun) == min(ahead, 1))
        call = asyncio.create_task(caller.call("middle", timeout=3.0 if end == "deadline" else 60))
        await eventually(lambda: middle.begun)
        if ahead == 0:
            await eventually(lambda: leaf.begun == ["middle"])
        if end == "cancelled":
            call.cancel()
        with pytest.raises((asyncio.CancelledError, CallError)):
            await call
        await eventually(lambda: len(middle.heard) == 1)
        for neighbour in neighbours:
            # One after the other makes room: what was called in vain must not come up after them.
            neighbour.cancel()
            await asyncio.wait({neighbour})
        await eventually(lambda: len(leaf.stopped) == len(leaf.begun))
        assert leaf.begun.count("middle") == (1 if ahead == 0 else 0)
    assert isinstance(middle.heard[0], (asyncio.CancelledError, CallError))


@pytest.mark.parametrize("how", ["call_all", "stream"])
async def test_whoever_stops_asking_everybody_or_reading_a_stream_ends_the_work_and_all_below(
    urls: Urls, how: str
) -> None:
    leaf = Leaf()
    async with Orchestrator.connect(*urls) as lower, Orchestrator.connect(*urls) as lowest:
        first, second = Middle(lower, urls), Middle(lowest, urls)
        # Three deep: what `top` calls hands its work down once more.
        nodes: dict[str, dict[str, Handler]] = {
            "bottom": {"leaf": leaf.work},
            "between": {"middle": second.on_the_loop},
            "top": {"top": first.handing_to("middle")},
        }
        async with serving(urls, nodes) as caller:
            if how == "call_all":
                asking = asyncio.create_task(caller.call_all("top", timeout=60))
                await eventually(lambda: leaf.begun == ["middle"])
                asking.cancel()
            else:
                stream = caller.stream("top", timeout=60)
                reading = asyncio.ensure_future(anext(stream))
                await eventually(lambda: leaf.begun == ["middle"])
                reading.cancel()
                await asyncio.wait([reading])
                await stream.aclose()
            await eventually(lambda: leaf.stopped == ["middle"])
            await eventually(lambda: len(first.heard) == len(second.heard) == 1)


async def test_a_loop_of_delegations_is_refused_before_it_is_sent(urls: Urls) -> None:
    begun: Counter[str] = Counter()
    async with Orchestrator.connect(*urls) as lower:

        def passing(name: str, on: str) -> Handler:
            async def handler() -> Any:
                begun[name] += 1
                return await lower.call(on, timeout=20)

            return handler

        nodes = {"a": {"first": passing("a", "second")}, "b": {"second": passing("b", "first")}}
        async with serving(urls, nodes) as orchestrator:
            with pytest.raises(CallError) as caught:
                await orchestrator.call("first", timeout=20)
    assert begun == {"a": 1, "b": 1}
    assert "default/a" in str(caught.value), "it names the node that waits for its own answer"


async def test_the_ninth_delegation_in_a_row_is_not_sent(urls: Urls) -> None:
    begun: list[str] = []
    async with Orchestrator.connect(*urls) as lower:

        def passing(name: str) -> dict[str, Handler]:
            async def handler() -> Any:
                begun.append(name)
                return await lower.call("down", timeout=20)

            return {"down": handler}

        async with serving(urls, {f"n{n}": passing(f"n{n}") for n in range(11)}) as orchestrator:
            with pytest.raises(RemoteError, match="at most 8") as caught:
                await orchestrator.call("down", timeout=20)
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert len(begun) == len(set(begun)) == 9
