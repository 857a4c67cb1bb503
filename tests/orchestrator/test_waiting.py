"""Who is woken when there is room."""

from __future__ import annotations

import asyncio

from roster.orchestrator.waiting import WaitingRoom


class Queue:
    """Calls that wait, and the order in which they were woken."""

    def __init__(self) -> None:
        self.room = WaitingRoom()
        self.woken: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def joins(self, name: str, priority: int = 0, question: str = "any") -> None:
        place = self.room.place(priority)

        async def wait() -> None:
            assert await self.room.wait("work", place, 30.0, question)
            self.woken.append(name)

        self.tasks[name] = asyncio.create_task(wait())
        await asyncio.sleep(0)

    async def wake(self, count: int) -> list[str]:
        self.woken.clear()
        self.room.wake("work", count)
        for _ in range(5):
            await asyncio.sleep(0)
        return list(self.woken)


async def test_as_many_are_woken_as_there_is_room_for_in_order_of_priority_and_arrival() -> None:
    queue = Queue()
    for name, priority in (("first", 0), ("second", 0), ("high", 5), ("third", 0)):
        await queue.joins(name, priority)
    assert await queue.wake(1) == ["high"]
    assert await queue.wake(2) == ["first", "second"]
    assert queue.room.waiting("work") == 1
    assert await queue.wake(9) == ["third"]
    assert not queue.room


async def test_who_wants_other_nodes_does_not_stand_in_the_way() -> None:
    queue = Queue()
    await queue.joins("picky", 9, question="those of zone x")
    await queue.joins("first")
    await queue.joins("second")
    await queue.joins("also picky", 0, question="those of zone x")
    assert await queue.wake(1) == ["picky", "first"]
    assert await queue.wake(1) == ["second", "also picky"]
    assert not queue.room


async def test_a_wake_up_of_one_that_is_given_up_in_that_moment_is_passed_on() -> None:
    queue = Queue()
    await queue.joins("first")
    await queue.joins("second")
    queue.room.wake("work")
    queue.tasks["first"].cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert queue.woken == ["second"]
