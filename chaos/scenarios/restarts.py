"""Agents and callers that die, and agents that are replaced in good order, under load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from chaos.caller import Caller, caller
from chaos.ledger import Effects
from chaos.leftovers import left_over
from chaos.load import Outcome, send
from chaos.report import Options, Report
from chaos.team import Team, scene
from roster import Orchestrator
from roster._clock import boottime

NAMES = ("a1", "a2", "a3", "a4")
COUNT, CALM = 10_000, 2000
# Of both callers together: what two cores can carry beside the agents that start, over a broker too.
RATE = 300.0
LOAD: dict[str, Any] = {"in_flight": 16, "seconds": 0.005, "rate": RATE / 2}
WORST_OVER_NORMAL = 0.2
CALLER_LIVES = 4.0


@asynccontextmanager
async def _troubled(trouble: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Make trouble again and again until the block ends; the last time is finished: whoever was killed is started again."""

    over = asyncio.Event()

    async def endless() -> None:
        while not over.is_set():
            await trouble()

    async with asyncio.TaskGroup() as group:
        group.create_task(endless())
        try:
            yield
        finally:
            over.set()


class Killer:
    """Kills one agent after the other with -9 and starts each again at once, as long as two others can take its work.

    Attributes:
        kills: how many so far.
    """

    def __init__(self, agents: Team, orchestrator: Orchestrator) -> None:
        self._agents = agents
        self._orchestrator = orchestrator
        self._former: dict[str, str] = {}
        self._one_at_a_time = asyncio.Lock()
        self.kills = 0

    def _up(self, name: str) -> bool:
        node = self._orchestrator.node(f"chaos/{name}")
        return node is not None and node.healthy and node.uid != self._former.get(name)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[str]:
        """Yield whose turn it is, when it is up and two others are, and then kill it and start it again.

        A slow machine takes longer than a second to start an agent; a team without agents is no question here.
        """
        async with self._one_at_a_time:
            name = NAMES[self.kills % len(NAMES)]
            while not self._up(name) or sum(map(self._up, NAMES)) < 3:
                await asyncio.sleep(0.01)
            yield name
            node = self._orchestrator.node(f"chaos/{name}")
            self._former[name] = node.uid if node is not None else ""
            self.kills += 1
            await self._agents.kill(name)
            await self._agents.start(name)

    async def kill(self) -> None:
        """Kill the next one after a second."""
        await asyncio.sleep(1.0)
        async with self.turn():
            pass


