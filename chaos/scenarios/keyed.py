"""Calls with idempotency keys, repeated by several callers while their agents die, freeze and come back."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from math import inf

from chaos.report import Options, Report
from chaos.team import Team, team
from roster import CallError, Orchestrator
from roster._clock import boottime

TTL = 2.0
CALLERS = 3
SECONDS = 0.05
NAMES = ("a1", "a2", "a3", "a4")


async def repeats(options: Options) -> Report:
    """600 keys, each called by 3 callers at once and by each again, while agents are killed, or frozen for 2 TTLs."""
    count, rate = 600, 40.0
    report = Report()
    disturbed: list[tuple[str, float, float]] = []
    answers: dict[str, list[str]] = {}
    failed: list[str] = []
    calls_over: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        # Agents that come back find the answers of their former lives here.
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="roster-"))
        agents = await stack.enter_async_context(team(options.registry, options.bus, ttl=TTL))
        callers = [
            await stack.enter_async_context(Orchestrator.connect(agents.registry_url, agents.bus_url))
            for _ in range(CALLERS)
        ]
        await asyncio.gather(*(agents.start(name, environment={"ROSTER_STATE_DIR": state}) for name in NAMES))
        for caller in callers:
            await agents.ready(caller, NAMES)
        troublemaker = asyncio.create_task(_trouble(agents, callers[0], state, disturbed))

        async def one(caller: Orchestrator, key: str) -> None:
            try:
                answer = await caller.ask(
                    "work",
                    {"command": key, "seconds": SECONDS},
                    namespace="chaos",
                    timeout=30.0,
                    idempotency_key=key,
                )
            except CallError as error:
                failed.append(f"{key}: {error}")
            else:
                answers.setdefault(key, []).append(answer.result["node"])

        async def many(key: str) -> None:
            await asyncio.gather(*(one(caller, key) for caller in callers))
            await asyncio.gather(*(one(caller, key) for caller in callers))
            calls_over[key] = boottime()

        began = boottime()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                late = began + number / rate - boottime()
                if late > 0:
                    await asyncio.sleep(late)
                group.create_task(many(f"k{number}"))
        troublemaker.cancel()
        await asyncio.gather(troublemaker, return_exceptions=True)
        effects = agents.effects()
    first: dict[str, float] = {}
    for line in effects.lines:
        if line["what"] == "start":
            first.setdefault(line["command"], line["at"])

    def excused(key: str) -> bool:
        """Whether one that had begun it was killed or frozen before the last repeat had its answer."""
        return any(
            f"chaos/{name}" in effects.nodes[key] and since <= calls_over[key] and until >= first[key]
            for name, since, until in disturbed
        )

    twice = [key for key, times in effects.started.items() if times > 1]
    expected = 2 * CALLERS * count
    given = sum(map(len, answers.values()))
    report.fact("calls", f"{expected} for {count} keys in {max(calls_over.values()) - began:.1f} s")
    report.fact("kills and freezes", len(disturbed))
    report.fact("keys begun more than once", f"{len(twice)}, of which excused {sum(map(excused, twice))}")
    report.fact("keys with more than one answer", sum(len(set(nodes)) > 1 for nodes in answers.values()))
    report.fact("questions who knows a key", sum(caller.team.keys.asked for caller in callers))
    for text in failed[:5]:
        report.fact("failed", text)
    report.promise(
        "there was trouble: at least 5 kills and freezes, and keys that were caught",
        len(disturbed) >= 5 and bool(twice),
    )
    report.promise("0 failed", not failed and given == expected)
    report.promise(
        "0 begun twice by one key where no executor was killed or frozen",
        all(excused(key) for key in twice),
    )
    report.promise(
        "one answer for all repeats of a key that was not caught",
        all(len(set(nodes)) == 1 for key, nodes in answers.items() if not excused(key)),
    )
    return report


async def _trouble(
    agents: Team, watcher: Orchestrator, state: str, disturbed: list[tuple[str, float, float]]
) -> None:
    """Kill and start again, then freeze past the lease and wake, one agent after the other; note who and when."""
    turn = 0
    while True:
        await asyncio.sleep(1.0)
        name = NAMES[turn % len(NAMES)]
        before = watcher.node(f"chaos/{name}")
        since = boottime()
        disturbed.append((name, since, inf))
        if turn % 2:
            agents.freeze(name)
            await asyncio.sleep(2 * TTL)
            agents.thaw(name)
        else:
            await agents.kill(name)
            await agents.start(name, environment={"ROSTER_STATE_DIR": state})
        while (
            (now := watcher.node(f"chaos/{name}")) is None
            or not now.healthy
            or now.uid == getattr(before, "uid", "")
        ):
            await asyncio.sleep(0.02)
        disturbed[-1] = (name, since, boottime())
        turn += 1
