"""What `roster.bus.base` promises, clause by clause, asked of every engine."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack

import pytest
from tests.bus.helpers import Elsewhere, ask, echo, soon, until
from tests.engines import own_bus

from roster.bus import MAX_MESSAGE_BYTES, Bus, Delivery, Kind, Load, Message, error_from, open_bus
from roster.errors import (
    BusUnavailableError,
    CallError,
    Code,
    DeliveryError,
    InvalidParamsError,
    MessageError,
)

# An engine joins the suite by adding a function from a fresh, short directory to a URL.
BUSES: dict[str, Callable[[str], str]] = {
    "memory": lambda _: f"memory://{uuid.uuid4().hex}",
    "local": lambda directory: f"local://{directory}/bus",
    # Some tests keep a loop from running: longer than a broker waits for a sign of life where a machine is slow.
    "amqp": lambda _: f"{own_bus()}?heartbeat=120",
}
# Whoever has a server at hand names it.
if NAMED := os.environ.get("ROSTER_TEST_BUS", ""):
    BUSES = {NAMED.partition(":")[0]: lambda _: NAMED}

HOSTILE_NAMES = [
    "agent.writer.001",
    "../x",
    "/etc/passwd",
    "a/../../b",
    ".",
    " ",
    "\0",
    "a\nb\r\x1b[2J",
    "имя",
    "🦜" * 63,
    "q" * 255,
    "%2e%2e",
    "\u202eevil",
]


@pytest.fixture(params=sorted(BUSES))
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a bus that nobody else uses."""
    with tempfile.TemporaryDirectory(prefix="rb-") as directory:
        yield BUSES[request.param](directory)


@pytest.fixture
async def connect(url: str) -> AsyncIterator[Callable[[], Bus]]:
    """A function that opens clients of one bus."""
    async with AsyncExitStack() as stack:

        def make() -> Bus:
            bus = open_bus(url)
            stack.push_async_callback(bus.close)
            return bus

        yield make


@pytest.fixture
def node(connect: Callable[[], Bus]) -> Bus:
    """The client on the consumer's side."""
    return connect()


@pytest.fixture
def caller(connect: Callable[[], Bus]) -> Bus:
    """The client on the caller's side."""
    return connect()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    """A loop on another thread."""
    with ExitStack() as stack:
        other = Elsewhere()
        stack.callback(other.stop)
        yield other


