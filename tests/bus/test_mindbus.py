"""MindBus: commands, events and control by hand."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from tests.bus.helpers import soon, until

from roster.bus import Delivery, Kind, Message, MindBus
from roster.bus.message import Load
from roster.errors import (
    BusUnavailableError,
    CallCancelledError,
    CallTimeoutError,
    Code,
    DeliveryError,
    InvalidParamsError,
    MessageError,
    RemoteError,
)


@pytest.fixture
def url() -> str:
    """A bus of this test."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
async def mindbus(url: str) -> AsyncIterator[MindBus]:
    """A client."""
    async with MindBus.connect(url, source="/ai-team/editor-001") as opened:
        yield opened


@pytest.fixture
async def held(url: str) -> AsyncIterator[list[Delivery]]:
    """What a node holds that answers nothing by itself; its queue is `node`, bound to all control."""
    deliveries: list[Delivery] = []
    async with MindBus.connect(url) as node:
        await node.bus.serve("node", deliveries.append, bindings=["ctl.#"])
        yield deliveries


async def test_it_is_awaited_or_used_in_a_block(url: str) -> None:
    mindbus = await MindBus.connect(url)
    assert mindbus.url == url
    await mindbus.close()
    with pytest.raises(BusUnavailableError, match="closed"):
        await mindbus.send_command(queue="node", action="a")


async def test_a_command_brings_its_result(mindbus: MindBus, held: list[Delivery]) -> None:
    answer = await mindbus.send_command(
        queue="node",
        action="write_article",
        params={"topic": "bees"},
        timeout=30,
        priority=4,
        idempotency_key="k",
        uid="u",
    )
    await until(lambda: bool(held))
    command = held[0].message
    assert (command.action, command.params, command.source) == (
        "write_article",
        {"topic": "bees"},
        "/ai-team/editor-001",
    )
    assert (command.timeout, command.priority, command.key, command.uid) == (30, 4, "k", "u")
    assert not answer.started
    held[0].start()
    await until(lambda: answer.started)
    held[0].reply(Message.result_for(command, {"title": "Bees"}, load=Load(0, 0, 1, 1)))
    assert await answer.result(timeout=5) == {"title": "Bees"}
    assert await answer.result() == {"title": "Bees"}, "as often as one asks"


async def test_a_command_to_nobody_is_refused_at_once(mindbus: MindBus) -> None:
    with pytest.raises(BusUnavailableError):
        await mindbus.send_command(queue="nobody", action="a")


async def test_an_error_is_raised_as_what_it_was(mindbus: MindBus, held: list[Delivery]) -> None:
    answer = await mindbus.send_command(queue="node", action="a")
    await until(lambda: bool(held))
    held[0].reply(Message.error_for(held[0].message, InvalidParamsError("no topic", outcome="refused")))
    with pytest.raises(InvalidParamsError, match="no topic"):
        await answer.result(timeout=5)


async def test_a_timeout_cancels_the_work(mindbus: MindBus, held: list[Delivery]) -> None:
    cancelled: list[bool] = []
    answer = await mindbus.send_command(queue="node", action="slow")
    await until(lambda: bool(held))
    held[0].on_cancel = lambda: cancelled.append(True)
    with pytest.raises(CallTimeoutError, match=r"'slow' from 'node' within 0.02 s") as caught:
        await answer.result(timeout=0.02)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.code, caught.value.outcome) == (Code.DEADLINE_EXCEEDED, "unknown")
    await until(lambda: cancelled == [True])


async def test_without_a_timeout_of_its_own_the_wait_ends_with_the_commands(
    mindbus: MindBus, held: list[Delivery]
) -> None:
    answer = await mindbus.send_command(queue="node", action="slow", timeout=0.05)
    with pytest.raises(CallTimeoutError):
        await soon(answer.result(), 5)


async def test_who_stops_waiting_does_not_stop_the_work(mindbus: MindBus, held: list[Delivery]) -> None:
    answer = await mindbus.send_command(queue="node", action="a")
    await until(lambda: bool(held))
    impatient = asyncio.create_task(answer.result(timeout=60))
    patient = asyncio.create_task(answer.result(timeout=60))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    held[0].reply(Message.result_for(held[0].message, 1))
    assert await soon(patient) == 1


async def test_a_command_taken_back_says_so(mindbus: MindBus, held: list[Delivery]) -> None:
    cancelled: list[bool] = []
    answer = await mindbus.send_command(queue="node", action="a")
    await until(lambda: bool(held))
    held[0].on_cancel = lambda: cancelled.append(True)
    waiting = asyncio.create_task(answer.result(timeout=60))
    await asyncio.sleep(0)
    answer.cancel()
    with pytest.raises(CallCancelledError):
        await soon(waiting)
    await until(lambda: cancelled == [True])


async def test_progress_ends_with_the_answer(mindbus: MindBus, held: list[Delivery]) -> None:
    answer = await mindbus.send_command(queue="node", action="a")
    await until(lambda: bool(held))

    async def work() -> None:
        for n in range(3):
            held[0].progress(Message.event("step", {"n": n}, correlation=held[0].message.id))
            await asyncio.sleep(0.005)
        held[0].reply(Message.result_for(held[0].message, "done"))

    working = asyncio.create_task(work())
    async with asyncio.timeout(5):
        assert [event.data["n"] async for event in answer.progress()] == [0, 1, 2]
    assert await answer.result() == "done"
    await working


