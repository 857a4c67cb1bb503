"""A dead letter that is sent again: never lost, never a danger to more than the one node that takes it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from chaos.team import scene
from tests.conftest import eventually
from tests.faults.stage import Handler, hands, serving, state, until_hands

from roster import (
    AllNodesBusyError,
    CallTimeoutError,
    Context,
    Message,
    MindBus,
    NoCapableNodesError,
    Orchestrator,
    RemoteError,
)
from roster.errors import Code, DeliveryError, LetterNotFoundError, MessageError

Urls = tuple[str, str]


async def bury(urls: Urls, *messages: Message) -> None:
    async with MindBus.connect(urls[1]) as mindbus:
        for message in messages:
            await mindbus.bus.bury(message, "its nodes died")


async def kept(orchestrator: Orchestrator) -> list[str]:
    return [letter.id for letter in await orchestrator.bus.corpses()]


async def in_vain(orchestrator: Orchestrator, command: Message) -> None:
    """Send a letter again while no node is idle, until that is what its sender hears."""
    for _ in range(20):
        with pytest.raises((AllNodesBusyError, CallTimeoutError)) as caught:
            await orchestrator.retry(command.id, timeout=0.3)
        if isinstance(caught.value, AllNodesBusyError):
            assert "idle" in str(caught.value)
            return
        # The node's word came too late on a machine that lags: then nobody knows what became of it.
        assert caught.value.outcome == "unknown"
    pytest.fail("its sender never heard of the node")


async def test_a_command_that_is_answered_is_removed_and_went_as_it_was_with_a_deadline_of_its_own(
    urls: Urls,
) -> None:
    seen: list[tuple[Message, float]] = []

    async def work(context: Context, n: int) -> int:
        assert context.remaining is not None
        seen.append((context.message, context.remaining))
        return n + 1

    first = Message.command("work", {"n": 1}, timeout=0.01)
    second = Message.command(
        "work", {"n": 2}, source="/x/y", priority=7, timeout=0.01, uid="of-the-dead", ancestors=("default/a",),
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", extensions={"tenant": "blue", "attempt": "3"},
    )  # fmt: skip
    await bury(urls, first, second)
    async with serving(urls, {"one": {"work": work}}) as orchestrator:
        answer = await orchestrator.retry(second.id, timeout=20)
        assert (answer.result, answer.node) == (3, "default/one")
        assert await kept(orchestrator) == [first.id]
        with pytest.raises(LetterNotFoundError, match=second.id):
            await orchestrator.retry(second.id)
    (message, left), = seen  # fmt: skip
    assert 10 < left <= 20
    assert message.id != second.id
    assert message.uid != "of-the-dead"
    assert (message.priority, message.ancestors) == (7, ("default/a",))
    assert message.extensions == {"tenant": "blue", "solo": "true"}
    assert message.traceparent.split("-")[1] == "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_a_command_that_kills_again_costs_one_node_and_stays(urls: Urls) -> None:
    command = Message.command("deadly", {"command": "deadly", "seconds": 0.1})
    await bury(urls, command)
    async with scene(urls, ["a1", "a2", "a3"], ttl=30.0, capabilities=["deadly"]) as (agents, orchestrator):
        with pytest.raises(DeliveryError) as caught:
            await orchestrator.retry(command.id, timeout=20)
        assert caught.value.outcome == "unknown"
        await eventually(lambda: len(agents.effects().nodes["deadly"]) == 1)
        await eventually(lambda: sum(one.returncode is not None for one in agents.processes.values()) == 1)
        assert await kept(orchestrator) == [command.id]


@pytest.mark.parametrize("retryable", [True, False])
async def test_a_handler_that_raises_is_asked_once_and_the_letter_stays(urls: Urls, retryable: bool) -> None:
    asked: list[int] = []

    async def work() -> None:
        asked.append(1)
        raise RemoteError("not today", code=Code.UNAVAILABLE, retryable=retryable)

    command = Message.command("work")
    await bury(urls, command)
    async with serving(urls, {"one": {"work": work}, "two": {"work": work}}) as orchestrator:
        with pytest.raises(RemoteError, match="not today"):
            await orchestrator.retry(command.id, timeout=20)
        assert len(asked) == 1
        assert await kept(orchestrator) == [command.id]


async def test_it_waits_for_a_node_that_does_nothing_else(urls: Urls) -> None:
    release = asyncio.Event()
    beside: list[str] = []

    async def work(who: str) -> str:
        beside.append(who)
        if who == "neighbour":
            await release.wait()
        return who

    command = Message.command("work", {"who": "letter"})
    await bury(urls, command)
    async with serving(urls, {"one": {"work": work}}) as orchestrator:
        neighbour = asyncio.create_task(orchestrator.call("work", {"who": "neighbour"}, timeout=60))
        await eventually(lambda: beside == ["neighbour"])
        await in_vain(orchestrator, command)
        assert beside == ["neighbour"]
        assert await kept(orchestrator) == [command.id]
        again = asyncio.create_task(orchestrator.retry(command.id, timeout=20))
        release.set()
        assert (await again).result == "letter"
        assert await neighbour == "neighbour"
        assert await kept(orchestrator) == []


async def test_a_team_that_is_never_idle_makes_room_for_it_and_nothing_runs_beside_it(urls: Urls) -> None:
    go = {who: asyncio.Event() for who in ("before", "letter", "after")}
    running: list[str] = []
    beside: dict[str, list[str]] = {}

    async def work(who: str) -> str:
        beside[who] = list(running)
        running.append(who)
        await go[who].wait()
        running.remove(who)
        return who

    command = Message.command("work", {"who": "letter"})
    await bury(urls, command)
    async with serving(urls, {"one": {"work": work}}) as orchestrator, Orchestrator.connect(*urls) as other:

        def call(caller: Orchestrator, who: str) -> asyncio.Task[Any]:
            return asyncio.create_task(caller.call("work", {"who": who}, timeout=60))

        before = call(orchestrator, "before")
        await eventually(lambda: running == ["before"])
        letter = asyncio.create_task(orchestrator.retry(command.id, timeout=60))
        await until_hands(orchestrator, "default/one", running=1, waiting=1)
        after = [call(caller, "after") for caller in (orchestrator, other)]
        await eventually(lambda: all(one.team.waiting.waiting("work") == 1 for one in (orchestrator, other)))
        assert running == ["before"], "it has room for three, and takes nothing more"
        go["before"].set()
        await eventually(lambda: running == ["letter"])
        assert await hands(orchestrator, "default/one") == (1, 0)
        go["letter"].set()
        go["after"].set()
        assert (await letter).result == "letter"
        assert [await one for one in (before, *after)] == ["before", "after", "after"]
    assert beside["letter"] == []


async def test_nobody_who_can_do_it_loses_nothing(urls: Urls) -> None:
    command, event = Message.command("sing"), Message.event("a.b")
    await bury(urls, command, event)
    async with serving(urls, {"one": {"work": lambda: None}}) as orchestrator:
        with pytest.raises(NoCapableNodesError, match="sing"):
            await orchestrator.retry(command.id, timeout=1)
        with pytest.raises(MessageError, match="is no command"):
            await orchestrator.retry(event.id, timeout=1)
        assert await kept(orchestrator) == [command.id, event.id]


async def test_work_that_its_key_says_was_done_is_not_done_again(urls: Urls) -> None:
    done: list[str] = []

    async def work(context: Context) -> str:
        done.append(context.idempotency_key)
        return "done"

    async with serving(urls, {"one": {"work": work}}) as orchestrator:
        assert await orchestrator.call("work", timeout=20, idempotency_key="order-7") == "done"
        again = Message.command("work", source="/default/somebody", key="order-7")
        other = Message.command("work", source="/default/somebody", key="order-8")
        await bury(urls, again, other)
        assert (await orchestrator.retry(again.id, timeout=20)).result == "done"
        assert done == ["order-7"]
        assert (await orchestrator.retry(other.id, timeout=20)).result == "done"
        assert done == ["order-7", "order-8"]
        assert await kept(orchestrator) == []


async def test_a_retry_that_is_cancelled_stops_the_work_and_keeps_the_letter(urls: Urls) -> None:
    stopped: list[BaseException] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            stopped.append(error)
            raise

    nodes: dict[str, dict[str, Handler]] = {"one": {"work": work}}
    command = Message.command("work")
    await bury(urls, command)
    async with serving(urls, nodes) as orchestrator:
        again: asyncio.Task[Any] = asyncio.create_task(orchestrator.retry(command.id, timeout=60))
        await eventually(lambda: [one for one in orchestrator.team.vigil._open if one.exchange.started])
        again.cancel()
        await eventually(lambda: stopped)
        assert await kept(orchestrator) == [command.id]
        assert state(orchestrator, "default/one") == "ready"


async def test_of_two_who_send_it_again_at_once_one_does(urls: Urls) -> None:
    begun, go_on = list[int](), asyncio.Event()

    async def work(n: int) -> int:
        begun.append(n)
        await go_on.wait()
        return n

    command = Message.command("work", {"n": 1})
    await bury(urls, command)
    async with serving(urls, {"one": {"work": work}, "two": {"work": work}}) as orchestrator:
        again = asyncio.create_task(orchestrator.retry(command.id, timeout=60))
        await eventually(lambda: begun)
        async with Orchestrator.connect(*urls) as second:
            with pytest.raises(LetterNotFoundError, match="or somebody is sending it again just now"):
                await second.retry(command.id, timeout=20)
        go_on.set()
        assert (await again).result == 1
        assert await kept(orchestrator) == []
    assert begun == [1]
