"""What is lost with a connection, a channel, a queue or a broker, and how it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiormq import spec
from pamqp import frame
from tests.bus.amqp.conftest import TIMEOUT, Open
from tests.bus.helpers import Child, ask, echo, soon, until

from roster.bus import Delivery, Message
from roster.bus.amqp import AmqpBus
from roster.bus.amqp.faults import PRECONDITION_FAILED, LostError
from roster.errors import BusUnavailableError, CallError, DeliveryError
from servers import RabbitMQ

_LONG = 60.0


async def answered(bus: AmqpBus, queue: str, **params: object) -> object:
    """Ask until there is an answer: the bus is on its way back."""
    async with asyncio.timeout(_LONG):
        while True:
            try:
                return await ask(bus, queue, **params)
            except CallError:
                await asyncio.sleep(0.02)


async def test_after_a_kill_9_of_the_broker_everything_is_as_it_was(
    victim: RabbitMQ, connect: Callable[..., AmqpBus]
) -> None:
    node, caller = connect(victim.url), connect(victim.url)
    held: list[Delivery] = []
    heard: list[str] = []
    consumer = await node.serve(
        "rising", lambda one: held.append(one) if one.message.params.get("hold") else echo(one)
    )
    bound = await node.serve("rising.bound", echo, bindings=["cmd.rising.#"])
    await node.subscribe(["evt.rising"], lambda key, message: heard.append(message.subject))
    out = await caller.send("rising", Message.command("work", {"hold": True}, timeout=_LONG))
    await until(lambda: bool(held))
    await asyncio.to_thread(victim.kill)
    with pytest.raises(DeliveryError, match=r"connection .* was lost") as caught:
        await soon(out.answer)
    assert caught.value.outcome == "unknown"
    await until(lambda: not consumer.healthy)  # nobody can reach it
    with pytest.raises(BusUnavailableError) as not_sent:
        await soon(caller.send("rising", Message.command("work", timeout=0.3)))
    assert not_sent.value.outcome == "not_sent"
    await asyncio.to_thread(victim.restart)
    await until(lambda: consumer.healthy and bound.healthy, _LONG)
    # Whoever comes first brings the caller's own connection back.
    assert await answered(caller, "rising", n=1) == {"n": 1}

    async def reached() -> bool:
        return await caller.publish("evt.rising", Message.event("again")) == 1

    async with asyncio.timeout(_LONG):
        while not await reached():
            await asyncio.sleep(0.02)
    await until(lambda: "again" in heard)
    answers: list[Message] = []
    command = Message.command("work", {"n": 2})
    await caller.publish("cmd.rising.now", command, on_reply=answers.append)
    await until(lambda: bool(answers))
    assert answers[0].data["result"] == {"n": 2}


async def test_a_connection_that_the_broker_closes_costs_what_was_out_and_no_more(
    victim: RabbitMQ, connect: Callable[..., AmqpBus]
) -> None:
    node, caller = connect(victim.url), connect(victim.url)
    held: list[Delivery] = []
    consumer = await node.serve("cut", held.append)
    out = await caller.send("cut", Message.command("work", {"n": 1}))
    await until(lambda: len(held) == 1)
    stopped: list[str] = []
    held[0].on_cancel = lambda: stopped.append("first")
    await asyncio.to_thread(victim.ctl, "close_all_connections", "by hand")
    with pytest.raises(DeliveryError) as caught:
        await soon(out.answer)
    assert (
        caught.value.outcome == "unknown"
    )  # whichever connection went first: the caller's own, or the node's
    await until(lambda: stopped == ["first"])  # it had not begun: it is not this consumer's any more
    await until(lambda: consumer.healthy)

    async def work() -> object:
        exchange = await caller.send("cut", Message.command("work", {"n": 2}))
        await until(lambda: held[-1].message.params == {"n": 2})
        echo(held[-1])
        return (await exchange.answer).data["result"]

    assert await soon(work()) == {"n": 2}


async def test_right_after_a_connection_came_back_a_missing_consumer_is_silent_and_not_gone(
    victim: RabbitMQ, connect: Callable[..., AmqpBus]
) -> None:
    node, caller = connect(victim.url), connect(victim.url)
    command = Message.command("work", timeout=_LONG)
    consumer = await node.serve("back", echo)
    assert await answered(caller, "back", n=1) == {"n": 1}
    with pytest.raises(BusUnavailableError, match="nobody consumes") as gone:
        await soon(caller.send("nobody", command))
    assert not gone.value.details.get("silent")
    await asyncio.to_thread(victim.ctl, "close_all_connections", "by hand")
    assert await answered(caller, "back", n=2) == {"n": 2}
    with pytest.raises(BusUnavailableError, match="nobody consumes") as silent:
        await soon(caller.send("nobody", command))
    assert silent.value.details.get("silent"), "it may have lost its own connection, and be on its way back"
    await consumer.close()


async def test_a_queue_deleted_under_its_consumer_is_made_again(
    node: AmqpBus, caller: AmqpBus, foreign: Open
) -> None:
    consumer = await node.serve("q", echo)
    assert await ask(caller, "q", n=1) == {"n": 1}
    # The one for control messages is exclusive: nobody else can delete that.
    await (await foreign()).delete_queue("q", TIMEOUT)
    await until(lambda: consumer.healthy)
    assert await answered(caller, "q", n=2) == {"n": 2}


async def test_a_command_in_a_queue_that_is_deleted_fails_and_does_not_hang(
    node: AmqpBus, caller: AmqpBus, foreign: Open
) -> None:
    held: list[Delivery] = []
    consumer = await node.serve("q", held.append, prefetch=1)
    out = [await caller.send("q", Message.command("work", {"n": n}, timeout=1.0)) for n in range(2)]
    await until(lambda: len(held) == 1)
    await (await foreign()).delete_queue("q", TIMEOUT)
    for exchange in out:
        with pytest.raises(CallError):
            await soon(exchange.answer)
    await until(lambda: consumer.healthy)


async def test_what_waits_in_hand_when_its_queue_is_deleted_is_handed_back_at_once(
    node: AmqpBus, caller: AmqpBus, foreign: Open
) -> None:
    held: list[Delivery] = []
    withdrawn: list[str] = []
    consumer = await node.serve("q", held.append, prefetch=2)
    out = [await caller.send("q", Message.command("work", {"n": n})) for n in range(2)]
    await until(lambda: len(held) == 2)
    held[1].on_cancel = lambda: withdrawn.append(held[1].message.id)
    held[0].start()
    consumer.flush()
    await (await foreign()).delete_queue("q", TIMEOUT)
    with pytest.raises(DeliveryError, match="its queue was deleted") as caught:
        await soon(out[1].answer)
    assert (caught.value.outcome, caught.value.retryable) == ("refused", True)
    assert withdrawn == [held[1].message.id]
    await until(lambda: consumer.healthy)
    echo(held[0])
    assert (await soon(out[0].answer)).data["result"] == {"n": 0}


async def test_a_channel_that_is_closed_is_opened_again(node: AmqpBus, caller: AmqpBus) -> None:
    held: list[Delivery] = []
    consumer = await node.serve("q", held.append)
    out = await caller.send("q", Message.command("work"))
    await until(lambda: len(held) == 1)
    channel = consumer._channel
    assert channel is not None
    channel.ack(4711)  # nobody has that: RabbitMQ closes the channel
    await until(lambda: channel.fault is not None)
    with pytest.raises(DeliveryError) as caught:
        await soon(out.answer)
    assert caught.value.outcome == "unknown", "the stand-by has it redelivered"
    await until(lambda: consumer.healthy)
    again = await caller.send("q", Message.command("work"))
    await until(lambda: len(held) == 2)
    echo(held[1])
    assert (await soon(again.answer)).data["result"] == {}


async def test_a_name_is_free_again_as_soon_as_its_holder_is_dead(
    start: Callable[..., Child], node: AmqpBus, caller: AmqpBus
) -> None:
    child = start()
    await child.line()
    with pytest.raises(BusUnavailableError, match="another live consumer"):
        await node.serve("q", echo)
    child.kill()
    await soon(node.serve("q", echo))
    assert await ask(caller, "q", n=1) == {"n": 1}


async def test_a_frozen_broker_is_noticed_and_served_again_when_it_wakes(
    victim: RabbitMQ, connect: Callable[..., AmqpBus]
) -> None:
    where = f"{victim.url}?heartbeat=1&timeout=2"
    node, caller = connect(where), connect(where)
    consumer = await node.serve("frozen", echo)
    assert await ask(caller, "frozen", n=1) == {"n": 1}
    victim.freeze()
    try:
        out = await caller.send("frozen", Message.command("work", timeout=_LONG))
        with pytest.raises(DeliveryError, match=r"silent|not confirmed") as caught:
            await soon(out.answer, 15)
        assert caught.value.outcome == "unknown"
        await until(lambda: not consumer.healthy, 15)
        with pytest.raises(BusUnavailableError, match=r"no answer|not come in time|silent"):
            await soon(caller.send("frozen", Message.command("work", timeout=1.0)), 5)
    finally:
        victim.thaw()
    await until(lambda: consumer.healthy, _LONG)
    assert await answered(caller, "frozen", n=2) == {"n": 2}


async def test_a_broker_that_says_twice_that_it_has_closed_a_channel_harms_no_other(foreign: Open) -> None:
    """RabbitMQ does so while it does not read: at each look it finds the same delivery held for too long."""
    first = await foreign()
    connection = first.connection
    first.ack(4711)  # nobody has that: RabbitMQ closes the channel
    await until(lambda: first.fault is not None)
    second = await connection.channel(TIMEOUT)
    close = spec.Channel.Close(reply_code=PRECONDITION_FAILED, reply_text="again", class_id=0, method_id=0)
    connection.intake.feed_data(frame.marshal(close, 1))
    name, *_ = await second.declare_queue("", TIMEOUT, exclusive=True)
    assert name
    assert (second.fault, connection.fault) == (None, None)


async def test_channels_that_both_sides_close_at_once_are_closed_once(foreign: Open) -> None:
    first = await foreign()
    connection = first.connection
    for _ in range(50):
        channel = await connection.channel(TIMEOUT)
        channel.ack(4711)
        channel.give_up(LostError("the test has given it up"))
    name, *_ = await first.declare_queue("", TIMEOUT, exclusive=True)
    assert name
    assert connection.fault is None
    await until(lambda: len(connection._client.channels) == 1)
