"""The network between clients and the broker is slow, swallows what is sent, or is cut: nobody has died."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.conftest import eventually, passport
from tests.engines import own_bus
from tests.faults.stage import state
from tests.network import Network

from roster import Node, Orchestrator


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    """What stands between the clients that are given its URL and a bus of this test alone."""
    async with Network(own_bus()) as made:
        yield made


@pytest.fixture
def registry(tmp_path: Path) -> str:
    """A registry of this test alone."""
    return f"sqlite:///{tmp_path}/registry.db"


async def _ready(orchestrator: Orchestrator, *names: str) -> None:
    await orchestrator.start()

    def ready() -> bool:
        found = [orchestrator.node(f"default/{name}") for name in names]
        return all(node is not None and node.state == "ready" for node in found)

    await eventually(ready)


@pytest.mark.parametrize("idempotent", [None, False])
async def test_the_last_words_of_a_node_that_leaves_are_waited_for(
    network: Network, registry: str, monkeypatch: pytest.MonkeyPatch, idempotent: bool | None
) -> None:
    """It has done its work and is out of the registry; that it began, and the result, are on their way."""
    monkeypatch.setattr("roster.orchestrator.vigil._LAST_WORDS", 0.0)
    monkeypatch.setattr("roster.orchestrator.vigil._BY_BROKER", 20.0)
    done: Counter[str] = Counter()
    work = {"name": "work"} if idempotent is None else {"name": "work", "idempotent": idempotent}

    def node(name: str, bus_url: str) -> Node:
        made = Node(passport(name, work), registry_url=registry, bus_url=bus_url)

        @made.capability("work")
        async def do() -> str:
            done[name] += 1
            return name

        return made

    async with AsyncExitStack() as stack:
        far = node("far", network.url)
        orchestrator = await stack.enter_async_context(Orchestrator.connect(registry, network.server))
        await far.__aenter__()
        await _ready(orchestrator, "far")
        assert await orchestrator.call("work") == "far"
        network.hold("serving", down=False)
        call = asyncio.create_task(orchestrator.call("work"))
        await eventually(lambda: done["far"] == 2 and not far.active_tasks)
        await stack.enter_async_context(node("near", network.server))
        leaving = asyncio.create_task(far.__aexit__(None, None, None))
        await eventually(lambda: orchestrator.node("default/far") is None)
        await _ready(orchestrator, "near")
        network.heal()
        assert await call == "far"
        await leaving
    assert done == {"far": 2}


async def test_nodes_that_are_far_away_are_not_left_out_for_ever(network: Network, registry: str) -> None:
    """Their answers take longer than half a second; the caller, who is near, cannot know that at first."""
    let_go = asyncio.Event()
    async with AsyncExitStack() as stack:
        for name in ("far", "farther"):
            node = Node(passport(name, "wait", "work"), registry_url=registry, bus_url=network.url)

            @node.capability("wait")
            async def wait() -> None:
                await let_go.wait()

            @node.capability("work")
            async def work() -> str:
                return "done"

            await stack.enter_async_context(node)
        orchestrator = await stack.enter_async_context(Orchestrator.connect(registry, network.server))
        await _ready(orchestrator, "far", "farther")
        network.slow_down(0.3)

        async def silent() -> bool:
            return any("does not answer" in row.reason for row in await orchestrator.explain("work"))

        waiting = asyncio.create_task(orchestrator.call("wait", timeout=60))
        async with asyncio.timeout(30):
            while not await silent():
                await asyncio.sleep(0.01)
            while await silent():
                await asyncio.sleep(0.01)
        # Either may have the key for all that this caller knows: both are asked.
        assert await orchestrator.call("work", timeout=30, idempotency_key="k") == "done"
        let_go.set()
        await waiting


@pytest.mark.parametrize("cut_off", ["node", "caller"])
async def test_work_with_a_key_is_done_once_though_its_node_or_its_caller_is_cut_off(
    network: Network, registry: str, cut_off: str
) -> None:
    done: Counter[str] = Counter()
    let_go = asyncio.Event()
    away = f"{network.url}?timeout=1"
    async with AsyncExitStack() as stack:

        async def start(name: str, bus_url: str) -> None:
            made = Node(passport(name, "work"), registry_url=registry, bus_url=bus_url)

            @made.capability("work")
            async def work() -> str:
                done[name] += 1
                await let_go.wait()
                return name

            await stack.enter_async_context(made)

        await start("first", away if cut_off == "node" else network.server)
        bus = away if cut_off == "caller" else network.server
        caller = await stack.enter_async_context(Orchestrator.connect(registry, bus))
        await _ready(caller, "first")
        call = asyncio.create_task(caller.call("work", timeout=60, idempotency_key="k"))
        await eventually(lambda: done["first"] == 1)
        await start("second", network.server)
        await _ready(caller, "first", "second")
        network.refuse()
        network.cut("serving" if cut_off == "node" else "sending")
        asked = caller.team.keys.asked
        # Whoever takes a node for dead because it cannot be reached has done so by then, and gone on to the next.
        await eventually(lambda: caller.team.keys.asked >= asked + 3 or done["second"], 30)
        await network.listen_again()
        await eventually(lambda: state(caller, "default/first") == "ready", 30)
        let_go.set()
        assert await call == "first"
    assert done == {"first": 1}


async def test_large_commands_on_a_slow_line_are_waited_for_and_done_once(
    network: Network, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they need longer than the broker has for its confirm; it is the line that is slow."""
    monkeypatch.setattr("roster.bus.amqp.sending._CONFIRM", 2.5)
    done: Counter[str] = Counter()
    node = Node(passport("a", "read", at_once=4), registry_url=registry, bus_url=network.server)

    @node.capability("read")
    async def read(text: str) -> int:
        done[text[:1]] += 1
        return len(text)

    async with node, Orchestrator.connect(registry, network.url) as orchestrator:
        await _ready(orchestrator, "a")
        assert await orchestrator.call("read", {"text": "first"}) == 5
        for link in network.all():
            link.up.rate = 1_000_000
        texts = [letter * 1_000_000 for letter in "abcd"]
        calls = [orchestrator.ask("read", {"text": text}, timeout=60) for text in texts]
        answers = await asyncio.gather(*calls)
    assert [answer.result for answer in answers] == [1_000_000] * 4
    assert [len(answer.attempts) for answer in answers] == [1] * 4
    assert set(done.values()) == {1}
