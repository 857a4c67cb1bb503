"""The scenarios: which team, which load, which fault, and what is promised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from chaos.load import send
from chaos.team import team
from roster import Orchestrator

DEADLINE = 240.0


@dataclass(slots=True)
class Report:
    """What a scenario found.

    Attributes:
        facts: what was measured, and its value.
        promises: what was promised, and whether it was kept.
    """

    facts: list[tuple[str, str]] = field(default_factory=list)
    promises: list[tuple[str, bool]] = field(default_factory=list)

    def fact(self, what: str, value: object) -> None:
        """Note a figure."""
        self.facts.append((what, str(value)))

    def promise(self, text: str, kept: bool) -> None:
        """Note a promise and whether it was kept."""
        self.promises.append((text, kept))


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


Scenario = Callable[[str | None, str | None], Awaitable[Report]]
ALL: dict[str, Scenario] = {"kill-and-restart": kill_and_restart}
