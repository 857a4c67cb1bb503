"""Too much: full queues, a broker short of memory, readers that do not read. Each ends within its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.bus.amqp.conftest import CONSUMER_TIMEOUT, TIMEOUT, Open
from tests.bus.helpers import ask, echo, soon, until
from tests.network import Network

from roster._clock import boottime
from roster.bus import Delivery, Message
from roster.bus.amqp import AmqpBus, names
from roster.bus.amqp.faults import PRECONDITION_FAILED, RefusedError
from roster.errors import BusUnavailableError, CallError, Code, DeliveryError
from servers import RabbitMQ


async def test_a_full_queue_refuses_and_the_command_was_not_sent(caller: AmqpBus, foreign: Open) -> None:
    channel = await foreign()
    limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await channel.declare_queue("q", TIMEOUT, arguments=limits)
    await channel.prefetch(1, TIMEOUT)
    got: list[str] = []
    await channel.consume("q", lambda one: got.append(one.properties.message_id), TIMEOUT)
    out = [await caller.send("q", Message.command("work")) for _ in range(2)]
    await until(lambda: len(got) == 1)
    await until(lambda: all(exchange.confirmed for exchange in out))
    too_much = await caller.send("q", Message.command("work"))
    with pytest.raises(DeliveryError, match="is full") as caught:
        await soon(too_much.answer)
    assert (caught.value.outcome, caught.value.code) == ("not_sent", Code.RESOURCE_EXHAUSTED)
    assert caught.value.retryable
    assert not any(exchange.answer.done() for exchange in out)


async def test_our_queues_are_bounded_and_refuse_rather_than_drop(node: AmqpBus, foreign: Open) -> None:
    await node.serve("q", lambda delivery: None, prefetch=1)
    channel = await foreign()
    dropping = {**names.QUEUE_ARGUMENTS, "x-overflow": "drop-head"}
    with pytest.raises(RefusedError, match=r"inequivalent arg 'x-overflow'.*reject-publish") as caught:
        await channel.declare_queue("q", TIMEOUT, durable=True, arguments=dropping)
    assert caught.value.code == PRECONDITION_FAILED


async def test_the_control_messages_of_a_frozen_node_are_bounded_too(node: AmqpBus) -> None:
    await node.serve("q", lambda delivery: None)
    connection = node.serving.current
    assert connection is not None
    channel = await connection.channel(TIMEOUT)  # the queue is this connection's alone
    with pytest.raises(RefusedError, match=r"inequivalent arg 'x-(max-length|overflow)"):
        await channel.declare_queue(names.control_queue("q"), TIMEOUT, exclusive=True)


async def test_a_broker_short_of_memory_holds_no_call_past_its_deadline_and_loses_none(
    victim: RabbitMQ, connect: Callable[..., AmqpBus]
) -> None:
    node, caller = connect(victim.url, renew=CONSUMER_TIMEOUT / 4000), connect(victim.url)
    held: list[Delivery] = []
    await node.serve("pressed", lambda one: held.append(one) if "hold" in one.message.params else echo(one))
    assert await ask(caller, "pressed", n=1) == {"n": 1}
    before = await caller.send("pressed", Message.command("work", {"hold": True}, timeout=60))
    await until(lambda: len(held) == 1)
    await asyncio.to_thread(victim.alarm, on=True)
    try:
        began = boottime()
        blocked = await soon(caller.send("pressed", Message.command("work", timeout=0.5)))
        with pytest.raises(DeliveryError, match="deadline") as caught:
            await soon(blocked.answer)
        assert caught.value.outcome == "unknown", "it lies in the broker's socket"
        with pytest.raises(BusUnavailableError, match="takes no messages just now") as refused:
            await soon(caller.send("pressed", Message.command("work", timeout=0.5)))
        assert (refused.value.outcome, refused.value.code) == ("not_sent", Code.RESOURCE_EXHAUSTED)
        assert boottime() - began < 5
    finally:
        await asyncio.to_thread(victim.alarm, on=False)
    echo(held[0])
    assert (await soon(before.answer)).data["result"] == {"hold": True}
    assert await ask(caller, "pressed", n=2) == {"n": 2}


async def test_a_command_that_the_broker_does_not_confirm_is_given_up(
    victim: RabbitMQ, connect: Callable[..., AmqpBus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.bus.amqp.sending._CONFIRM", 0.3)
    node, caller = connect(victim.url), connect(victim.url)
    await node.serve("unconfirmed", echo)
    assert await ask(caller, "unconfirmed") == {}
    victim.freeze()
    try:
        exchange = await caller.send("unconfirmed", Message.command("work"))
        with pytest.raises(DeliveryError, match="not confirmed") as caught:
            await soon(exchange.answer)
        assert caught.value.outcome == "unknown"
    finally:
        victim.thaw()
    assert await ask(caller, "unconfirmed", n=1) == {"n": 1}


async def test_a_caller_that_does_not_read_fills_nobodys_memory(
    node: AmqpBus, caller: AmqpBus, foreign: Open
) -> None:
    """What a node may say unasked, progress, is dropped when it cannot be written; the answer is not."""
    held: list[Delivery] = []
    await node.serve("q", held.append)
    told: list[int] = []
    exchange = await caller.send(
        "q", Message.command("work"), on_progress=lambda message: told.append(len(message.data["text"]))
    )
    await until(lambda: len(held) == 1)
    held[0].start()
    for _ in range(100):  # without letting the loop write
        held[0].progress(Message.event("progress", {"text": "x" * 500_000}))
    connection = node.serving.current
    assert connection is not None
    assert connection.unsent < 64 * 1024 * 1024
    held[0].reply(Message.result_for(held[0].message, "done"))
    assert (await soon(exchange.answer, 30)).data["result"] == "done"
    assert told
    await node.serve("other", echo)
    assert await ask(caller, "other", n=1) == {"n": 1}


async def test_a_caller_whose_own_deadline_passes_gives_the_command_up(
    node: AmqpBus, caller: AmqpBus
) -> None:
    held: list[Delivery] = []
    cancelled: list[str] = []

    def hold(delivery: Delivery) -> None:
        held.append(delivery)
        delivery.on_cancel = lambda: cancelled.append(delivery.message.id)

    await node.serve("q", hold)
    command = Message.command("work", timeout=0.2)
    exchange = await caller.send("q", command)
    with pytest.raises(CallError) as caught:
        await soon(exchange.answer)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    await until(lambda: cancelled == [command.id])  # the node hears of it


async def test_large_dead_letters_are_read_over_a_slow_line(
    url: str, connect: Callable[..., AmqpBus]
) -> None:
    """All of them need longer than one question to the broker may take, and stand before the answers to such questions."""
    near = connect()
    for number in range(6):
        await near.bury(Message.command("work", {"number": number, "text": "x" * 500_000}), "too large")
    async with Network(url) as network:
        far = connect(f"{network.url}?timeout=1")
        assert len(await far.dead_letters()) == 6
        for link in network.all():
            link.down.rate = 1_000_000
        assert [letter.message.params["number"] for letter in await far.dead_letters()] == list(range(6))