class Hands:
    """A consumer that keeps what it gets."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.cancelled: list[Delivery] = []

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        delivery.on_cancel = lambda: self.cancelled.append(delivery)

    async def next(self) -> Delivery:
        await until(lambda: bool(self.deliveries))
        return self.deliveries.pop(0)


# --- queues -----------------------------------------------------------------------------------------------------


async def test_a_second_live_consumer_of_a_queue_is_refused(node: Bus, caller: Bus) -> None:
    await node.serve("q", echo)
    with pytest.raises(BusUnavailableError, match="another live consumer") as caught:
        await caller.serve("q", echo)
    assert caught.value.outcome == "not_sent"
    assert await ask(caller, "q", n=1) == {"n": 1}


async def test_a_queue_can_be_served_again_after_its_consumer_closed(
    node: Bus, connect: Callable[[], Bus]
) -> None:
    consumer = await node.serve("q", echo)
    await consumer.close()
    other = connect()
    await other.serve("q", echo)
    assert await ask(connect(), "q", n=2) == {"n": 2}


async def test_a_caller_that_was_connected_finds_the_next_consumer(
    node: Bus, caller: Bus, connect: Callable[[], Bus]
) -> None:
    await node.serve("q", echo)
    assert await ask(caller, "q", n=1) == {"n": 1}
    await node.close()
    await connect().serve("q", echo)

    # The first try may meet the old connection; it says then that nothing was done.
    tries = [list(await asyncio.gather(ask(caller, "q", n=2), return_exceptions=True)) for _ in range(2)]
    assert tries[1] == [{"n": 2}]
    failed = [end for end in tries[0] if isinstance(end, CallError)]
    assert all(end.outcome in ("refused", "not_sent") for end in failed)


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
async def test_a_queue_name_is_opaque(node: Bus, caller: Bus, name: str) -> None:
    consumer = await node.serve(name, echo)
    assert consumer.queue == name
    assert consumer.healthy
    assert await ask(caller, name, name=name) == {"name": name}
    with pytest.raises(BusUnavailableError):
        await caller.send(name + "x" if len(name) < 200 else name[:-1], Message.command("a"))


@pytest.mark.parametrize("name", ["", "q" * 256, "ж" * 128, "\ud800"], ids=ascii)
async def test_what_is_no_queue_name_is_refused(node: Bus, name: str) -> None:
    with pytest.raises(MessageError, match="queue's name"):
        await node.serve(name, echo)
    with pytest.raises(MessageError, match="queue's name"):
        await node.send(name, Message.command("a"))


# --- commands ---------------------------------------------------------------------------------------------------


async def test_a_command_to_nobody_is_not_sent(caller: Bus) -> None:
    with pytest.raises(BusUnavailableError, match="nobody consumes the queue 'nobody'") as caught:
        await caller.send("nobody", Message.command("a"))
    assert caught.value.outcome == "not_sent"
    assert caught.value.retryable


async def test_a_command_arrives_whole_and_its_answer_too(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    sent = Message.command(
        "write_article",
        {"тема": "пчёлы 🐝", "nested": {"list": [1, 2.5, None, True]}},
        source="/ai-team/editor-001",
        priority=7,
        timeout=1.5,
        uid="u1",
        key="k1",
        ancestors=("default/a", "default/b"),
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        extensions={"tenant": "blue"},
    )
    exchange = await caller.send("q", sent)
    assert exchange.queue == "q"
    delivery = await hands.next()
    assert delivery.message == sent
    load = Load(active=1, mine=1, capacity=4, seq=9)
    delivery.reply(Message.result_for(delivery.message, ["готово"], source="/ai-team/writer-001", load=load))
    answer = await soon(exchange.answer)
    assert answer.kind is Kind.RESULT
    assert answer.data == {"result": ["готово"]}
    assert (answer.correlation, answer.source, answer.load) == (sent.id, "/ai-team/writer-001", load)
    assert answer.traceparent == sent.traceparent


async def test_an_error_is_an_answer(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    exchange = await caller.send("q", Message.command("a"))
    delivery = await hands.next()
    refusal = InvalidParamsError("topic is missing", outcome="refused", details={"path": "topic"})
    delivery.reply(Message.error_for(delivery.message, refusal))
    answer = await soon(exchange.answer)
    assert answer.kind is Kind.ERROR
    error = error_from(answer)
    assert isinstance(error, InvalidParamsError)
    assert (error.code, error.outcome, error.details) == (Code.INVALID_ARGUMENT, "refused", {"path": "topic"})


async def test_progress_comes_in_order_before_the_answer_and_not_after(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    seen: list[int] = []
    exchange = await caller.send(
        "q", Message.command("a"), on_progress=lambda event: seen.append(event.data["n"])
    )
    delivery = await hands.next()
    delivery.start()
    for n in range(5):
        delivery.progress(Message.event("step", {"n": n}, correlation=delivery.message.id))
    delivery.reply(Message.result_for(delivery.message, None))
    delivery.progress(Message.event("step", {"n": 99}))
    await soon(exchange.answer)
    assert await ask_after(node, caller) == {}
    assert seen == [0, 1, 2, 3, 4]


async def ask_after(node: Bus, caller: Bus) -> object:
    """A round trip on another queue: what was on its way has arrived by now."""
    name = uuid.uuid4().hex
    await node.serve(name, echo)
    return await ask(caller, name)


async def test_started_is_said_when_the_work_begins(node: Bus, caller: Bus) -> None:
    hands = Hands()
    consumer = await node.serve("q", hands)
    exchange = await caller.send("q", Message.command("a"))
    delivery = await hands.next()
    assert not exchange.started
    delivery.start()
    flushed = consumer.flush()
    if flushed is not None:
        await soon(flushed)
    await until(lambda: exchange.started is True)
    assert not exchange.answer.done()


async def test_the_first_answer_counts(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    exchange = await caller.send("q", Message.command("a"))
    delivery = await hands.next()
    delivery.reply(Message.result_for(delivery.message, 1))
    delivery.reply(Message.result_for(delivery.message, 2))
    assert (await soon(exchange.answer)).data["result"] == 1


async def test_many_exchanges_at_once_each_get_their_own_answer(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    exchanges = [await caller.send("q", Message.command("a", {"n": n})) for n in range(200)]
    await until(lambda: len(hands.deliveries) == 200)
    for delivery in reversed(hands.deliveries):
        delivery.reply(Message.result_for(delivery.message, delivery.message.params["n"]))
    answers = await soon(asyncio.gather(*(each.answer for each in exchanges)))
    assert [each.data["result"] for each in answers] == list(range(200))


async def test_a_consumer_gone_before_the_start_means_refused(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    exchange = await caller.send("q", Message.command("a"))
    await hands.next()
    await node.close()
    with pytest.raises(DeliveryError) as caught:
        await soon(exchange.answer)
    assert caught.value.outcome == "refused"
    assert caught.value.retryable


async def test_a_consumer_gone_after_the_start_means_unknown(node: Bus, caller: Bus) -> None:
    hands = Hands()
    consumer = await node.serve("q", hands)
    exchange = await caller.send("q", Message.command("a"))
    (await hands.next()).start()
    flushed = consumer.flush()
    if flushed is not None:
        await soon(flushed)
    await node.close()
    with pytest.raises(DeliveryError) as caught:
        await soon(exchange.answer)
    assert caught.value.outcome == "unknown"


async def test_every_exchange_of_a_dead_consumer_ends_and_none_of_another(
    node: Bus, caller: Bus, connect: Callable[[], Bus]
) -> None:
    hands = Hands()
    await node.serve("dying", hands)
    living = Hands()
    await connect().serve("living", living)
    doomed = [await caller.send("dying", Message.command("a")) for _ in range(50)]
    safe = await caller.send("living", Message.command("a"))
    await until(lambda: len(hands.deliveries) == 50)
    for delivery in hands.deliveries[:20]:
        delivery.start()
    await node.close()
    ends = await soon(asyncio.gather(*(each.answer for each in doomed), return_exceptions=True))
    outcomes = [end.outcome for end in ends if isinstance(end, DeliveryError)]
    assert outcomes == ["unknown"] * 20 + ["refused"] * 30
    delivery = await living.next()
    delivery.reply(Message.result_for(delivery.message, "here"))
    assert (await soon(safe.answer)).data["result"] == "here"


async def test_a_closed_consumer_refuses_the_new_and_answers_what_it_holds(node: Bus, caller: Bus) -> None:
    hands = Hands()
    consumer = await node.serve("q", hands)
    held = await caller.send("q", Message.command("a"))
    delivery = await hands.next()
    await consumer.close()
    assert not consumer.healthy
    with pytest.raises((BusUnavailableError, DeliveryError)) as caught:
        await soon((await caller.send("q", Message.command("b"))).answer)
    assert caught.value.outcome in ("not_sent", "refused")
    delivery.start()
    delivery.progress(Message.event("step"))
    delivery.reply(Message.result_for(delivery.message, "finished"))
    assert (await soon(held.answer)).data["result"] == "finished"


async def test_answers_said_just_before_the_bus_closes_arrive(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    exchanges = [await caller.send("q", Message.command("a")) for _ in range(20)]
    await until(lambda: len(hands.deliveries) == 20)
    for delivery in hands.deliveries:
        delivery.reply(Message.result_for(delivery.message, "x" * 50_000))
    closing = asyncio.create_task(node.close())
    answers = await soon(asyncio.gather(*(each.answer for each in exchanges)))
    await soon(closing)
    assert all(len(each.data["result"]) == 50_000 for each in answers)


async def test_a_command_taken_back_is_cancelled_at_the_consumer_once(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    started, waiting = [await caller.send("q", Message.command("a")) for _ in range(2)]
    first, second = await hands.next(), await hands.next()
    first.start()
    started.cancel()
    waiting.cancel()
    started.cancel()
    await until(lambda: len(hands.cancelled) == 2)
    assert hands.cancelled == [first, second]
    assert started.answer.cancelled()
    assert waiting.answer.cancelled()
    first.reply(Message.result_for(first.message, "too late"))  # dropped, not raised
    assert await ask_after(node, caller) == {}
    assert len(hands.cancelled) == 2


async def test_a_command_whose_wait_timed_out_can_still_be_taken_back(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    exchange = await caller.send("q", Message.command("a"))
    delivery = await hands.next()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(exchange.answer, 0.01)
    exchange.cancel()
    await until(lambda: hands.cancelled == [delivery])


async def test_cancelling_an_answered_exchange_does_nothing(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    exchange = await caller.send("q", Message.command("a"))
    delivery = await hands.next()
    delivery.reply(Message.result_for(delivery.message, 1))
    await soon(exchange.answer)
    exchange.cancel()
    assert exchange.answer.result().data["result"] == 1
    assert await ask_after(node, caller) == {}
    assert hands.cancelled == []


async def test_an_answer_to_a_caller_that_is_gone_is_dropped(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    exchange = await caller.send("q", Message.command("a"))
    delivery = await hands.next()
    await caller.close()
    with pytest.raises(DeliveryError, match="closed"):
        await soon(exchange.answer)
    delivery.start()
    delivery.progress(Message.event("step"))
    delivery.reply(Message.result_for(delivery.message, 1))
    assert hands.cancelled == []


async def test_the_sender_number_stands_for_the_client(
    node: Bus, caller: Bus, connect: Callable[[], Bus]
) -> None:
    hands = Hands()
    await node.serve("q", hands)
    other = connect()
    for bus in (caller, caller, other):
        await bus.send("q", Message.command("a"))
    await until(lambda: len(hands.deliveries) == 3)
    one, two, three = (each.sender for each in hands.deliveries)
    assert one == two != three


async def test_nothing_mutable_is_shared(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    params = {"list": [1]}
    await caller.send("q", Message.command("a", params))
    (await hands.next()).message.params["list"].append(2)
    assert params == {"list": [1]}


async def test_a_handler_that_raises_ends_nothing(
    node: Bus, caller: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    def fragile(delivery: Delivery) -> None:
        if delivery.message.params.get("bad"):
            raise RuntimeError("a bug of the consumer")
        echo(delivery)

    await node.serve("q", fragile)
    exchange = await caller.send("q", Message.command("a", {"bad": True}))
    with pytest.raises(DeliveryError) as caught:
        await soon(exchange.answer)
    assert caught.value.outcome == "refused"
    assert await ask(caller, "q", n=1) == {"n": 1}
    assert "a bug of the consumer" in caplog.text


# --- control ----------------------------------------------------------------------------------------------------


async def test_control_overtakes_the_commands_that_wait(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    for _ in range(50):
        await caller.send("q", Message.command("a"))
    exchange = await caller.send("q", Message.control("pause", {"why": "test"}))
    await until(lambda: any(each.message.kind is Kind.CONTROL for each in hands.deliveries))
    control = next(each for each in hands.deliveries if each.message.kind is Kind.CONTROL)
    assert control.message.signal == "pause"
    assert control.message.data["why"] == "test"
    control.reply(Message.result_for(control.message, {"paused": True}))
    assert (await soon(exchange.answer)).data["result"] == {"paused": True}


# --- order ------------------------------------------------------------------------------------------------------


async def test_messages_of_one_sender_arrive_in_the_order_of_sending(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    for n in range(2_000):
        await caller.send("q", Message.command("a", {"n": n, "pad": "x" * (n % 700)}))
    await until(lambda: len(hands.deliveries) == 2_000)
    assert [each.message.params["n"] for each in hands.deliveries] == list(range(2_000))


# --- publishing -------------------------------------------------------------------------------------------------


async def test_a_published_message_reaches_who_listens_one_copy_each(
    node: Bus, caller: Bus, connect: Callable[[], Bus]
) -> None:
    heard: list[tuple[str, str, str]] = []

    def ear(name: str) -> Callable[[str, Message], None]:
        return lambda key, message: heard.append((name, key, message.data["n"]))

    await node.subscribe(["evt.#", "evt.articles.*", "#"], ear("many"))
    await connect().subscribe(["evt.*.done"], ear("one"))
    await connect().subscribe(["ctl.#"], ear("none"))
    assert await caller.publish("evt.articles.done", Message.event("articles.done", {"n": "1"})) > 0
    assert await caller.publish("evt.articles.begun", Message.event("articles.begun", {"n": "2"})) > 0
    assert await caller.publish("other", Message.event("other", {"n": "3"})) > 0
    await until(lambda: len(heard) == 4)
    assert await ask_after(node, caller) == {}
    assert sorted(heard) == [
        ("many", "evt.articles.begun", "2"),
        ("many", "evt.articles.done", "1"),
        ("many", "other", "3"),
        ("one", "evt.articles.done", "1"),
    ]


async def test_publishing_to_nobody_is_no_error(caller: Bus) -> None:
    assert await caller.publish("evt.a.b", Message.event("a.b")) == 0


async def test_a_queue_gets_what_is_published_to_its_bindings(
    node: Bus, caller: Bus, connect: Callable[[], Bus]
) -> None:
    first, second, third = Hands(), Hands(), Hands()
    await node.serve("w1", first, bindings=["cmd.writer.#", "ctl.#"])
    await connect().serve("w2", second, bindings=["cmd.writer.#"])
    await connect().serve("e1", third, bindings=["cmd.editor.#"])
    assert await caller.publish("cmd.writer", Message.command("a", {"n": 1})) > 0
    for hands in (first, second):
        delivery = await hands.next()
        assert delivery.message.params == {"n": 1}
        delivery.start()
        delivery.reply(Message.result_for(delivery.message, None))  # nobody waits for it: dropped
    assert third.deliveries == []


async def test_published_control_can_be_answered_by_everyone(
    node: Bus, caller: Bus, connect: Callable[[], Bus]
) -> None:
    replies: list[str] = []
    for name, bus in (("a", node), ("b", connect()), ("c", connect())):

        def answer(delivery: Delivery, name: str = name) -> None:
            delivery.reply(Message.result_for(delivery.message, name))

        await bus.serve(name, answer, bindings=["ctl.all.#"])
    control = Message.control("ping")
    handed = await caller.publish(
        "ctl.all.default", control, on_reply=lambda message: replies.append(message.data["result"])
    )
    assert handed > 0
    await until(lambda: len(replies) == 3)
    assert sorted(replies) == ["a", "b", "c"]


async def test_who_has_stopped_listening_hears_nothing(node: Bus, caller: Bus) -> None:
    heard: list[str] = []
    subscription = await node.subscribe(["#"], lambda key, _: heard.append(key))
    await caller.publish("one", Message.event("one"))
    await until(lambda: heard == ["one"])
    await subscription.close()
    assert await caller.publish("two", Message.event("two")) == 0
    assert await ask_after(node, caller) == {}
    assert heard == ["one"]


async def test_published_messages_of_one_sender_come_in_order(node: Bus, caller: Bus) -> None:
    heard: list[int] = []
    await node.subscribe(["n.#"], lambda _, message: heard.append(message.data["n"]))
    for n in range(1_000):
        await caller.publish(f"n.{n % 7}", Message.event("n", {"n": n}))
    await until(lambda: len(heard) == 1_000)
    assert heard == list(range(1_000))


async def test_a_slow_subscriber_loses_the_oldest_and_is_told_and_nobody_else_does(
    url: str, caller: Bus, node: Bus, elsewhere: Elsewhere
) -> None:
    slow: list[int] = []
    awake = threading.Event()
    quick: list[int] = []
    published = 14_000

    def dozing(_: str, message: Message) -> None:
        awake.wait(120)
        slow.append(message.data["n"])

    async def listen() -> tuple[Bus, Callable[[], int]]:
        bus = open_bus(url)
        subscription = await bus.subscribe(["n"], dozing)
        return bus, lambda: subscription.dropped

    there, dropped = await elsewhere.run(listen())
    try:
        await node.subscribe(["n"], lambda _, message: quick.append(message.data["n"]))

        async def publish(n: int) -> None:
            await caller.publish("n", Message.event("n", {"n": n, "pad": "x" * 1_000}))

        await publish(0)  # alone: who publishes for the first time may have to wait, and others pass by
        for first in range(1, published, 50):
            batch = range(first, min(first + 50, published))
            # At once: one broker's confirm after the other would take most of the time of this test.
            await asyncio.gather(*map(publish, batch))
            await until(lambda end=batch.stop: len(quick) >= end)  # type: ignore[misc] # a default binds the loop's value
        awake.set()
        await until(lambda: bool(slow) and slow[-1] == published - 1, 60)
        await until(lambda: len(slow) + dropped() == published)
        assert dropped() > 0
        assert slow == sorted(slow)
        assert quick == list(range(published))
    finally:
        awake.set()
        await elsewhere.run(there.close())


@pytest.mark.parametrize("key", ["x" * 256, "\ud800"], ids=ascii)
async def test_what_is_no_routing_key_is_refused(caller: Bus, key: str) -> None:
    with pytest.raises(MessageError, match="routing key"):
        await caller.publish(key, Message.event("a"))
    with pytest.raises(MessageError, match="pattern"):
        await caller.subscribe([key], lambda key, message: None)


# --- limits -----------------------------------------------------------------------------------------------------


async def test_a_message_at_the_limit_passes_and_one_above_is_refused_before_it_is_sent(
    node: Bus, caller: Bus
) -> None:
    hands = Hands()
    await node.serve("q", hands)
    command = Message.command("a", {"pad": ""})
    room = MAX_MESSAGE_BYTES - len(command.to_bytes())
    command.data["params"]["pad"] = "x" * room
    exchange = await soon(caller.send("q", command))
    delivery = await hands.next()
    assert len(delivery.message.params["pad"]) == room
    command.data["params"]["pad"] += "x"
    with pytest.raises(MessageError, match=f"{MAX_MESSAGE_BYTES + 1} bytes, the limit is") as caught:
        await caller.send("q", command)
    assert caught.value.outcome == "not_sent"
    with pytest.raises(MessageError, match="the limit is"):
        await caller.publish("evt.a.b", command)
    with pytest.raises(MessageError, match="the limit is") as caught:
        delivery.reply(Message.result_for(delivery.message, "x" * MAX_MESSAGE_BYTES))
    assert not exchange.answer.done()
    delivery.reply(Message.error_for(delivery.message, caught.value))
    assert isinstance(error_from(await soon(exchange.answer)), MessageError)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), object(), "\ud800", {1, 2}, b"x", 10**5000],
    ids=lambda value: type(value).__name__,
)
async def test_what_json_cannot_say_is_refused_before_it_is_sent(
    node: Bus, caller: Bus, value: object
) -> None:
    hands = Hands()
    await node.serve("q", hands)
    with pytest.raises(MessageError):
        await caller.send("q", Message.command("a", {"value": value}))
    exchange = await caller.send("q", Message.command("a"))
    delivery = await hands.next()
    with pytest.raises(MessageError):
        delivery.reply(Message.result_for(delivery.message, value))
    delivery.reply(Message.result_for(delivery.message, "still open"))
    assert (await soon(exchange.answer)).data["result"] == "still open"


async def test_each_kind_of_message_has_its_place(node: Bus, caller: Bus) -> None:
    hands = Hands()
    await node.serve("q", hands)
    with pytest.raises(MessageError, match="belongs"):
        await caller.send("q", Message.event("a"))
    await caller.send("q", Message.command("a"))
    delivery = await hands.next()
    with pytest.raises(MessageError, match="belongs"):
        delivery.reply(Message.event("a"))
    with pytest.raises(MessageError, match="belongs"):
        delivery.progress(Message.result_for(delivery.message, 1))


# --- the client -------------------------------------------------------------------------------------------------


async def test_a_closed_bus_refuses_and_can_be_closed_twice(node: Bus, caller: Bus) -> None:
    await node.serve("q", echo)
    await caller.close()
    await caller.close()
    with pytest.raises(BusUnavailableError, match="closed"):
        await caller.send("q", Message.command("a"))
    with pytest.raises(BusUnavailableError, match="closed"):
        await caller.serve("r", echo)


async def test_a_bus_belongs_to_the_loop_that_opened_it(caller: Bus, elsewhere: Elsewhere) -> None:
    await caller.publish("a", Message.event("a"))

    async def use() -> None:
        await caller.publish("a", Message.event("a"))

    with pytest.raises(BusUnavailableError, match="another event loop"):
        await elsewhere.run(use())


async def test_a_consumer_on_another_thread_is_reached(url: str, caller: Bus, elsewhere: Elsewhere) -> None:
    async def serve() -> Bus:
        bus = open_bus(url)
        await bus.serve("q", echo)
        return bus

    there = await elsewhere.run(serve())
    try:
        results = await asyncio.gather(*(ask(caller, "q", n=n) for n in range(100)))
        assert results == [{"n": n} for n in range(100)]
        exchange = await caller.send("q", Message.control("ping"))
        await soon(exchange.answer)
    finally:
        await elsewhere.run(there.close())
    with pytest.raises((BusUnavailableError, DeliveryError)):
        await ask(caller, "q", n=1)


async def test_the_url_shows_where_the_bus_is(url: str, caller: Bus) -> None:
    assert caller.url.partition("://")[0] == url.partition("://")[0]
    assert "@" not in caller.url


# --- barriers and dead letters ---


async def test_a_barrier_is_passed_after_everything_its_sender_had_said(node: Bus, caller: Bus) -> None:
    held: list[Delivery] = []
    cancelled: list[str] = []

    def hold(delivery: Delivery) -> None:
        held.append(delivery)
        delivery.on_cancel = lambda: cancelled.append(delivery.message.id)

    consumer = await node.serve("q", hold)
    exchanges = [await caller.send("q", Message.command("work")) for _ in range(3)]
    await until(lambda: len(held) == 3)
    exchanges[1].cancel()
    seen: list[tuple[int, list[str]]] = []
    asked = consumer.barrier(lambda sender: seen.append((sender, list(cancelled))))
    assert asked == {held[0].sender}
    await until(lambda: len(seen) == 1)
    assert seen == [(held[0].sender, [held[1].message.id])]


async def test_a_barrier_is_passed_by_a_sender_that_goes_away(node: Bus, connect: Callable[[], Bus]) -> None:
    held: list[Delivery] = []
    consumer = await node.serve("q", held.append)
    gone = connect()
    await gone.send("q", Message.command("work"))
    await until(lambda: len(held) == 1)
    passed: list[int] = []
    asked = consumer.barrier(passed.append)
    await gone.close()
    await until(lambda: passed == sorted(asked))


async def test_a_dead_letter_is_kept_whole_with_its_reason(caller: Bus) -> None:
    first, second = Message.command("письмо", {"n": 1}, priority=3), Message.command("work", {"n": 2})
    await caller.bury(first, "it killed three nodes: [31m")
    await caller.bury(second, "and so did this one")
    letters = await caller.dead_letters()
    assert [(letter.message, letter.reason) for letter in letters] == [
        (first, "it killed three nodes: [31m"),
        (second, "and so did this one"),
    ]
    assert all(letter.buried_at.endswith("Z") for letter in letters)


async def test_dead_letters_are_dropped_by_choice_and_the_others_keep_their_places(
    caller: Bus, connect: Callable[[], Bus]
) -> None:
    assert list(await caller.corpses()) == []
    assert list(await caller.drop_dead(lambda _: True)) == []
    messages = [Message.command("work", {"n": n}) for n in range(4)]
    for message in messages:
        await caller.bury(message, f"reason {message.params['n']}")
    found = await caller.corpses()
    assert [(one.id, one.message, one.reason) for one in found] == [
        (message.id, message, f"reason {n}") for n, message in enumerate(messages)
    ]
    assert [Message.from_bytes(one.body) for one in found] == messages
    assert all(one.buried_at.endswith("Z") for one in found)
    other = connect()
    assert list(await other.drop_dead(lambda _: False)) == []
    dropped = await other.drop_dead(lambda one: one.message is not None and one.message.params["n"] in (1, 3))
    assert [one.id for one in dropped] == [messages[1].id, messages[3].id]
    assert [one.id for one in await caller.corpses()] == [messages[0].id, messages[2].id]
    assert [letter.message for letter in await caller.dead_letters()] == [messages[0], messages[2]]
    assert len(await caller.drop_dead(lambda _: True)) == 2
    assert list(await other.corpses()) == []


async def test_a_dead_letter_in_hand_is_nobody_elses_until_it_is_let_go(
    caller: Bus, connect: Callable[[], Bus]
) -> None:
    messages = [Message.command("work", {"n": n}) for n in range(4)]
    messages[3].id = messages[1].id
    for message in messages:
        await caller.bury(message, "why")
    other = connect()
    async with caller.hold_dead(messages[3].id) as held:
        assert held is not None
        assert held.letter.message == messages[3], "the newest of its id"
        async with other.hold_dead(messages[2].id) as another:
            assert another is not None
        assert messages[2] in [one.message for one in await other.corpses()]

    async def fail() -> None:
        async with caller.hold_dead(messages[0].id) as held, other.hold_dead(messages[0].id) as another:
            assert held is not None
            assert another is None
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await fail()
    assert [one.message for one in await other.corpses()] == messages
    async with other.hold_dead(messages[0].id) as held:
        assert held is not None
        await held.drop()
    assert [one.message for one in await caller.corpses()] == messages[1:]
    async with caller.hold_dead(messages[0].id) as held:
        assert held is None
