"""The broker is the death signal: who hears what when a node is gone or full, and where commands without a caller go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest
from tests.bus.amqp.conftest import TIMEOUT, Open, die
from tests.bus.helpers import Child, ask, echo, soon, until

from roster._clock import boottime
from roster.bus import Delivery, Message
from roster.bus.amqp import AmqpBus, names
from roster.bus.amqp.faults import NOT_FOUND, RefusedError
from roster.bus.amqp.publishing import published
from roster.errors import BusUnavailableError, DeliveryError, Outcome

Worked = Callable[[], list[str]]


async def equal(ask: Callable[[], Coroutine[None, None, object]], expected: object) -> None:
    """Ask until the answer is the expected one."""
    found: object = None
    deadline = boottime() + 10
    while boottime() < deadline:
        if (found := await ask()) == expected:
            return
        await asyncio.sleep(0.02)
    assert found == expected


async def test_kill_9_of_a_node_is_heard_at_once_and_nothing_is_said_that_is_not_known(
    start: Callable[..., Child], caller: AmqpBus, worked: Worked
) -> None:
    child = start()
    await child.line()
    begun = await caller.send("q", Message.command("a", {"do": "start"}))
    held = await caller.send("q", Message.command("a", {"do": "hold"}))
    await until(lambda: begun.started is True and len(worked()) == 1)
    killed = boottime()
    child.kill()
    for exchange in (begun, held):
        # The node may have been about to begin: what the broker gives out again counts as perhaps begun.
        with pytest.raises(DeliveryError, match="perhaps begun") as caught:
            await soon(exchange.answer)
        assert (caught.value.outcome, caught.value.retryable) == ("unknown", True)
    assert boottime() - killed < 2
    assert held.started is None


async def test_a_full_node_has_what_is_too_much_refused_at_once(node: AmqpBus, caller: AmqpBus) -> None:
    held: list[Delivery] = []
    await node.serve("q", held.append, prefetch=2)
    taken = [await caller.send("q", Message.command("work")) for _ in range(2)]
    await until(lambda: len(held) == 2)
    sent = boottime()
    too_much = await caller.send("q", Message.command("work"))
    with pytest.raises(DeliveryError, match="not begun") as caught:
        await soon(too_much.answer)
    assert caught.value.outcome == "refused"
    assert boottime() - sent < 1
    for delivery, exchange in zip(held, taken, strict=True):
        echo(delivery)
        assert (await soon(exchange.answer)).data["result"] == {}
    assert len(held) == 2, "the one that was refused never came"


async def test_a_command_to_a_node_that_is_gone_for_good_is_refused_and_its_queue_is_not_made_by_callers(
    node: AmqpBus, connect: Callable[..., AmqpBus], caller: AmqpBus, foreign: Open
) -> None:
    with pytest.raises(BusUnavailableError, match="nobody consumes"):
        await caller.send("q", Message.command("work"))
    channel = await foreign()
    with pytest.raises(RefusedError) as caught:
        await channel.declare_queue("q", TIMEOUT, passive=True)
    assert caught.value.code == NOT_FOUND
    consumer = await node.serve("q", echo)
    assert await ask(caller, "q", n=1) == {"n": 1}
    await consumer.close()
    await node.close()
    # This caller stands by, so it has its command back; one that comes later is not even let begin.
    out = await caller.send("q", Message.command("work"))
    with pytest.raises(DeliveryError) as refused:
        await soon(out.answer)
    assert refused.value.outcome == "refused"
    late = connect()
    out = await late.send("q", Message.command("work"))
    with pytest.raises(DeliveryError) as by_another:
        await soon(out.answer)
    assert by_another.value.outcome == "refused"


async def test_another_caller_hands_back_what_a_dead_nodes_caller_had_out(
    start: Callable[..., Child], connect: Callable[..., AmqpBus]
) -> None:
    child = start(prefetch=200)
    await child.line()
    callers = [connect() for _ in range(3)]
    out = [await one.send("q", Message.command("a", {"do": "hold"})) for one in callers for _ in range(20)]
    child.kill()
    ends = await soon(asyncio.gather(*(exchange.answer for exchange in out), return_exceptions=True))
    # Some may not have been given out yet.
    assert {(type(end), getattr(end, "outcome", "")) for end in ends} <= {
        (DeliveryError, "unknown"),
        (DeliveryError, "refused"),
    }
    assert await soon(callers[0].dead_letters()) == [], "they had their callers"


async def test_what_a_caller_has_heard_of_is_not_left_behind_when_it_closes_at_once(
    start: Callable[..., Child], caller: AmqpBus, foreign: Open
) -> None:
    """As a command line does: whoever found it in the queue would see to it as if nobody had heard."""
    child = start()
    await child.line()
    held = await caller.send("q", Message.command("a", {"do": "start"}))
    await until(lambda: held.started is True)
    child.kill()
    with pytest.raises(DeliveryError):
        await soon(held.answer)
    await caller.close()
    channel = await foreign()
    _, left, _ = await channel.declare_queue("q", TIMEOUT, passive=True)
    assert left == 0


async def test_a_command_whose_node_and_caller_are_dead_is_buried_with_what_is_known(
    start: Callable[..., Child], connect: Callable[..., AmqpBus], foreign: Open
) -> None:
    child = start(prefetch=1)
    await child.line()
    watcher, channel = connect(), await foreign()

    async def send(message: Message) -> None:
        # Its caller was another program, whose queue for the answer is gone.
        envelope = names.envelope(message, message.id, "gone.for.good")
        assert await published(channel, "", "q", envelope, message.to_bytes(), TIMEOUT) == "taken"

    begun, spilled = Message.command("a", {"do": "start"}), Message.command("a", {"do": "start"})
    await send(begun)
    with pytest.raises(DeliveryError):  # this one finds the node full, and from now on its sender stands by
        await soon((await watcher.send("q", Message.command("a"))).answer)

    async def buried() -> dict[str, str]:
        return {corpse.id: corpse.reason for corpse in await watcher.corpses()}

    await send(spilled)
    gone = "its caller is gone, and so was its consumer; the work"
    await equal(buried, {spilled.id: f"{gone} had not begun"})
    child.kill()
    await equal(buried, {spilled.id: f"{gone} had not begun", begun.id: f"{gone} may have begun"})
    assert {corpse.queue for corpse in await watcher.corpses()} == {"q"}
    assert [letter.message.id for letter in await watcher.dead_letters()] == [spilled.id, begun.id]


async def test_whoever_stands_by_may_see_to_a_command_whose_caller_is_gone(
    node: AmqpBus, connect: Callable[..., AmqpBus]
) -> None:
    held: list[Delivery] = []
    await node.serve("q", held.append, prefetch=1)
    watcher, lost = connect(), connect()
    orphans: list[tuple[str, Outcome]] = []

    async def see_to(message: Message, outcome: Outcome) -> None:
        orphans.append((message.id, outcome))

    watcher.on_orphan = see_to
    ours = await watcher.send("q", Message.command("ours"))
    await until(lambda: len(held) == 1)
    ours.cancel()
    held[0].reply(Message.result_for(held[0].message, None))
    command = Message.command("theirs")
    await lost.send("q", command)
    await until(lambda: len(held) == 2)
    await lost.close()
    die(node)
    await until(lambda: bool(orphans))
    assert orphans == [(command.id, "unknown")]
    assert await watcher.dead_letters() == []


async def test_what_waits_for_another_programs_agent_is_left_to_it(
    caller: AmqpBus, connect: Callable[..., AmqpBus], foreign: Open
) -> None:
    channel = await foreign()
    await channel.declare_queue("theirs", TIMEOUT)
    with pytest.raises(BusUnavailableError, match="nobody consumes"):
        await caller.send("theirs", Message.command("work"))
    got: list[str] = []
    await channel.prefetch(1, TIMEOUT)

    await channel.consume("theirs", lambda delivered: got.append(delivered.properties.message_id), TIMEOUT)
    out = [await soon(caller.send("theirs", Message.command("work", timeout=30))) for _ in range(3)]
    await until(lambda: len(got) == 1)
    looking = await foreign()

    async def waiting_and_consumers() -> tuple[int, int]:
        return (await looking.declare_queue("theirs", TIMEOUT, passive=True))[1:]

    await equal(waiting_and_consumers, (2, 1))  # nobody takes what its prefetch leaves in the queue
    assert not any(exchange.answer.done() for exchange in out)


async def test_many_queues_are_stood_by_on_and_heard_of(connect: Callable[..., AmqpBus]) -> None:
    node, callers = connect(), [connect() for _ in range(2)]
    queues = [f"q{n}" for n in range(40)]
    for queue in queues:
        await node.serve(queue, lambda delivery: None, prefetch=5)
    out = [await one.send(queue, Message.command("hold")) for queue in queues for one in callers]
    assert all(callers[0]._sender.stand_bys.knows(queue) for queue in queues)
    die(node)
    ends = await soon(asyncio.gather(*(exchange.answer for exchange in out), return_exceptions=True))
    assert all(isinstance(end, DeliveryError) for end in ends)


async def test_a_queue_that_is_not_sent_to_any_more_is_left(
    node: AmqpBus, caller: AmqpBus, foreign: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.serve("busy", lambda delivery: None)
    await node.serve("idle", echo)
    out = await caller.send("busy", Message.command("long work"))
    await ask(caller, "idle")
    stand_bys = caller._sender.stand_bys
    assert stand_bys.queues == {"busy", "idle"}
    monkeypatch.setattr("roster.bus.amqp.standby._LEAVE", 0.0)
    stand_bys._look()
    assert stand_bys.queues == {"busy"}, "an answer is waited for"
    channel = await foreign()

    async def consumers() -> int:
        return (await channel.declare_queue("idle", TIMEOUT, passive=True))[2]

    await equal(consumers, 1)
    assert await ask(caller, "idle", n=1) == {"n": 1}
    out.cancel()
