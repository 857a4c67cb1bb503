"""What is still in a queue or in somebody's hands when everything has been answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from roster import Orchestrator
from roster._clock import boottime
from roster.bus import Message
from roster.bus.amqp.names import DEAD
from roster.errors import CallError
from servers import RabbitMQ

_WITHIN = 10.0
_LOOK = 0.2
_LIST = ("list_queues", "--no-table-headers", "name", "messages_ready", "messages_unacknowledged")


async def left_over(
    broker: RabbitMQ | None, orchestrator: Orchestrator, names: Iterable[str]
) -> dict[str, str]:
    """Return what is left after a moment, by queue or node: nothing, if all goes well.

    Args:
        broker: whose queues are looked into; None: the bus has none, or one of somebody else's.
        names: the agents, which are asked what they have.
    """
    until = boottime() + _WITHIN
    while True:
        left = {name: held for name in names if (held := await _in_hands(orchestrator, name))}
        if broker is not None:
            left |= in_queues(await asyncio.to_thread(broker.ctl, *_LIST))
        if not left or boottime() > until:
            return left
        await asyncio.sleep(_LOOK)


async def _in_hands(orchestrator: Orchestrator, name: str) -> str:
    record = orchestrator.node(f"chaos/{name}")
    if record is None:
        return "not registered"
    try:
        async with asyncio.timeout(_WITHIN):
            ping = Message.control("ping", source="/chaos")
            answer = await (await orchestrator.bus.send(record.mindbus_queue, ping)).answer
    except (CallError, TimeoutError) as error:
        return f"it does not answer: {error}"
    held = answer.data["result"]
    running, waiting = len(held["running"]), len(held["waiting"])
    return f"{running} running, {waiting} waiting" if running or waiting else ""


def in_queues(listed: str) -> dict[str, str]:
    """Return the queues that hold something, but for dead letters, of what rabbitmqctl has listed."""
    queues = [line.split("\t") for line in listed.splitlines() if line]
    return {
        name: f"{ready} ready, {unacknowledged} not acknowledged"
        for name, ready, unacknowledged in queues
        if name != DEAD and (ready, unacknowledged) != ("0", "0")
    }
