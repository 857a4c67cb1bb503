"""The broker itself is killed, and callers die together with the nodes that worked for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos.load import send
from chaos.team import scene
from tests.bus.amqp.conftest import die
from tests.conftest import eventually
from tests.engines import own_bus

from roster import Orchestrator
from roster.bus.amqp import AmqpBus
from roster.errors import DeliveryError
from servers import RabbitMQ

START = Callable[..., RabbitMQ]


async def test_calls_outlive_a_broker_that_is_killed_and_started_again(
    start_rabbitmq: START, tmp_path: Path
) -> None:
    broker = await asyncio.to_thread(start_rabbitmq)
    urls = f"sqlite:///{tmp_path}/registry.db", broker.url
    async with scene(urls, ["a1", "a2"], ttl=30.0, capacity=4) as (agents, orchestrator):
        before = {key: orchestrator.node(f"chaos/{key}").uid for key in ("a1", "a2")}  # type: ignore[union-attr]  # ready
        load = asyncio.create_task(send(orchestrator, 200, in_flight=100, rate=50, seconds=0.05, timeout=60))
        await eventually(lambda: len(agents.effects().finishers) > 20)
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.restart)
        outcome = await load
        effects = agents.effects()
        after = {key: orchestrator.node(f"chaos/{key}").uid for key in ("a1", "a2")}  # type: ignore[union-attr]  # ready
    assert not outcome.errors
    assert len(outcome.answers) == 200
    assert after == before, "they were cut off, never dead"
    again = [command for command, times in effects.started.items() if times > 1]
    assert len(again) <= 8, "only what was in hand may be begun again"


@pytest.mark.parametrize("idempotent", [None, False])
async def test_a_command_whose_caller_and_node_are_killed_is_done_by_another_where_that_is_allowed(
    tmp_path: Path, idempotent: bool | None
) -> None:
    urls = f"sqlite:///{tmp_path}/registry.db", own_bus()
    work = {"name": "work"} if idempotent is None else {"name": "work", "idempotent": idempotent}
    async with (
        scene(urls, ["a1"], ttl=30.0, capabilities=[work], capacity=2) as (agents, watcher),
        Orchestrator.connect(*urls) as lost,
    ):
        # Whoever has sent to a node hears of what it leaves behind.
        await watcher.call("work", {"command": "first", "seconds": 0}, namespace="chaos")
        params = {"command": "orphan", "seconds": 8.0}
        call = asyncio.create_task(lost.call("work", params, namespace="chaos", timeout=60))
        await eventually(lambda: agents.effects().started["orphan"] == 1)
        if idempotent is None:
            await agents.start("a2")
            await agents.ready(watcher, ["a1", "a2"])
        assert isinstance(lost.bus, AmqpBus)
        die(lost.bus)
        call.cancel()
        await asyncio.wait({call})
        await agents.kill("a1")
        if idempotent is None:
            await eventually(lambda: "orphan" in agents.effects().finishers, 30)
            assert agents.effects().nodes["orphan"] == ["chaos/a1", "chaos/a2"]
            assert await watcher.bus.dead_letters() == []
            return
        async with asyncio.timeout(10):
            while not (letters := await watcher.bus.dead_letters()):
                await asyncio.sleep(0.02)
        assert [letter.message.params["command"] for letter in letters] == ["orphan"]
        assert "may have begun and must not run twice" in letters[0].reason
        assert agents.effects().nodes["orphan"] == ["chaos/a1"]


async def test_a_caller_that_loses_its_own_connection_again_and_again_blames_no_node(
    tmp_path: Path,
) -> None:
    urls = f"sqlite:///{tmp_path}/registry.db", own_bus()
    async with (
        scene(urls, ["a1", "a2"], ttl=30.0, capacity=4) as (agents, watcher),
        Orchestrator.connect(*urls) as caller,
    ):
        params = {"command": "long", "seconds": 30.0}
        call = asyncio.create_task(caller.ask("work", params, namespace="chaos", timeout=60))
        assert isinstance(caller.bus, AmqpBus)
        line = caller.bus._sender.line
        for times in range(1, 4):
            await eventually(lambda times=times: agents.effects().started["long"] == times)  # type: ignore[misc]  # a default binds it
            assert line.current is not None
            line.current.abort("the test has cut it")
            assert not caller.team.suspects._marked
        with pytest.raises(DeliveryError, match=r"the connection to .* was lost") as caught:
            await call
        assert caught.value.outcome == "unknown"
        assert len(caught.value.attempts) == 3
        assert await watcher.bus.dead_letters() == []
