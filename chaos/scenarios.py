"""The scenarios: which team, which load, which fault, and what is promised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from chaos.load import Outcome, send
from chaos.team import team
from roster import Orchestrator
from roster._clock import boottime

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


async def freeze(registry: str | None, bus: str | None) -> Report:
    """4 agents under load; one is frozen with SIGSTOP for 2 TTLs (TTL 3 s) and woken; some work is idempotent, some not."""
    ttl, names = 3.0, ["a1", "a2", "a3", "a4"]
    report = Report()
    capabilities: list[dict[str, object]] = [{"name": "work"}, {"name": "safe", "idempotent": True}]
    async with (
        team(registry, bus, ttl=ttl, capacity=8, capabilities=capabilities) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        await asyncio.gather(*(agents.start(name) for name in names))
        await agents.ready(orchestrator, names)
        count, rate = 1000, 80.0
        loads = [
            asyncio.create_task(
                send(
                    orchestrator,
                    count,
                    in_flight=64,
                    seconds=0.12,
                    rate=rate,
                    capability=capability,
                    prefix=capability,
                )
            )
            for capability in ("work", "safe")
        ]
        await asyncio.sleep(3)
        agents.freeze("a2")
        frozen = boottime()
        await asyncio.sleep(2 * ttl)
        agents.thaw("a2")
        thawed = boottime()
        work, safe = await asyncio.gather(*loads)
        await agents.ready(orchestrator, names)
        await asyncio.sleep(1)
        effects = agents.effects()

    def to_frozen(outcome: Outcome) -> list[float]:
        """When commands were sent to the frozen agent, in seconds after the freeze."""
        return [
            outcome.began[command] + attempt.started - frozen
            for command, answer in outcome.answers.items()
            for attempt in answer.attempts
            if attempt.node == "chaos/a2" and frozen < outcome.began[command] + attempt.started < thawed
        ]

    late = max([*to_frozen(work), *to_frozen(safe)], default=0.0)
    lost = 2 * count - len(work.answers) - len(safe.answers)
    slowest = {
        name: max([*outcome.latencies, *outcome.rerouted], default=0.0)
        for name, outcome in (("work", work), ("safe", safe))
    }
    caught = {command for command, nodes in effects.nodes.items() if "chaos/a2" in nodes and len(nodes) > 1}
    twice = [command for command in effects.finished_twice if command not in caught]
    report.fact(
        "undisturbed latency p50 / p99", f"{work.median * 1e3:.1f} / {work.quantile(0.99) * 1e3:.1f} ms"
    )
    report.fact("last command sent to the frozen agent", f"{late:.2f} s after the freeze")
    report.fact("commands rerouted: idempotent / others", f"{len(safe.rerouted)} / {len(work.rerouted)}")
    report.fact("slowest idempotent answer", f"{slowest['safe']:.2f} s")
    report.fact("slowest other answer", f"{slowest['work']:.2f} s")
    report.fact("lost / answered twice to the caller", f"{lost} / {work.twice + safe.twice}")
    report.fact(
        "finished twice / of those in the frozen agent's hands",
        f"{len(effects.finished_twice)} / {len(caught)}",
    )
    for outcome in (work, safe):
        for command, error in list(outcome.errors.items())[:3]:
            report.fact(f"error of {command}", error)
    report.promise(
        "there was trouble: at least 3 commands of each kind rerouted",
        min(len(safe.rerouted), len(work.rerouted)) >= 3,
    )
    report.promise("0 lost, 0 answered twice", lost == 0 and work.twice + safe.twice == 0)
    report.promise("new work avoids the frozen agent within 1 s", late <= 1.0)
    report.promise("idempotent work is answered within 1.5 s", slowest["safe"] <= 1.5)
    report.promise("other work is answered within TTL + 1 s", slowest["work"] <= ttl + 1)
    report.promise("0 finished twice where the executor was not frozen in the middle", not twice)
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


Scenario = Callable[[str | None, str | None], Awaitable[Report]]
ALL: dict[str, Scenario] = {
    "kill-and-restart": kill_and_restart,
    "freeze": freeze,
    "rolling-restart": rolling_restart,
}
