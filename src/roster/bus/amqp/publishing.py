"""Publishing with a confirm, and the exchange for what is published to all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from roster.bus.amqp import names
from roster.bus.amqp.channel import Channel, Receipt
from roster.bus.amqp.connection import Connection
from roster.bus.amqp.envelope import Properties
from roster.bus.amqp.faults import NOT_FOUND, LostError, RefusedError, unavailable
from roster.bus.amqp.settings import Settings
from roster.errors import BusUnavailableError


async def published(
    channel: Channel, exchange: str, key: str, envelope: Properties, raw: bytes, timeout: float
) -> Receipt:
    """Publish, and wait for what becomes of it; without a word in time it is lost."""
    receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

    def settle(said: Receipt) -> None:
        if not receipt.done():
            receipt.set_result(said)

    channel.publish(exchange, key, envelope, raw, mandatory=True, receipt=settle)
    channel.flush()
    await asyncio.wait([receipt], timeout=timeout)
    return receipt.result() if receipt.done() else "lost"


def not_kept(receipt: Receipt, what: str, settings: Settings) -> BusUnavailableError:
    """Return what a caller is told of a message that the broker did not confirm."""
    why = {"full": "a queue is full", "returned": "its queue is gone"}.get(receipt, "no confirm in time")
    return BusUnavailableError(
        f"cannot {what} on {settings.display}: {why}", outcome="unknown" if receipt == "lost" else "not_sent"
    )


async def declare_main(connection: Connection, settings: Settings) -> None:
    """Make sure that the exchange for what is published is there.

    Raises:
        BusUnavailableError: it is not, and cannot be made.
    """
    timeout = settings.timeout
    try:
        await make_sure(
            connection,
            timeout,
            ask=lambda channel: channel.declare_exchange(names.MAIN, "topic", timeout, passive=True),
            make=lambda channel: channel.declare_exchange(names.MAIN, "topic", timeout),
        )
    except LostError as error:
        raise unavailable(f"use the exchange {names.MAIN!r}", settings.display, error) from error


async def make_sure(
    connection: Connection,
    timeout: float,
    *,
    ask: Callable[[Channel], Awaitable[object]],
    make: Callable[[Channel], Awaitable[object]],
) -> None:
    """See that something is there at the broker. Asking needs no permission, making it does.

    Args:
        ask: declares it passively.
        make: declares it.

    Raises:
        LostError: it is not there, and cannot be made.
    """
    scratch = await connection.channel(timeout)
    try:
        await ask(scratch)
    except RefusedError as error:
        if error.code != NOT_FOUND:
            raise
        scratch = await connection.channel(timeout)
        await make(scratch)
    await scratch.close(timeout)
