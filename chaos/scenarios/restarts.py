"""Agents that die, and agents that are replaced in good order, under load."""

from __future__ import annotations

import asyncio

from chaos.load import send
from chaos.report import Report
from chaos.team import team
from roster import Orchestrator


async def kill_and_restart(registry: str | None, bus: str | None) -> Report:
    """10 000 commands over 4 agents while one is killed with -9 and started again every second."""
    count, names = 10_000, ["a1", "a2", "a3", "a4"]
    report = Report()
    async with (
        team(registry, bus) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        for name in names:
            await agents.start(name)
        await agents.ready(orchestrator, names)

        async def trouble() -> None:
            turn = 0
            while True:
                await asyncio.sleep(1.0)
                name = names[turn % len(names)]
                turn += 1
                await agents.kill(name)
                await agents.start(name)

        troublemaker = asyncio.create_task(trouble())
        try:
            outcome = await send(orchestrator, count, in_flight=16, seconds=0.005, rate=800)
        finally:
            troublemaker.cancel()
            await asyncio.gather(troublemaker, return_exceptions=True)
        effects = agents.effects()
    kills = agents.starts - len(names)
    lost = count - len(outcome.answers)
    slowest_gap = max(outcome.gaps, default=0.0)
    slowest = max(outcome.rerouted, default=0.0)
    report.fact("commands", f"{count} in {outcome.seconds:.1f} s ({count / outcome.seconds:.0f}/s)")
    report.fact("kills and restarts", kills)
    report.fact(
        "undisturbed latency p50 / p99", f"{outcome.median * 1e3:.1f} / {outcome.quantile(0.99) * 1e3:.1f} ms"
    )
    report.fact("slowest undisturbed answer", f"{max(outcome.latencies, default=0) * 1e3:.1f} ms")
    report.fact("commands rerouted", len(outcome.rerouted))
    report.fact("slowest failover, loss to next node", f"{slowest_gap * 1e3:.1f} ms")
    report.fact("slowest rerouted answer, call to answer", f"{slowest * 1e3:.1f} ms")
    report.fact("lost / answered twice to the caller", f"{lost} / {outcome.twice}")
    report.fact("work finished twice (its first executor was killed)", len(effects.finished_twice))
    for command, error in list(outcome.errors.items())[:5]:
        report.fact(f"error of {command}", error)
    report.promise(
        "there was trouble: at least 5 kills, at least 10 commands rerouted",
        kills >= 5 and len(outcome.rerouted) >= 10,
    )
    report.promise("0 lost", lost == 0)
    report.promise("0 answered twice", outcome.twice == 0)
    report.promise("worst failover under 0.2 s", slowest < 0.2)
    return report


async def rolling_restart(registry: str | None, bus: str | None) -> Report:
    """Every agent is stopped with SIGTERM and started again, one after the other, under load."""
    names = ["a1", "a2", "a3", "a4"]
    report = Report()
    async with (
        team(registry, bus, capacity=8) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        await asyncio.gather(*(agents.start(name) for name in names))
        await agents.ready(orchestrator, names)
        count = 2000
        load = asyncio.create_task(send(orchestrator, count, in_flight=24, seconds=0.03, rate=300))
        statuses = []
        for name in names * 2:
            statuses.append(await agents.retire(name))
            await agents.start(name)
            await agents.ready(orchestrator, names)
        outcome = await load
        effects = agents.effects()
    report.fact("commands", f"{count} in {outcome.seconds:.1f} s")
    report.fact("restarts while they ran", len(statuses))
    report.fact("commands rerouted", len(outcome.rerouted))
    report.fact("failed / finished twice", f"{len(outcome.errors)} / {len(effects.finished_twice)}")
    report.promise("0 failed", not outcome.errors and len(outcome.answers) == count)
    report.promise(
        "0 done twice", set(effects.started.values()) == {1} and set(effects.ended.values()) == {1}
    )
    report.promise("every agent exits with 0", set(statuses) == {0})
    return report