async def kill_and_restart(options: Options) -> Report:
    """10 000 commands of 2 callers over 4 agents while an agent is killed with -9 and started again every second."""
    report = Report()
    async with (
        scene((options.registry, options.bus), NAMES) as (agents, orchestrator),
        # Neither of them is this process, whose own work would be in the figures.
        caller(agents, "first", NAMES) as first,
        caller(agents, "second", NAMES) as second,
    ):

        async def from_both(count: int, name: str) -> Outcome:
            one, other = await asyncio.gather(
                first.send(count // 2, prefix=f"{name}-first-", **LOAD),
                second.send(count // 2, prefix=f"{name}-second-", **LOAD),
            )
            return one.merged(other)

        calm = await from_both(CALM, "calm")
        killer = Killer(agents, orchestrator)

        async with _troubled(killer.kill):
            outcome = await from_both(COUNT, "c")
        await agents.ready(orchestrator, NAMES)
        left = await left_over(options.broker, orchestrator, NAMES)
        effects = agents.effects()
    report.fact("commands", f"{len(outcome.began)} in {outcome.seconds:.1f} s, of 2 callers")
    report.fact("kills and restarts", killer.kills)
    _judge(report, calm, outcome, effects, killer.kills)
    report.fact("work finished twice (its first executor was killed)", len(effects.finished_twice))
    report.promise("0 lost", len(outcome.answers) == COUNT and outcome.lost == 0)
    report.promise(f"nothing is left in a queue or in anybody's hands {left or ''}", not left)
    return report


def _judge(report: Report, calm: Outcome, outcome: Outcome, effects: Effects, kills: int) -> None:
    """What is promised of callers that live, whoever else dies."""
    normal = calm.quantile(0.99)
    report.fact(
        "normal latency p50 / p99 / slowest",
        f"{calm.median * 1e3:.1f} / {normal * 1e3:.1f} / {calm.slowest * 1e3:.1f} ms",
    )
    report.fact(
        "latency of what was not rerouted, p50 / p99 / slowest",
        (
            f"{outcome.median * 1e3:.1f} / {outcome.quantile(0.99) * 1e3:.1f} / "
            f"{max(outcome.latencies, default=0) * 1e3:.1f} ms"
        ),
    )
    report.fact("commands rerouted", len(outcome.rerouted))
    report.fact("slowest failover, loss to next node", f"{max(outcome.gaps, default=0) * 1e3:.1f} ms")
    report.fact("slowest rerouted answer, call to answer", f"{max(outcome.rerouted, default=0) * 1e3:.1f} ms")
    for command in sorted(outcome.answers, key=outcome.taken.__getitem__)[-3:]:
        report.fact(f"where the time went: {command}", _course(command, outcome, effects))
    report.fact("the callers' own processes got no turn for at most", f"{outcome.stall * 1e3:.1f} ms")
    report.fact("lost / answered twice to the caller", f"{outcome.lost} / {outcome.twice}")
    for command, error in list(outcome.errors.items())[:5]:
        report.fact(f"error of {command}", error)
    report.promise(
        "there was trouble: a kill every 2 s or sooner, at least 10 commands rerouted",
        kills >= outcome.seconds / 2 and len(outcome.rerouted) >= 10,
    )
    report.promise("there was a normal time, and nothing went wrong in it", calm.lost == 0 and normal > 0)
    report.promise("0 answered twice", outcome.twice == 0)
    report.promise(
        f"the slowest answer is at most {WORST_OVER_NORMAL:g} s over the normal p99",
        outcome.slowest <= normal + WORST_OVER_NORMAL,
    )


def _course(command: str, outcome: Outcome, effects: Effects) -> str:
    """Tell when a command was sent, begun and ended, in milliseconds after its call, and where."""
    began, answer = outcome.began[command], outcome.answers[command]
    course = [(attempt.started, f"to {attempt.node}") for attempt in answer.attempts]
    course += [
        (line["at"] - began, f"{line['what']} {line['node']}")
        for line in effects.lines
        if line["command"] == command
    ]
    course += [(outcome.taken[command], "answered")]
    return ", ".join(f"{at * 1e3:.0f} {what}" for at, what in sorted(course))


async def caller_kill(options: Options) -> Report:
    """The same while the second caller, too, is killed with -9 and started again, each time together with an agent."""
    report = Report()
    ended: list[Caller] = []
    killed: list[tuple[str, float]] = []
    load = {**LOAD, "rate": RATE}
    async with (
        scene((options.registry, options.bus), NAMES) as (agents, orchestrator),
        caller(agents, "first", NAMES) as first,
    ):
        calm = await first.send(CALM, prefix="calm-", **load)
        killer = Killer(agents, orchestrator)

        async def kill_callers() -> None:
            life = _life(len(ended))
            # It is not for it to wait until nobody is being killed.
            async with caller(agents, life, ()) as second:
                # Longer work than the first caller's: there is always some of it in an agent's hands.
                second.begin(COUNT, **{**LOAD, "prefix": life, "rate": RATE / 4, "seconds": 0.05})
                await asyncio.sleep(CALLER_LIVES)
                async with killer.turn() as victim:
                    killed.append((f"chaos/{victim}", boottime()))
                    await second.kill()
                ended.append(second)

        async with _troubled(kill_callers), _troubled(killer.kill):
            outcome = await first.send(COUNT, prefix="first-", **load)
        await agents.ready(orchestrator, NAMES)
        left = await left_over(options.broker, orchestrator, NAMES)
        letters = await orchestrator.bus.dead_letters()
        lives = [second.outcome(_life(number)) for number, second in enumerate(ended)]
        effects = agents.effects()
    struck = sum(
        command.startswith(_life(number))
        for number, (victim, when) in enumerate(killed)
        for command in effects.running(victim, when)
    )
    out = [len(life.began) - len(life.taken) for life in lives]
    called, answered = (
        sum(map(len, each)) for each in zip(*((life.began, life.answers) for life in lives), strict=True)
    )
    report.fact("commands of the caller that lives", f"{COUNT} in {outcome.seconds:.1f} s")
    report.fact("kills of agents / of the other caller", f"{killer.kills} / {len(lives)}")
    report.fact(
        "commands of the other: called / answered / out when it was killed",
        f"{called} / {answered} / {sum(out)}",
    )
    report.fact("of the latter, begun by the agent killed with it", struck)
    report.fact("dead letters", len(letters))
    _judge(report, calm, outcome, effects, killer.kills)
    report.promise(
        "the other was killed at least 3 times, always with work out, some of it in the agent killed with it",
        len(lives) >= 3 and min(out) > 0 and struck > 0,
    )
    report.promise("0 lost of the caller that lives", len(outcome.answers) == COUNT and outcome.lost == 0)
    report.promise("the other's calls failed by its own death alone", not any(life.errors for life in lives))
    report.promise(f"nothing is left in a queue or in anybody's hands {left or ''}", not left)
    return report


def _life(number: int) -> str:
    """What a caller that was started again is called, and its commands begin with."""
    return f"second-{number}-"


async def rolling_restart(options: Options) -> Report:
    """Every agent is stopped with SIGTERM and started again, one after the other, under load."""
    report = Report()
    async with scene((options.registry, options.bus), NAMES) as (agents, orchestrator):
        restarted = asyncio.Event()

        async def load() -> Outcome:
            """Calls without a pause, for as long as it takes."""
            whole, part = Outcome(), 0
            while not restarted.is_set() or part < 4:
                part += 1
                whole = whole.merged(
                    await send(orchestrator, 500, in_flight=24, seconds=0.03, rate=300, prefix=f"c{part}-")
                )
            return whole

        loading = asyncio.create_task(load())
        statuses, told = [], []
        for name in NAMES * 2:
            told.append((f"chaos/{name}", boottime()))
            statuses.append(await agents.retire(name))
            await agents.start(name)
            await agents.ready(orchestrator, NAMES)
        restarted.set()
        outcome = await loading
        effects = agents.effects()
    count = len(outcome.began)
    held = [len(effects.running(node, when)) for node, when in told]
    report.fact("commands", count)
    report.fact("restarts while they ran, and the commands in hand at each", f"{len(held)}, {held}")
    retried = [
        command
        for command, answer in outcome.answers.items()
        if any(attempt.outcome == "unknown" for attempt in answer.attempts)
    ]
    report.fact("handed on unbegun by one that left / retried", f"{len(outcome.rerouted)} / {len(retried)}")
    report.fact("failed / finished twice", f"{len(outcome.errors)} / {len(effects.finished_twice)}")
    for command, error in list(outcome.errors.items())[:5]:
        report.fact(f"error of {command}", error)
    report.promise(
        "there was trouble: two restarts of each agent, half of them with work in hand",
        sum(map(bool, held)) >= len(held) / 2,
    )
    report.promise("0 retried: nothing was sent again that might have begun", not retried)
    report.promise("0 failed", not outcome.errors and len(outcome.answers) == count)
    report.promise(
        "0 done twice", set(effects.started.values()) == {1} and set(effects.ended.values()) == {1}
    )
    report.promise("every agent exits with 0", set(statuses) == {0})
    return report
