"""The same script of faults over RabbitMQ for Roster and for what others build, one after the other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from peers.crew import CELERY, FASTSTREAM, NAMEKO, ROSTER, Caller, Crew, Peer, crew

from chaos.course import Course, Fault, calls_of, seconds
from chaos.report import Options, Report
from chaos.stores import broker_of
from roster._clock import boottime
from servers import RabbitMQ

PEERS = (ROSTER, FASTSTREAM, NAMEKO, CELERY)
NAMES = ("a1", "a2", "a3", "a4")
CAPACITY, SECONDS, TIMEOUT = 8, 0.02, 30.0
# Commands a second of the caller that lives, and of the one that is killed.
RATES = (75.0, 25.0)
# Seconds after the start of the load at which each part of the script begins.
KILLS, CALLER, FREEZE, RESTARTS, BROKER = 8.0, 26.0, 32.0, 58.0, 80.0
# How long agents are killed and one is frozen, how long an agent has to leave, and what follows the return of a broker.
KILLS_FOR, FROZEN_FOR, LEAVE_WITHIN, AFTER_BROKER = 14.0, 15.0, 10.0, 12.0

KILL_AGENT = "kill -9 an agent every second"
KILL_CALLER = "kill -9 a caller and an agent"
FREEZE_AGENT = "SIGSTOP an agent for 15 s"
RESTART_AGENTS = "SIGTERM every agent in turn"
KILL_BROKER = "kill -9 RabbitMQ, twice"
# What is promised of Roster: the slowest answer, seconds (its registrations end 3 s after an agent's death).
WORST = {KILL_AGENT: 1.0, KILL_CALLER: 1.0, FREEZE_AGENT: 1.5 + 1.0, RESTART_AGENTS: 1.0}


@dataclass(slots=True)
class _Script:
    """One peer's way through it.

    Attributes:
        faults: what was done so far.
    """

    crew: Crew
    broker: RabbitMQ
    zero: float
    faults: list[Fault] = field(default_factory=list)

    def now(self) -> float:
        """Seconds since the load began."""
        return boottime() - self.zero

    async def at(self, moment: float) -> None:
        """Wait until a moment of the script."""
        await asyncio.sleep(max(0.0, moment - self.now()))

    @asynccontextmanager
    async def fault(self, kind: str) -> AsyncIterator[None]:
        """Note a fault that is undone at the end of the block."""
        began = self.now()
        yield
        self.faults.append(Fault(kind, began, self.now()))

    async def run(self, second: Caller, start_second: Callable[[], Any]) -> None:
        """Do all of it."""
        await self.at(KILLS)
        number = 0
        while self.now() < KILLS + KILLS_FOR:
            await asyncio.sleep(1.0)
            name = NAMES[number % len(NAMES)]
            # A team without agents is no question here: who starts slowly is killed less often.
            while not self.crew.serves(name) or sum(map(self.crew.serves, NAMES)) < 3:
                await asyncio.sleep(0.02)
            number += 1
            async with self.fault(KILL_AGENT):
                await self.crew.kill(name)
                await self.crew.start(name)
        await self.crew.up(NAMES)
        await self.at(CALLER)
        async with self.fault(KILL_CALLER):
            await asyncio.gather(second.kill(), self.crew.kill("a1"))
            await self.crew.start("a1")
            await start_second()
        await self.crew.up(NAMES)
        await self.at(FREEZE)
        async with self.fault(FREEZE_AGENT):
            self.crew.freeze("a2")
            await asyncio.sleep(FROZEN_FOR)
            self.crew.thaw("a2")
        await self.at(RESTARTS)
        for name in NAMES:
            async with self.fault(RESTART_AGENTS):
                await self.crew.retire(name, LEAVE_WITHIN)
                await self.crew.start(name)
                await self.crew.up([name])
        await self.at(BROKER)
        for _ in range(2):
            async with self.fault(KILL_BROKER):
                await asyncio.to_thread(self.broker.kill)
                await asyncio.to_thread(self.broker.start)
            await asyncio.sleep(AFTER_BROKER)


async def course_of(peer: Peer) -> Course:
    """Take one peer through the script, on a broker of its own.

    Raises:
        TimeoutError: an agent or a caller did not come up.
        peers.crew.PeerMissingError: its environment is not there.
    """
    async with broker_of() as broker, crew(peer, broker.url, NAMES, capacity=CAPACITY) as agents:
        first = await agents.caller("first")
        seconds_ = [await agents.caller("second-0")]
        script = _Script(agents, broker, boottime())
        stop = agents.directory / "stop"
        common = {
            "count": 100_000,
            "in_flight": 1000,
            "seconds": SECONDS,
            "timeout": TIMEOUT,
            "stop": str(stop),
        }

        async def start_second() -> None:
            name = f"second-{len(seconds_)}"
            seconds_.append(await agents.caller(name))
            seconds_[-1].begin(prefix=f"{name}-", rate=RATES[1], **common)

        first.begin(prefix="first-", rate=RATES[0], **common)
        seconds_[0].begin(prefix="second-0-", rate=RATES[1], **common)
        await script.run(seconds_[0], start_second)
        stop.touch()
        for caller, prefix in ((first, "first-"), (seconds_[-1], "second-1-")):
            try:
                await caller.done(prefix, TIMEOUT + 5.0)
            except TimeoutError:
                pass  # what has not ended by now is lost
        calls = calls_of(first.calls(), script.zero, TIMEOUT, died=False)
        for number, caller in enumerate(seconds_):
            calls += calls_of(caller.calls(), script.zero, TIMEOUT, died=number == 0)
        ended = Counter(line["command"] for line in agents.effects() if line["what"] == "end")
    return Course(
        peer.name,
        sorted(calls, key=lambda call: call.began),
        script.faults,
        {command for command, count in ended.items() if count > 1},
        TIMEOUT,
    )


async def beside(options: Options) -> Report:
    """One script of faults over RabbitMQ for Roster, FastStream, Nameko and Celery: what each loses, and for how long."""
    report = Report()
    courses = [await course_of(peer) for peer in PEERS]
    for course in courses:
        report.fact(
            f"{course.name}: calls; normal p50 / p99",
            f"{len(course.calls)}; {seconds(course.normal(0.5))} / {seconds(course.normal(0.99))}",
        )
        for kind, toll in course.tolls().items():
            report.fact(f"{course.name}: {kind}", toll)
    if options.draw is not None:
        from chaos.drawing import draw  # it brings matplotlib, which takes its time

        draw(courses, options.draw)
        report.fact("drawn", options.draw)
    ours = courses[0].tolls()
    report.promise(
        "there was trouble for each: at least 5 agents killed, and a normal time before",
        all(
            course.tolls()[KILL_AGENT].faults >= 5 and len(course.calm) >= 0.9 * sum(RATES) * (KILLS - 2)
            for course in courses
        ),
    )
    report.promise("Roster: 0 lost, 0 failed", not any(toll.lost or toll.failed for toll in ours.values()))
    for kind, worst in WORST.items():
        report.promise(f"Roster, {kind}: the slowest answer within {worst:g} s", ours[kind].slowest <= worst)
    return report
