"""What programs that know nothing of Roster do to a queue, and others do to what is at the broker."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.bus.amqp.conftest import TIMEOUT, Open, die
from tests.bus.helpers import ask, echo, until

from roster import Node, Orchestrator, Registry
from roster.bus import Delivery, Message
from roster.bus.amqp import AmqpBus, names
from roster.bus.amqp.channel import Channel, Delivered
from roster.bus.amqp.envelope import Properties
from roster.bus.amqp.publishing import published
from roster.bus.amqp.strikes import MAX_STRIKES
from roster.errors import BusUnavailableError, CallTimeoutError, Code, DeliveryError, RemoteError


async def send(channel: Channel, body: bytes, queue: str = "q", **properties: Any) -> None:
    """Send a message as another program would: without confirms our client does not give it an id."""
    bare = await channel.connection.channel(TIMEOUT)
    bare.publish("", queue, Properties(**properties), body)
    await bare.close(TIMEOUT)


def command(**params: Any) -> bytes:
    return Message.command("work", params).to_bytes()


def passport(**about: Any) -> dict[str, Any]:
    """Return a node's passport; keywords are said of its capability."""
    return {
        "apiVersion": "ai-team.dev/v1",
        "kind": "NodePassport",
        "metadata": {"name": "worker"},
        "spec": {
            "type": "agent",
            "version": "1.0.0",
            "capabilities": [{"name": "work", "input_schema": {"n": "integer?"}, **about}],
            "communication": {"mindbus_queue": "q"},
            "resources": {"max_concurrent_tasks": 2},
        },
    }


