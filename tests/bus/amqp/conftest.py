"""What the tests of the RabbitMQ engine share: buses of their own, consumers to kill, and another program's client."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.bus.helpers import Child
from tests.engines import not_here, own_bus

from roster.bus.amqp import AmqpBus
from roster.bus.amqp.channel import Channel
from roster.bus.amqp.connecting import connect as connect_to
from roster.bus.amqp.settings import settings_of
from roster.bus.url import parse_url
from servers import RabbitMQ, ServerMissingError

TIMEOUT = 5.0
# Milliseconds that the victim lets a consumer hold a delivery, and between two looks at that.
CONSUMER_TIMEOUT, TICK = 2000, 200

# A consumer in a process of its own. It notes the id of each command in a ledger once its start is announced. What a
# command's `do` says decides what comes of it: `hold` it, `start` it, else answer.
CONSUMER = """
import asyncio, os, sys
from roster.bus import Message, open_bus
url, queue, ledger_path, prefetch = sys.argv[1:5]
ledger = os.open(ledger_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

async def main():
    async with open_bus(url) as bus:
        def on_delivery(delivery):
            do = delivery.message.params.get("do")
            if do == "hold":
                return
            delivery.start()
            consumer.flush()
            os.write(ledger, (delivery.message.id + "\\n").encode())
            if do != "start":
                delivery.reply(Message.result_for(delivery.message, delivery.message.params))
        consumer = await bus.serve(queue, on_delivery, prefetch=int(prefetch))
        print("serving", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(main())
"""


def die(bus: AmqpBus) -> None:
    """Cut a client's connections for good, without a word: the broker sees what it sees when a process is killed."""
    for line in (bus.serving, bus._sender.line):
        line._closed = True
        if line.current is not None:
            line.current.abort("the test has cut it")


_running = ExitStack()
_victims: list[RabbitMQ] = []


@pytest.fixture
def url() -> str:
    """The URL of a bus that nobody else uses."""
    return own_bus()


@pytest.fixture
async def connect(url: str) -> AsyncIterator[Callable[..., AmqpBus]]:
    """A function that opens clients of the bus, or of another URL's."""
    async with AsyncExitStack() as stack:

        def make(where: str = url, **options: Any) -> AmqpBus:
            bus = AmqpBus(where, **options)
            stack.push_async_callback(bus.close)
            return bus

        yield make


@pytest.fixture
def node(connect: Callable[..., AmqpBus]) -> AmqpBus:
    """The client on the consumer's side."""
    return connect()


@pytest.fixture
def caller(connect: Callable[..., AmqpBus]) -> AmqpBus:
    """The client on the caller's side."""
    return connect()


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """A function that starts consumers in processes of their own."""
    with ExitStack() as stack:

        def make(queue: str = "q", *, prefetch: int = 10, where: str = url) -> Child:
            child = Child(CONSUMER, where, queue, str(tmp_path / "ledger"), str(prefetch))
            stack.callback(child.end)
            return child

        yield make


@pytest.fixture
def worked(tmp_path: Path) -> Callable[[], list[str]]:
    """A function that returns the ids of the commands which those consumers have worked on."""
    ledger = tmp_path / "ledger"
    return lambda: ledger.read_text().split() if ledger.exists() else []


Open = Callable[..., Coroutine[Any, Any, Channel]]


@pytest.fixture
async def foreign(url: str) -> AsyncIterator[Open]:
    """A function that opens a channel with confirms as another program would, which knows nothing of Roster."""
    async with AsyncExitStack() as stack:

        async def make(where: str = url) -> Channel:
            connection = await connect_to(settings_of(parse_url(where)), "foreign", TIMEOUT)
            stack.push_async_callback(connection.close, TIMEOUT)
            return await connection.channel(TIMEOUT, confirms=True)

        yield make


@pytest.fixture
def victim() -> RabbitMQ:
    """A broker that tests may harm if they leave it running; it lets nobody hold a delivery for long."""
    if not _victims:
        directory = Path(_running.enter_context(tempfile.TemporaryDirectory(prefix="roster-victim-")))
        broker = RabbitMQ(directory, consumer_timeout=CONSUMER_TIMEOUT, channel_tick_interval=TICK)
        try:
            _victims.append(_running.enter_context(broker))
        except ServerMissingError as error:
            not_here("rabbitmq", str(error))
    return _victims[0]


@pytest.fixture(scope="session", autouse=True)
def end_of_the_victim() -> Iterator[None]:
    """Ends the victim with the session."""
    yield
    _running.close()
