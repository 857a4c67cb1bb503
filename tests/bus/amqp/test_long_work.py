"""Work that outlives the broker's patience with a delivery: renewed in time it runs once, its neighbours beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.bus.amqp.conftest import CONSUMER_TIMEOUT
from tests.bus.helpers import echo, soon, until

from roster.bus import Delivery, Message
from roster.bus.amqp import AmqpBus
from roster.bus.amqp.serving import AmqpConsumer
from roster.errors import ConfigError, DeliveryError
from servers import RabbitMQ

LONG = 2 * CONSUMER_TIMEOUT / 1000


class Worker:
    """A consumer whose commands each take as long as their params say."""

    def __init__(self) -> None:
        self.consumer: AmqpConsumer | None = None
        self.begun: list[str] = []
        self.stopped: list[str] = []
        self._loop = asyncio.get_running_loop()

    def __call__(self, delivery: Delivery) -> None:
        name = delivery.message.params["name"]
        self.begun.append(name)
        delivery.on_cancel = lambda: self.stopped.append(name)
        delivery.start()
        if self.consumer is not None:
            self.consumer.flush()
        self._loop.call_later(delivery.message.params["seconds"], self._finish, delivery)

    def _finish(self, delivery: Delivery) -> None:
        delivery.reply(Message.result_for(delivery.message, delivery.message.params["name"]))


async def test_renewed_work_runs_once_and_long_past_the_brokers_patience(
    victim: RabbitMQ, connect: Callable[..., AmqpBus]
) -> None:
    node, caller = connect(victim.url, renew=CONSUMER_TIMEOUT / 4000), connect(victim.url)
    worker = Worker()
    consumer = worker.consumer = await node.serve("long", worker, prefetch=3)
    channel = consumer._channel
    exchanges = [
        await caller.send("long", Message.command("work", {"name": f"w{n}", "seconds": LONG + n / 10}))
        for n in range(2)
    ]
    await until(lambda: all(exchange.started for exchange in exchanges))
    # Meanwhile short work goes past it.
    for n in range(20):
        short = await caller.send("long", Message.command("work", {"name": f"s{n}", "seconds": 0.05}))
        assert (await soon(short.answer)).data["result"] == f"s{n}"
        await asyncio.sleep(LONG / 25)
    answers = [(await soon(exchange.answer)).data["result"] for exchange in exchanges]
    assert answers == ["w0", "w1"]
    assert len(worker.begun) == len(set(worker.begun)) == 22
    assert worker.stopped == []
    assert consumer._channel is channel, "the broker has not closed it"
    await until(lambda: not consumer._in_hand)


async def test_without_renewal_the_broker_takes_the_work_away(
    victim: RabbitMQ, connect: Callable[..., AmqpBus]
) -> None:
    """What the test above is about: were nothing renewed there, this would happen."""
    node, caller = connect(victim.url, renew=600), connect(victim.url)
    worker = Worker()
    consumer = await node.serve("unrenewed", worker)
    work = Message.command("work", {"name": "w", "seconds": LONG * 2})
    exchange = await caller.send("unrenewed", work)
    with pytest.raises(DeliveryError) as caught:
        await soon(exchange.answer)
    assert caught.value.outcome == "unknown"
    await until(lambda: consumer.healthy)


async def test_work_that_ends_while_it_is_renewed_is_acknowledged_when_it_is_back(
    node: AmqpBus, caller: AmqpBus
) -> None:
    held: list[Delivery] = []
    consumer = await node.serve("q", held.append)
    exchange = await caller.send("q", Message.command("work"))
    await until(lambda: len(held) == 1)
    (delivery,) = consumer._in_hand.values()
    delivery.renew()
    assert not delivery.held
    echo(held[0])
    assert (await soon(exchange.answer)).data["result"] == {}
    await until(lambda: not consumer._in_hand)
    assert len(held) == 1
    await consumer.close()
    await node.close()
    # Nothing was left behind: whoever serves the queue next gets nothing of it.
    again: list[Delivery] = []
    await caller.serve("q", again.append)
    exchange = await caller.send("q", Message.command("work", {"n": 2}))
    await until(lambda: bool(again))
    assert [one.message.params for one in again] == [{"n": 2}]


async def test_renewing_everything_again_and_again_loses_nothing(
    connect: Callable[..., AmqpBus], caller: AmqpBus
) -> None:
    node = connect(renew=0.02)
    worker = Worker()
    await node.serve("q", worker, prefetch=50)
    exchanges = [
        await caller.send("q", Message.command("work", {"name": f"w{n}", "seconds": 1.0}, priority=n % 10))
        for n in range(50)
    ]
    answers = await soon(asyncio.gather(*(exchange.answer for exchange in exchanges)))
    assert [answer.data["result"] for answer in answers] == [f"w{n}" for n in range(50)]
    assert sorted(worker.begun) == sorted(f"w{n}" for n in range(50))
    assert worker.stopped == []


async def test_work_that_another_was_given_meanwhile_is_stopped(
    node: AmqpBus, caller: AmqpBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.bus.amqp.serving._ASTRAY", 0.0)
    worker = Worker()
    consumer = worker.consumer = await node.serve("q", worker)
    exchange = await caller.send("q", Message.command("work", {"name": "w", "seconds": 60}))
    await until(lambda: exchange.started is True)
    assert consumer._channel is not None
    await consumer._channel.cancel(consumer._tag, 5)  # so that the stand-by is next
    (delivery,) = consumer._in_hand.values()
    delivery.renew()
    with pytest.raises(DeliveryError) as caught:
        await soon(exchange.answer)
    assert caught.value.outcome == "unknown"
    consumer._renew()
    assert worker.stopped == ["w"]
    assert not consumer._in_hand


@pytest.mark.parametrize("text", ["0", "-1", "x", "1e9", "nan"])
def test_a_time_for_renewal_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSTER_AMQP_RENEW", text)
    with pytest.raises(ConfigError, match="ROSTER_AMQP_RENEW"):
        AmqpBus("amqp://mq")
