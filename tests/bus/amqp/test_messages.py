"""What goes over the wire: for other programs to read, and what is done with what other programs write."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq_event
from cloudevents.core.formats.json import JSONFormat
from tests.bus.amqp.conftest import TIMEOUT, Open, die
from tests.bus.helpers import Child, ask, echo, soon, until

from roster.bus import MAX_MESSAGE_BYTES, Delivery, Kind, Message
from roster.bus.amqp import AmqpBus, names
from roster.bus.amqp.channel import Channel, Delivered
from roster.bus.amqp.envelope import Properties
from roster.bus.amqp.publishing import published
from roster.errors import CallTimeoutError, Code


async def put(channel: Channel, queue: str, message: Message, **properties: object) -> None:
    """Send a message to a queue as another program would."""
    envelope = Properties(message_id=message.id, **properties)  # type: ignore[arg-type]  # a test's own shorthand
    assert await published(channel, "", queue, envelope, message.to_bytes(), TIMEOUT) == "taken"


async def test_another_program_reads_our_commands_as_cloudevents_and_answers_them(
    caller: AmqpBus, foreign: Open
) -> None:
    channel = await foreign()
    await channel.declare_queue("theirs", TIMEOUT)
    got: list[Delivered] = []

    def serve(delivered: Delivered) -> None:
        got.append(delivered)
        command = Message.from_bytes(delivered.body or b"")
        answer = Message.result_for(command, {"by": "hand"})
        # No more than what any client of RabbitMQ does in a request and its reply.
        properties = Properties(correlation_id=delivered.properties.correlation_id)
        channel.publish("", delivered.properties.reply_to, properties, answer.to_bytes())
        channel.ack(delivered.tag)

    await channel.consume("theirs", serve, TIMEOUT)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    command = Message.command(
        "write", {"topic": "bees"}, source="/a/b", timeout=20, priority=7, traceparent=trace
    )
    exchange = await caller.send("theirs", command)
    assert (await soon(exchange.answer)).data["result"] == {"by": "hand"}
    (delivered,) = got
    properties = delivered.properties
    event = from_rabbitmq_event(
        RabbitMQMessage({}, properties.content_type, delivered.body or b""), JSONFormat()
    )
    assert (event.get_type(), event.get_source(), event.get_id()) == (
        "ai.team.command",
        "/a/b",
        command.id,
    )
    assert event.get_extension("traceparent") == trace
    data = event.get_data()
    assert isinstance(data, dict)
    assert data["params"] == {"topic": "bees"}
    assert (properties.priority, properties.expiration) == (7, "20000")
    assert properties.reply_to.startswith("amq.rabbitmq.reply-to.")
    assert (properties.message_id, properties.type, properties.app_id) == (command.id, Kind.COMMAND, "roster")


async def test_another_program_commands_our_nodes_and_reads_the_answer(node: AmqpBus, foreign: Open) -> None:
    await node.serve("q", echo)
    channel = await foreign()
    replies, *_ = await channel.declare_queue("", TIMEOUT, exclusive=True)
    got: list[Delivered] = []
    await channel.consume(replies, got.append, TIMEOUT, no_ack=True)
    await put(channel, "q", Message.command("write", {"n": 1}), correlation_id="mine", reply_to=replies)
    await until(lambda: any(one.properties.type == Kind.RESULT for one in got))
    answer = next(one for one in got if one.properties.type == Kind.RESULT)
    assert answer.properties.correlation_id == "mine"
    assert Message.from_bytes(answer.body or b"").data["result"] == {"n": 1}


async def test_the_envelope_is_the_truth_for_priority_and_expiry(node: AmqpBus, foreign: Open) -> None:
    held: list[Delivery] = []
    await node.serve("q", held.append)
    channel = await foreign()
    message = Message.command("write", priority=2, timeout=5)
    await put(channel, "q", message, priority=8, expiration="30000")
    await until(lambda: len(held) == 1)
    assert (held[0].message.priority, held[0].message.timeout) == (8, 30.0)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "JSON"),
        (b"\x00\xff{", "UTF-8"),
        (b"[" * 100_000, "deeper"),
        (b'{"specversion":"1.0"}', ""),
        (b'{"a":' + b"9" * 5000 + b"}", ""),
        (b'{"specversion":"1.0","type":"ai.team.command","id":"x","source":"/x","data":[]}', "data"),
        (b"x" * (MAX_MESSAGE_BYTES + 1), "limit"),
        (b"x" * (17 * 1024 * 1024), "limit"),
    ],
    ids=["nothing", "binary", "deep", "bare", "digits", "no-data", "large", "huge"],
)
async def test_what_is_no_message_is_buried_with_the_reason_and_harms_nobody(
    node: AmqpBus, caller: AmqpBus, foreign: Open, body: bytes, why: str
) -> None:
    await node.serve("q", echo)
    channel = await foreign()
    envelope = Properties(message_id="bad", content_type="application/json")
    assert await published(channel, "", "q", envelope, body, 20) == "taken"
    assert await ask(caller, "q", n=1) == {"n": 1}

    async with asyncio.timeout(20):
        while not (corpses := await caller.corpses()):
            await asyncio.sleep(0.02)
    assert [(corpse.id, corpse.queue, corpse.message) for corpse in corpses] == [("bad", "q", None)]
    assert corpses[0].reason.startswith("malformed, sent to 'q': ")
    assert why.lower() in corpses[0].reason.lower()
    assert corpses[0].body == (body if len(body) < 16 * 1024 * 1024 else b"")
    assert node.malformed == 1
    assert await caller.dead_letters() == [], "it is no command"
    channel = await foreign()
    assert await channel.get("q", TIMEOUT) is None, "it does not come again"


async def test_what_is_no_message_is_dropped_from_a_control_queue_and_the_log_says_so(
    node: AmqpBus, caller: AmqpBus, foreign: Open, caplog: pytest.LogCaptureFixture
) -> None:
    await node.serve("q", echo)
    channel = await foreign()
    assert (
        await published(channel, "", names.control_queue("q"), Properties(), b"rubbish", TIMEOUT) == "taken"
    )
    await until(lambda: node.malformed == 1)
    assert "dropped a malformed message to 'q'" in caplog.text
    assert await ask(caller, "q", n=1) == {"n": 1}
    assert await caller.corpses() == []


async def test_dead_letters_are_dropped_one_by_one_and_the_others_keep_their_places(caller: AmqpBus) -> None:
    assert await caller.corpses() == []
    messages = [Message.command("work", {"n": n}) for n in range(4)]
    for message in messages:
        await caller.bury(message, f"reason {message.params['n']}: \x1b[31m\u202e")
    dropped = await caller.drop_dead(lambda corpse: corpse.id == messages[1].id)
    assert [corpse.message for corpse in dropped] == [messages[1]]
    assert dropped[0].reason == "reason 1: \x1b[31m\u202e"
    left = [messages[0], messages[2], messages[3]]
    assert [letter.message for letter in await caller.dead_letters()] == left
    assert len(await caller.drop_dead(lambda corpse: True)) == 3
    assert await caller.corpses() == []


async def test_burying_goes_on_over_one_channel_and_a_queue_that_was_deleted(
    caller: AmqpBus, foreign: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [Message.command("work", {"n": n}) for n in range(5)]
    await caller.bury(messages[0], "why")
    connection, opened = caller._sender.line.current, list[object]()
    assert connection is not None
    open_channel = connection.channel

    async def counted(*about: Any, **more: Any) -> Channel:
        opened.append(about)
        return await open_channel(*about, **more)

    monkeypatch.setattr(connection, "channel", counted)
    await asyncio.gather(*(caller.bury(message, "why") for message in messages[1:]))
    assert opened == []
    letters = await caller.dead_letters()
    assert sorted(letter.message.params["n"] for letter in letters) == [0, 1, 2, 3, 4]
    await (await foreign()).delete_queue(names.DEAD, TIMEOUT)
    await caller.bury(messages[0], "why")
    assert [letter.message for letter in await caller.dead_letters()] == messages[:1]


async def test_two_who_look_at_dead_letters_at_once_see_all_of_them(
    connect: Callable[..., AmqpBus], caller: AmqpBus
) -> None:
    messages = [Message.command("work", {"n": n}) for n in range(20)]
    for message in messages:
        await caller.bury(message, "why")
    looks = await soon(asyncio.gather(*(connect().dead_letters() for _ in range(5))))
    for letters in looks:
        assert [letter.message for letter in letters] == messages


async def test_a_dead_letter_comes_back_from_one_who_held_it_and_died(
    connect: Callable[..., AmqpBus], caller: AmqpBus
) -> None:
    message = Message.command("work")
    await caller.bury(message, "why")
    doomed = connect()
    async with doomed.hold_dead(message.id) as held:
        assert held is not None
        assert await caller.corpses() == []
        die(doomed)
        async with asyncio.timeout(20):
            while [corpse.message for corpse in await caller.corpses()] != [message]:
                await asyncio.sleep(0.02)


async def test_a_dead_letter_that_slipped_out_of_the_hand_is_dropped_all_the_same(
    caller: AmqpBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = Message.command("work")
    await caller.bury(message, "why")
    connection = caller._sender.line.current
    assert connection is not None
    opened, open_channel = list[Channel](), connection.channel

    async def noted(*about: Any, **more: Any) -> Channel:
        opened.append(await open_channel(*about, **more))
        return opened[-1]

    monkeypatch.setattr(connection, "channel", noted)
    async with caller.hold_dead(message.id) as held:
        assert held is not None
        await opened[0].close(TIMEOUT)  # as a broker does with one who holds it for too long
        assert [corpse.message for corpse in await caller.corpses()] == [message]
        await held.drop()
    assert await caller.corpses() == []


async def test_whoever_gives_up_looking_at_dead_letters_lets_go_of_them(
    connect: Callable[..., AmqpBus], caller: AmqpBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    message, hasty = Message.command("work"), connect()
    await caller.bury(message, "why")
    taken = asyncio.Event()
    consume = Channel.consume

    async def slowly(channel: Channel, *about: Any, **more: Any) -> str:
        tag = await consume(channel, *about, **more)
        taken.set()
        await asyncio.Event().wait()
        return tag

    with monkeypatch.context() as slow:
        slow.setattr(Channel, "consume", slowly)
        looking = asyncio.create_task(hasty.corpses())
        await soon(taken.wait())
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
    assert [corpse.message for corpse in await caller.corpses()] == [message]


async def test_more_dead_letters_than_are_looked_at_are_told_of(
    caller: AmqpBus, foreign: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("roster.bus.amqp.dead.MAX_DEAD_LETTERS", 5)
    channel = await foreign()
    await channel.declare_queue(names.DEAD, TIMEOUT, durable=True)  # by another program: without a limit
    messages = [Message.command("work", {"n": n}) for n in range(8)]
    for message in messages:
        await caller.bury(message, "why")
    assert [letter.message for letter in await caller.dead_letters()] == messages[:5]
    assert "the oldest 5 dead letters are looked at; 3 more are in the queue" in caplog.text
    assert len(await caller.drop_dead(lambda corpse: True)) == 5
    assert [letter.message for letter in await caller.dead_letters()] == messages[5:]


async def test_looking_for_dead_letters_makes_nothing(caller: AmqpBus, foreign: Open) -> None:
    assert await caller.dead_letters() == []
    channel = await foreign()
    with pytest.raises(Exception, match="NOT_FOUND"):
        await channel.declare_queue(names.DEAD, TIMEOUT, passive=True)


async def test_of_what_waits_at_the_broker_the_higher_priority_comes_first(
    node: AmqpBus, foreign: Open
) -> None:
    held: list[Delivery] = []
    await node.serve("q", held.append, prefetch=1)
    channel = await foreign()
    for n, priority in enumerate((0, 0, 9, 5)):
        await put(channel, "q", Message.command("work", {"n": n}), priority=priority)
    answered: list[Delivery] = []
    while len(answered) < 4:
        await until(lambda: len(held) > len(answered))
        answered.append(held[-1])
        held[-1].reply(Message.result_for(held[-1].message, None))
    assert [delivery.message.params["n"] for delivery in held] == [0, 2, 3, 1]


async def test_control_overtakes_the_commands_that_wait_at_the_broker(
    node: AmqpBus, caller: AmqpBus, foreign: Open
) -> None:
    seen: list[Delivery] = []
    await node.serve("q", seen.append, prefetch=1, bindings=["ctl.all.#"])
    channel = await foreign()
    for n in range(50):
        await put(channel, "q", Message.command("work", {"n": n}))
    await until(lambda: len(seen) == 1)
    exchange = await caller.send("q", Message.control("pause"))
    await until(lambda: len(seen) == 2)
    assert seen[1].message.signal == "pause"
    seen[1].reply(Message.result_for(seen[1].message, "paused"))
    assert (await soon(exchange.answer)).data["result"] == "paused"
    assert await caller.publish("ctl.all.now", Message.control("stop")) == 1
    await until(lambda: len(seen) == 3)
    assert seen[2].message.signal == "stop"


async def test_what_expires_at_the_broker_is_not_run(node: AmqpBus, foreign: Open) -> None:
    seen: list[Delivery] = []
    await node.serve("q", seen.append, prefetch=1)
    channel = await foreign()
    for n in range(3):
        await put(channel, "q", Message.command("work", {"n": n}), expiration="100" if n == 1 else "")
    await until(lambda: len(seen) == 1)
    await asyncio.sleep(0.2)  # it is its time that passes
    seen[0].reply(Message.result_for(seen[0].message, None))
    await until(lambda: len(seen) == 2)
    assert seen[1].message.params == {"n": 2}


async def test_a_command_that_lay_in_a_stopped_process_past_its_time_is_refused_and_not_run(
    start: Callable[..., Child], caller: AmqpBus, worked: Callable[[], list[str]]
) -> None:
    child = start()
    await child.line()
    assert await ask(caller, "q") == {}
    os.kill(child.pid, signal.SIGSTOP)
    # Its caller would wait on: only the node can know that it came too late.
    late, early = Message.command("work", timeout=0.3), Message.command("work", timeout=60)
    exchanges = [await caller.send("q", message) for message in (late, early)]
    exchanges[0].deadline = None
    await asyncio.sleep(1.0)  # how long it stands still is what is tested
    os.kill(child.pid, signal.SIGCONT)
    answer = await soon(exchanges[0].answer)
    assert (await soon(exchanges[1].answer)).data["result"] == {}
    assert (answer.data["code"], answer.data["outcome"]) == (Code.DEADLINE_EXCEEDED, "refused")
    assert answer.data["reason"] == CallTimeoutError.__name__
    assert late.id not in worked()
    assert early.id in worked()
    # What comes after it has caught up is not held against it.
    fresh = Message.command("work", timeout=0.3)
    assert (await soon((await caller.send("q", fresh)).answer)).data["result"] == {}