class Worker:
    """A consumer whose work goes on until it is told to end."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.held: list[Delivery] = []

    def __call__(self, delivery: Delivery) -> None:
        self.begun[delivery.message.params["name"]] += 1
        self.held.append(delivery)
        delivery.start()

    def finish(self) -> None:
        for delivery in self.held:
            delivery.reply(Message.result_for(delivery.message, delivery.message.params["name"]))


@pytest.mark.parametrize(
    "about", [{}, {"correlation_id": "same"}, {"message_id": "same"}], ids=["none", "correlation", "message"]
)
@pytest.mark.parametrize("waits", [True, False], ids=["with reply_to", "without"])
async def test_long_work_of_others_is_renewed_and_runs_once_whatever_ids_it_has(
    connect: Callable[..., AmqpBus], foreign: Open, about: dict[str, str], waits: bool
) -> None:
    node, worker = connect(renew=0.1), Worker()
    consumer = await node.serve("q", worker, prefetch=10)
    channel = await foreign()
    answers, *_ = await channel.declare_queue("", TIMEOUT, exclusive=True)
    heard: list[Delivered] = []
    await channel.consume(answers, heard.append, TIMEOUT, no_ack=True)
    bodies = [command(name="a"), command(name="b")]
    for body in [*bodies, bodies[0]]:  # the third is the first once more
        await send(channel, body, reply_to=answers if waits else "", **about)
    await until(lambda: len(worker.held) == 3)
    renewed: Counter[int] = Counter()

    def seen() -> bool:
        for delivery in consumer._in_hand.values():
            renewed[id(delivery)] += delivery.renewing
        return len(renewed) == 3 and all(count >= 3 for count in renewed.values())

    await until(seen)
    worker.finish()
    await until(lambda: not consumer._in_hand)
    assert worker.begun == {"a": 2, "b": 1}
    if waits:
        await until(lambda: len(heard) == 3)
        results = sorted(Message.from_bytes(one.body or b"").data["result"] for one in heard)
        assert results == ["a", "a", "b"]
    assert not consumer._by_key
    await node.close()
    assert await (await foreign()).get("q", TIMEOUT) is None


async def test_messages_that_cannot_even_be_buried_leave_the_consumer_its_room(
    node: AmqpBus, caller: AmqpBus, foreign: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.bus.amqp.engine._BURY_PAUSE", 0.0)
    channel = await foreign()
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await channel.declare_queue(names.DEAD, TIMEOUT, durable=True, arguments=full)
    await send(channel, b"the only one that has room", names.DEAD)
    await node.serve("q", echo, prefetch=3)
    for number in range(10):
        await send(channel, b"no message %d" % number)
    await until(lambda: node.malformed == 10)
    async with asyncio.timeout(20):
        while True:
            try:
                assert await ask(caller, "q", n=1) == {"n": 1}
                break
            except DeliveryError:
                await asyncio.sleep(0.02)  # there is no room for it yet
    assert (await channel.declare_queue("q", TIMEOUT, passive=True))[1] == 0


async def test_a_command_that_nobody_waits_for_is_left_to_its_queue_when_the_node_takes_none(
    node: AmqpBus, foreign: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.bus.amqp.delivery._KEEP", 0.05)
    paused, ran, refused = True, [], []

    def serve(delivery: Delivery) -> None:
        if paused:
            refused.append(delivery.message.id)
            error = DeliveryError("is paused", code=Code.UNAVAILABLE, outcome="refused", retryable=True)
            delivery.reply(Message.error_for(delivery.message, error))
        else:
            ran.append(delivery.message.params["n"])
            echo(delivery)

    consumer = await node.serve("q", serve, prefetch=3)
    channel = await foreign()
    for n in range(10):
        await send(channel, command(n=n))
    await until(lambda: len(refused) >= 20)
    paused = False
    await until(lambda: len(ran) == 10)
    assert sorted(ran) == list(range(10))
    assert not consumer._in_hand
    assert await node.corpses() == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RemoteError("no such capability", code=Code.UNIMPLEMENTED, outcome="refused"), "refused: no such"),
        (DeliveryError("its node has stopped", code=Code.UNAVAILABLE, outcome="unknown"), "cut short: its"),
    ],
)
async def test_a_command_that_nobody_waits_for_and_nobody_does_is_a_dead_letter(
    node: AmqpBus, foreign: Open, error: RemoteError, reason: str
) -> None:
    await node.serve("q", lambda delivery: delivery.reply(Message.error_for(delivery.message, error)))
    channel = await foreign()
    await send(channel, command(n=1))
    await until_buried(node, 1)
    (corpse,) = await node.corpses()
    assert corpse.reason.startswith(f"sent to 'q', {reason}")
    assert corpse.message is not None
    assert corpse.message.params == {"n": 1}
    await node.close()
    assert await channel.get("q", TIMEOUT) is None


async def until_buried(bus: AmqpBus, count: int) -> None:
    async with asyncio.timeout(20):
        while len(await bus.corpses()) < count:
            await asyncio.sleep(0.02)


async def test_what_waits_in_its_queue_for_a_node_is_done_when_the_node_is_there(
    url: str, foreign: Open
) -> None:
    channel = await foreign()
    await channel.declare_queue("q", TIMEOUT, durable=True, arguments=names.QUEUE_ARGUMENTS)
    for n in range(20):
        await send(channel, command(n=n))
    node, done = Node(passport(), registry_url="memory://late", bus_url=url), []

    @node.capability("work")
    async def work(n: int = -1) -> None:
        done.append(n)

    async with node:
        await until(lambda: len(done) >= 20)
    assert sorted(done) == list(range(20))
    assert await channel.get("q", TIMEOUT) is None


async def test_a_command_whose_caller_is_gone_is_not_passed_round_while_it_cannot_be_buried(
    connect: Callable[..., AmqpBus], foreign: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.bus.amqp.returns._AGAIN", 3600.0)
    node, caller = connect(), connect()
    consumer = await node.serve("q", echo)
    assert await ask(caller, "q", n=1) == {"n": 1}  # from now on it stands by
    channel = await foreign()
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await channel.declare_queue(names.DEAD, TIMEOUT, durable=True, arguments=full)
    await send(channel, b"the only one that has room", names.DEAD)
    tried = Counter[str]()
    bury = caller._bury

    async def counted(*about: Any, **more: Any) -> None:
        tried["times"] += 1
        await bury(*about, **more)

    monkeypatch.setattr(caller, "_bury", counted)
    await consumer.close()
    await send(channel, command(n=2), reply_to="nowhere")
    await until(lambda: tried["times"] >= 1)
    for _ in range(20):  # were it given back at once, it would be here again by now
        await channel.declare_queue("q", TIMEOUT, passive=True)
    assert tried["times"] == 1


@pytest.mark.parametrize("how", ["the exchange is deleted", "a queue is unbound"])
async def test_what_is_published_is_heard_again_when_somebody_has_cut_it_off(
    node: AmqpBus, caller: AmqpBus, foreign: Open, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("roster.bus.amqp.bindings._LOOK", 0.1)
    heard: Counter[str] = Counter()

    def serve(delivery: Delivery) -> None:
        heard[delivery.message.subject] += 1
        if delivery.message.params.get("name") == "held":
            delivery.start()
            consumer.flush()
        else:
            delivery.reply(Message.result_for(delivery.message, {}))

    consumer = await node.serve("q", serve, bindings=["cmd.writer.#", "ctl.writer.team.#"])
    await node.subscribe(["evt.#"], lambda key, message: heard.update([key]))
    out = await caller.send("q", Message.command("work", {"name": "held"}))
    await until(lambda: out.started is True)
    published_ = {
        "cmd.writer.now": Message.command("asked"),
        "ctl.writer.team": Message.control("told"),
        "evt.a.b": Message.event("a.b"),
    }
    for key, message in published_.items():
        assert await caller.publish(key, message) == 1
    wanted = {"work": 1, "asked": 1, "told": 1, "evt.a.b": 1}
    await until(lambda: heard == wanted)
    channel = await foreign()
    if how == "the exchange is deleted":
        await channel._inner.exchange_delete(names.MAIN)
    else:
        await channel.unbind("q", names.MAIN, "cmd.writer.#", TIMEOUT)
    async with asyncio.timeout(20):
        for key, message in published_.items():
            while not await caller.publish(key, message):
                await asyncio.sleep(0.02)
    await until(lambda: heard == {"work": 1, "asked": 2, "told": 2, "evt.a.b": 2})
    assert not out.answer.done(), "what was out is as it was"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"\xff\x00", "what is no message: the message is not UTF-8"),
        (Message.command("work").to_bytes(), "a message of type ai.team.command"),
        (Message.control("stop").to_bytes(), "a message of type ai.team.control"),
    ],
    ids=["garbage", "a command", "control"],
)
async def test_an_agent_of_others_that_answers_with_no_answer_is_not_given_the_same_work_again(
    url: str, foreign: Open, answer: bytes, says: str
) -> None:
    channel, got = await foreign(), list[Delivered]()

    def serve(delivered: Delivered) -> None:
        got.append(delivered)
        channel.ack(delivered.tag)
        about = Properties(correlation_id=delivered.properties.correlation_id)
        channel.publish("", delivered.properties.reply_to, about, answer)

    await channel.declare_queue("q", TIMEOUT)
    await channel.consume("q", serve, TIMEOUT)
    async with (
        Registry.connect("memory://theirs") as registry,
        await registry.register(passport()),
        Orchestrator.connect("memory://theirs", url) as orchestrator,
    ):
        with pytest.raises(RemoteError, match=re.escape(says)) as caught:
            await orchestrator.call("work", {}, timeout=60)
    assert (caught.value.code, caught.value.outcome) == (Code.DATA_LOSS, "unknown")
    assert len(got) == 1


async def test_that_nobody_says_a_word_does_not_tell_that_the_work_has_not_begun(
    url: str, foreign: Open
) -> None:
    """A broker that is short of memory holds back what a node says when it begins."""
    channel, got = await foreign(), list[Delivered]()
    await channel.declare_queue("q", TIMEOUT)
    await channel.consume("q", got.append, TIMEOUT)
    async with (
        Registry.connect("memory://silent") as registry,
        await registry.register(passport()),
        Orchestrator.connect("memory://silent", url) as orchestrator,
    ):
        with pytest.raises(CallTimeoutError) as caught:
            await orchestrator.call("work", {}, timeout=0.5)
    assert caught.value.outcome == "unknown"
    assert len(got) == 1


async def test_nor_does_it_when_the_lease_of_the_silent_node_ends(url: str, foreign: Open) -> None:
    """What it said may never have come to the broker: work that must not be done twice is not sent to another."""
    channel, got = await foreign(), list[Delivered]()
    await channel.declare_queue("q", TIMEOUT)
    await channel.consume("q", got.append, TIMEOUT)
    async with (
        Registry.connect("memory://gone") as registry,
        Orchestrator.connect("memory://gone", url) as orchestrator,
    ):
        registration = await registry.register(passport(idempotent=False))
        call = asyncio.create_task(orchestrator.call("work", {}, timeout=20))
        await until(lambda: len(got) == 1)
        await registration.deregister()
        with pytest.raises(DeliveryError, match="may have begun") as caught:
            await call
    assert caught.value.outcome == "unknown"


async def test_a_stream_is_no_queue_for_commands(node: AmqpBus, foreign: Open) -> None:
    channel = await foreign()
    await channel.declare_queue("q", TIMEOUT, durable=True, arguments={"x-queue-type": "stream"})
    with pytest.raises(BusUnavailableError, match="has made a stream of it") as caught:
        await node.serve("q", echo)
    assert not caught.value.retryable


@pytest.mark.parametrize("once", [False, True], ids=["may begin again", "must not"])
@pytest.mark.parametrize("waits", [True, False], ids=["with reply_to", "without"])
async def test_a_command_of_others_that_kills_its_node_again_and_again_is_given_up(
    connect: Callable[..., AmqpBus],
    foreign: Open,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    waits: bool,
    once: bool,
) -> None:
    most = 1 if once else 3
    monkeypatch.setenv("ROSTER_STATE_DIR", str(tmp_path))
    channel, heard, begun = await foreign(), list[Delivered](), Counter[str]()
    answers, *_ = await channel.declare_queue("", TIMEOUT, exclusive=True)
    await channel.consume(answers, heard.append, TIMEOUT, no_ack=True)
    await channel.declare_queue("q", TIMEOUT, durable=True, arguments=names.QUEUE_ARGUMENTS)
    await send(channel, command(name="deadly"), reply_to=answers if waits else "")
    for times in range(1, most + 1):
        bus = connect()

        def serve(delivery: Delivery) -> None:
            begun[delivery.message.params["name"]] += 1
            delivery.start(once=once)

        await serve_when_free(bus, serve)
        await until(lambda times=times: begun["deadly"] == times)  # type: ignore[misc]  # a default binds it
        die(bus)
    bus = connect()
    await serve_when_free(bus, echo)
    await until_buried(bus, 1)
    (corpse,) = await bus.corpses()
    assert "has begun before, and its node was gone" in corpse.reason
    assert begun["deadly"] == most
    if waits:
        await until(lambda: len(heard) == 1)
        error = Message.from_bytes(heard[0].body or b"").data
        assert (error["code"], error["outcome"], error["retryable"]) == ("ABORTED", "unknown", False)
    # The same once more is another command.
    await send(channel, command(name="deadly"))
    await until(lambda: not bus._consumers["q"]._in_hand)
    assert not [path for path in (tmp_path / "begun").rglob("*") if path.is_file()]


async def serve_when_free(bus: AmqpBus, handler: Callable[[Delivery], None]) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await bus.serve("q", handler)
                return
            except BusUnavailableError:
                await asyncio.sleep(0.02)  # the one who died still has it


async def test_a_command_of_others_that_ends_is_on_no_record(
    node: AmqpBus, foreign: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROSTER_STATE_DIR", str(tmp_path))
    channel, held = await foreign(), list[Delivery]()
    await node.serve("q", held.append)
    await send(channel, command(n=1))
    await until(lambda: len(held) == 1)
    assert node.serving.current is not None
    node.serving.current.abort("the test has cut it")
    await until(lambda: len(held) == 2)  # given out again
    held[1].start()
    (record,) = [path for path in (tmp_path / "begun").rglob("*") if path.is_file()]
    assert record.stat().st_size == 1
    echo(held[1])
    assert not record.exists()


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_node_says_what_must_not_begin_twice(
    url: str, foreign: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, idempotent: bool
) -> None:
    monkeypatch.setenv("ROSTER_STATE_DIR", str(tmp_path))
    node = Node(passport(idempotent=idempotent), registry_url="memory://once", bus_url=url)
    records: list[list[int]] = []

    @node.capability("work")
    async def work(n: int = 0) -> None:
        records.append([path.stat().st_size for path in (tmp_path / "begun").rglob("*") if path.is_file()])

    async with node:
        await send(await foreign(), command())
        await until(lambda: len(records) == 1)
    assert records == [[] if idempotent else [MAX_STRIKES]]


async def test_of_dead_letters_with_ids_of_others_the_one_that_was_sent_again_goes(
    url: str, caller: AmqpBus, foreign: Open
) -> None:
    mine, theirs = Message.command("work", {"n": 1}), Message.command("work", {"n": 2})
    await caller.bury(mine, "why")
    theirs.id = mine.id  # another program's events may have any; its envelope has one as well
    await send(await foreign(), theirs.to_bytes(), names.DEAD, message_id="envelope")
    node, done = Node(passport(), registry_url="memory://letters", bus_url=url), []

    @node.capability("work")
    async def work(n: int = 0) -> int:
        done.append(n)
        return n

    async with node, Orchestrator.connect("memory://letters", url) as orchestrator:
        assert (await orchestrator.retry("envelope", timeout=20)).result == 2
    assert done == [2]
    assert [corpse.id for corpse in await caller.corpses()] == [mine.id]


@pytest.mark.parametrize(
    ("reason", "read"),
    [
        ("[" * 100_000, "[" * 1000),
        ("as another program writes it", "as another program writes it"),
        ('{"not": "text"}', '{"not": "text"}'),
        ("9" * 5000, "9" * 1000),
        ({"a": 1}, "{'a': 1}"),
        ('"' + "r" * 5000 + '"', "r" * 1000),
    ],
    ids=["deep", "plain", "object", "digits", "table", "long"],
)
async def test_a_dead_letter_of_others_may_say_anything_about_itself(
    caller: AmqpBus, foreign: Open, reason: Any, read: str
) -> None:
    await caller.bury(Message.command("work", {}), "why")
    await send(await foreign(), b"rubbish", names.DEAD, message_id="theirs", headers={"reason": reason})
    assert [corpse.reason for corpse in await caller.corpses()] == ["why", read]


async def test_what_was_published_and_is_too_large_is_told_as_that(
    node: AmqpBus, foreign: Open, caplog: pytest.LogCaptureFixture
) -> None:
    await node.subscribe(["evt.#"], lambda key, message: None)
    channel = await foreign()
    body = b"x" * (17 * 1024 * 1024)
    assert await published(channel, names.MAIN, "evt.a", Properties(), body, 20) == "taken"
    await until(lambda: node.malformed == 1)
    assert "the message is over the limit of 1048576 bytes" in caplog.text


async def test_errors_name_the_action_of_commands_that_have_no_subject(
    url: str, foreign: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROSTER_STATE_DIR", str(tmp_path))
    node = Node(passport(), registry_url="memory://nameless", bus_url=url)

    @node.capability("work")
    async def work(n: int = 0) -> int:
        return n

    channel, heard = await foreign(), list[Delivered]()
    answers, *_ = await channel.declare_queue("", TIMEOUT, exclusive=True)
    await channel.consume(answers, heard.append, TIMEOUT, no_ack=True)
    async with node:
        for n in (1, 2):
            keyed = Message.command("work", {"n": n}, key="k")
            keyed.subject = ""
            await send(channel, keyed.to_bytes(), reply_to=answers)
            await until(lambda n=n: len(heard) == n)  # type: ignore[misc]  # a default binds it
    assert "other params for work: repeat" in Message.from_bytes(heard[1].body or b"").data["message"]
