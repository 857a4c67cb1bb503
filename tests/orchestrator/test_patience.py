"""Who is far away is waited for, and who says nothing is not waited for without end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from roster.bus import Message
from roster.bus.base import Bus
from roster.errors import Outcome
from roster.orchestrator.patience import Patience
from roster.registry import NodeRecord

_NODE = cast("NodeRecord", type("Record", (), {"key": "default/a", "mindbus_queue": "q"})())


class Exchange:
    """A question that is answered after a while, or never."""

    def __init__(self, seconds: float | None) -> None:
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.cancelled = False
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, self._come)

    def _come(self) -> None:
        if not self.answer.done():
            self.answer.set_result("pong")

    def cancel(self) -> None:
        self.cancelled = True
        self.answer.cancel()


class Line:
    """A bus: the seconds that its broker takes to confirm, and those that the node takes from then on."""

    def __init__(self, confirm: float, answer: float | None) -> None:
        self.confirm, self.answer = confirm, answer
        self.asked: list[Exchange] = []

    async def send(self, queue: str, message: Message) -> Exchange:
        await asyncio.sleep(self.confirm)
        self.asked.append(Exchange(self.answer))
        return self.asked[-1]


class BrokeredLine(Line):
    """The same with a broker."""

    on_orphan: Callable[[Message, Outcome], Coroutine[None, None, None]] | None = None


def patience(line: Line, shortest: float) -> Callable[[], Coroutine[Any, Any, Any]]:
    made = Patience(cast("Bus", line), shortest)
    return lambda: made.hear(_NODE, Message.control("ping"))


async def test_a_node_has_longer_each_time_until_it_is_heard() -> None:
    line = BrokeredLine(0.0, 0.3)
    hear = patience(line, 0.1)
    with pytest.raises(TimeoutError):
        await hear()
    assert line.asked[0].cancelled
    heard = None
    while heard is None:
        try:
            heard = await hear()
        except TimeoutError:
            assert len(line.asked) < 4, "twice as long each time"
    assert heard == "pong"
    assert await hear() == "pong", "from then on it has the time that it needs"


async def test_nobody_is_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roster.orchestrator.patience._LONGEST", 0.02)
    hear = patience(BrokeredLine(0.0, None), 0.01)
    async with asyncio.timeout(20):
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await hear()


async def test_the_time_of_a_node_begins_when_the_broker_has_confirmed_the_question() -> None:
    hear = patience(BrokeredLine(0.3, 0.4), 0.01)
    assert await hear() == "pong"


async def test_without_a_broker_who_takes_no_question_is_silent() -> None:
    with pytest.raises(TimeoutError):
        await patience(Line(60.0, 0.0), 0.01)()
