"""Whom an orchestrator asks for room, and how often."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from tests.routing.nodes import WRITE, FakeClock, FakeNode

from roster.bus import Load, Message
from roster.errors import BusUnavailableError
from roster.orchestrator.inquiries import Inquiries
from roster.orchestrator.query import Query
from roster.orchestrator.teamview import TeamView
from roster.routing import Router

QUERY = Query(WRITE)


@dataclass(eq=False)
class Question:
    """One that was asked: answered when the test says so."""

    queue: str
    message: Message
    answer: asyncio.Future[Message]

    def cancel(self) -> None:
        self.answer.cancel()


@dataclass
class Team:
    """As much of an orchestrator as is needed here; its bus notes what is sent."""

    router: Router
    source: str = "/test"
    rng: random.Random = field(default_factory=lambda: random.Random(3))
    questions: list[Question] = field(default_factory=list)
    roomy: list[str] = field(default_factory=list)
    gone: bool = False

    @property
    def bus(self) -> Team:
        return self

    async def send(self, queue: str, message: Message) -> Question:
        if self.gone:
            raise BusUnavailableError("nobody consumes the queue")
        question = Question(queue, message, asyncio.get_running_loop().create_future())
        self.questions.append(question)
        return question

    def room(self, node: FakeNode) -> None:
        self.roomy.append(node.key)

    @property
    def asked(self) -> list[str]:
        return [question.queue.removeprefix("agent.") for question in self.questions]


class Stage:
    """Inquiries whose clock and whose looks are the test's."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.team = Team(Router(now=self.clock))
        self.inquiries = Inquiries(cast("TeamView", self.team), now=self.clock)

    def knows(self, *names: str, **what: Any) -> None:
        for name in names:
            self.team.router.update(FakeNode(name, **{"active_tasks": 3, "state": "busy", **what}))

    async def look(self, times: int = 1) -> list[str]:
        """Look so many times, a twentieth of a second apart, and return who was asked."""
        before = len(self.team.asked)
        for _ in range(times):
            self.clock.advance(0.051)
            self.inquiries.look()
            await asyncio.sleep(0)
        return self.team.asked[before:]

    async def answered(self, name: str, load: Load | None, *, denied: bool = False) -> None:
        """Answer the question that this node was asked last."""
        question = next(one for one in reversed(self.team.questions) if one.queue == f"agent.{name}")
        if denied:
            answer = Message.error_for(question.message, BusUnavailableError("is paused"), source="/n")
        else:
            answer = Message.result_for(question.message, {}, source="/n")
        answer.load = load
        question.answer.set_result(answer)
        for _ in range(3):
            await asyncio.sleep(0)


@pytest.fixture
async def stage() -> Any:
    made = Stage()
    yield made
    made.inquiries.close()


async def test_a_node_that_others_filled_is_asked_when_nothing_was_heard_of_it_since_the_last_look(
    stage: Stage,
) -> None:
    stage.knows("a")
    stage.inquiries.waits(QUERY)
    assert await stage.look() == []
    assert await stage.look() == ["a"]
    question = stage.team.questions[0].message
    assert (question.signal, question.uid) == ("room", "u1")
    assert await stage.look(10) == [], "one question at a time"
    await stage.answered("a", Load(1, 0, 3, seq=7))
    assert stage.team.roomy == ["default/a"]
    assert stage.team.router.free(WRITE) == 2
    assert await stage.look(10) == [], "it has room"


async def test_who_was_heard_of_is_not_asked(stage: Stage) -> None:
    stage.knows("a")
    stage.inquiries.waits(QUERY)
    for seq in range(2, 20):
        stage.team.router.full("default/a", (3, 0, 3, seq))
        assert await stage.look() == []
    assert await stage.look() == ["a"]


async def test_nobody_is_asked_who_cannot_have_room_or_takes_no_work_or_is_not_waited_for(
    stage: Stage,
) -> None:
    router = stage.team.router
    stage.knows("free", active_tasks=1, state="ready", capabilities={"other": None})
    stage.knows("mine", active_tasks=0, state="ready")
    for _ in range(3):
        router.sent("default/mine")
    stage.knows("draining", state="draining")
    stage.knows("offline", state="offline")
    stage.knows("suspect")
    router.suspect("default/suspect")
    stage.knows("elsewhere", namespace="elsewhere")
    stage.knows("asked")
    stage.inquiries.waits(Query(WRITE, namespace="default"))
    assert await stage.look(3) == ["asked"]


async def test_when_no_call_waits_nobody_is_asked(stage: Stage) -> None:
    stage.knows("a")
    stage.inquiries.waits(QUERY)
    stage.inquiries.waits(QUERY)
    assert await stage.look() == []
    stage.inquiries.over(QUERY)
    stage.inquiries.over(QUERY)
    assert await stage.look(5) == []
    stage.inquiries.waits(QUERY)
    assert await stage.look() == ["a"], "nothing was heard of it all the while"


async def test_those_where_nothing_of_ours_is_out_are_asked_first_and_eight_at_a_time(stage: Stage) -> None:
    stage.knows(*(f"half{n}" for n in range(4)), active_tasks=2)
    for n in range(4):
        stage.team.router.sent(f"default/half{n}")
    stage.knows(*(f"full{n}" for n in range(6)))
    stage.inquiries.waits(QUERY)
    await stage.look(20)
    first, then = stage.team.asked[:6], stage.team.asked[6:]
    assert sorted(first) == [f"full{n}" for n in range(6)]
    assert len(then) == 2
    await stage.answered(first[0], Load(3, 0, 3, seq=7))
    # What it said was heard: another one is asked now.
    assert len(await stage.look(2)) == 1


async def test_nodes_that_answer_at_once_and_stay_full_are_asked_ten_times_a_second_at_most(
    stage: Stage,
) -> None:
    stage.knows(*(f"n{n}" for n in range(40)))
    stage.inquiries.waits(QUERY)
    began = stage.clock()
    for seq in range(600):
        for name in await stage.look():
            await stage.answered(name, Load(3, 0, 3, seq=1000 + seq))
    seconds = stage.clock() - began
    assert seconds * 9 < stage.inquiries.asked <= seconds * 10 + 8
    assert set(stage.team.asked) == {f"n{n}" for n in range(40)}, "in the end everybody"


@pytest.mark.parametrize("how", ["denied", "unreachable"])
async def test_who_denies_it_or_cannot_be_reached_is_left_alone_for_a_second(stage: Stage, how: str) -> None:
    stage.knows("a")
    stage.inquiries.waits(QUERY)
    stage.team.gone = how == "unreachable"
    await stage.look(2)
    if how == "denied":
        await stage.answered("a", Load(0, 0, 3, seq=7), denied=True)
    await asyncio.sleep(0)
    assert stage.inquiries.asked == 1
    assert stage.team.router.free(WRITE) == 0, "what it says beside its refusal is no room"
    await stage.look(18)
    assert stage.inquiries.asked == 1
    await stage.look(4)
    assert stage.inquiries.asked == 2
