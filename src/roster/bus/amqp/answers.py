"""Waiting for the library, which has its own words for what goes wrong, and at times none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import aiormq

from roster.bus.amqp.faults import LostError

T = TypeVar("T")


async def answered(
    question: asyncio.Future[T],
    timeout: float,
    late: Callable[[LostError], None],
    *,
    on_its_way: Callable[[], bool] = lambda: False,
) -> T:
    """Wait for an answer.

    Whoever waits may be cancelled without harm: the answer is taken all the same, or the library would close the channel.

    Args:
        late: called when there is none in time, before the library hears that: then it closes the channel.
        on_its_way: tells whether the question was still on its way at the last look: its time begins when it is there.

    Raises:
        LostError: there is none in time, or what was asked has ended.
    """
    question.add_done_callback(lambda done: done.cancelled() or done.exception())
    while not (await asyncio.wait([question], timeout=timeout))[0] and on_its_way():
        pass
    if not question.done():
        why = LostError(f"the broker did not answer within {timeout:g} s")
        late(why)
        question.cancel()
        raise why
    if question.cancelled():
        # The library cancels what waits for a broker that it has given up.
        raise LostError("the connection has ended")
    error = question.exception()
    if isinstance(error, aiormq.AMQPError | RuntimeError):  # a RuntimeError: it was over before it was asked
        raise fault_of(error) from error
    return question.result()


def fault_of(error: BaseException | None) -> LostError:
    """Return what an error of the library means; what the broker says is heard by the intake, and before."""
    return LostError(str(error or "") or "it has ended")