async def test_closing_ends_those_who_wait(url: str, held: list[Delivery]) -> None:
    async with MindBus.connect(url) as mindbus:
        answer = await mindbus.send_command(queue="node", action="a")
        events = mindbus.subscribe("evt.#")
        await events.__aenter__()
        listening = asyncio.create_task(events.__anext__())
        await asyncio.sleep(0)
    with pytest.raises(DeliveryError):
        await soon(answer.result(timeout=5))
    with pytest.raises(StopAsyncIteration):
        await soon(listening)


async def test_control_is_answered_or_refused(mindbus: MindBus, held: list[Delivery]) -> None:
    asking = asyncio.create_task(mindbus.send_control("node", "config", {"level": "debug"}, timeout=5))
    await until(lambda: bool(held))
    control = held.pop().message
    assert (control.kind, control.signal, control.data["level"]) == (Kind.CONTROL, "config", "debug")
    asking.cancel()
    asking = asyncio.create_task(mindbus.send_control("node", "pause"))
    await until(lambda: bool(held))
    held[0].reply(Message.result_for(held[0].message, {"paused": True}))
    assert await soon(asking) == {"paused": True}
    asking = asyncio.create_task(mindbus.send_control("node", "dance"))
    await until(lambda: len(held) == 2)
    held[1].reply(Message.error_for(held[1].message, RemoteError("no such signal", code=Code.UNIMPLEMENTED)))
    with pytest.raises(RemoteError, match="no such signal"):
        await soon(asking)


async def test_control_that_nobody_answers_times_out(mindbus: MindBus, held: list[Delivery]) -> None:
    with pytest.raises(CallTimeoutError):
        await soon(mindbus.send_control("node", "stop", timeout=0.02))


async def test_published_control_reaches_every_node(mindbus: MindBus, held: list[Delivery]) -> None:
    replies: list[Message] = []
    assert await mindbus.publish_control("all", "default", "stop", on_reply=replies.append) == 1
    await until(lambda: bool(held))
    assert held[0].message.signal == "stop"
    held[0].reply(Message.result_for(held[0].message, "stopping"))
    await until(lambda: [each.data["result"] for each in replies] == ["stopping"])


async def test_events_come_to_those_who_subscribed(mindbus: MindBus) -> None:
    async with mindbus.subscribe("evt.articles.*") as events:
        assert await mindbus.publish_event("articles", "done", {"title": "Пчёлы"}) == 1
        assert await mindbus.publish_event("songs", "done") == 0
        assert await mindbus.publish_event("articles", "lost") == 1
        first, second = await soon(anext(events)), await soon(anext(events))
    assert (first.kind, first.subject, first.data) == (Kind.EVENT, "articles.done", {"title": "Пчёлы"})
    assert second.subject == "articles.lost"
    assert first.source == "/ai-team/editor-001"
    assert await mindbus.publish_event("articles", "done") == 0


async def test_a_tap_sees_everything_that_is_published_with_its_routing_key(
    mindbus: MindBus, held: list[Delivery]
) -> None:
    async with mindbus.tap() as seen:
        await mindbus.publish_event("articles", "done")
        await mindbus.publish_control("all", "default", "pause")
        found = [await soon(anext(seen)) for _ in range(2)]
    assert [(each.key, each.message.kind) for each in found] == [
        ("evt.articles.done", Kind.EVENT),
        ("ctl.all.default", Kind.CONTROL),
    ]


async def test_a_subscription_is_iterated_without_a_block_too(mindbus: MindBus) -> None:
    async def first() -> Message:
        async for message in mindbus.subscribe("evt.#"):
            return message
        raise AssertionError("it ended")

    reading = asyncio.create_task(first())
    async with asyncio.timeout(5):
        while not await mindbus.publish_event("a", "b"):
            await asyncio.sleep(0)
    assert (await soon(reading)).subject == "a.b"


async def test_a_reader_that_is_too_slow_loses_the_oldest_and_knows_how_many(
    mindbus: MindBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.bus.events.MAX_EVENTS", 10)
    async with mindbus.subscribe("evt.#") as events:
        for n in range(25):
            await mindbus.publish_event("n", str(n))
        await until(lambda: events.dropped == 15)
    assert [message.subject async for message in events] == [f"n.{n}" for n in range(15, 25)]


async def test_what_waits_for_a_slow_reader_is_bounded_in_bytes_too(
    mindbus: MindBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.bus.events.MAX_BYTES", 50_000)
    async with mindbus.subscribe("evt.#") as events:
        for n in range(25):
            await mindbus.publish_event("n", str(n), {"text": "x" * 10_000})
        await until(lambda: events.dropped == 21)
        await mindbus.publish_event("n", "25", {"text": "x" * 60_000})  # over the limit alone, and the newest
        await until(lambda: events.dropped == 25)
    assert [message.subject async for message in events] == ["n.25"]


async def test_params_that_json_cannot_say_are_refused(mindbus: MindBus, held: list[Delivery]) -> None:
    with pytest.raises(MessageError):
        await mindbus.send_command(queue="node", action="a", params={"x": object()})
    with pytest.raises(MessageError):
        await mindbus.send_command(queue="node", action="")
    assert held == []
