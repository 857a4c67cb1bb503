"""A question to one consumer, over control, for those who wait a moment for its answer and no longer."""

from __future__ import annotations

import asyncio

from roster.bus.base import Bus, Exchange
from roster.bus.message import Message


async def ask_consumer(bus: Bus, queue: str, message: Message, within: float) -> Message:
    """Send a message to the consumer of a queue and return its answer; it is taken back when nobody waits any more.

    Args:
        within: seconds for both ways.

    Raises:
        TimeoutError: no answer in time.
        CallError: as for `Bus.send`, and as `Exchange.answer` raises.
    """
    async with asyncio.timeout(within):
        return await answer_of(await bus.send(queue, message))


async def answer_of(exchange: Exchange) -> Message:
    """Wait for the answer to a message, which is taken back when this is cancelled."""
    try:
        return await exchange.answer
    except asyncio.CancelledError:
        exchange.cancel()
        raise
