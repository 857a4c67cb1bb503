"""Agents that answer, and answer that they failed."""

from __future__ import annotations

import asyncio

from chaos.load import send
from chaos.report import Options, Report
from chaos.team import team
from roster import Orchestrator


async def half_failing(options: Options) -> Report:
    """Two of four agents fail at everything, and say that another try makes sense."""
    count = 2000
    report = Report()
    names = [f"a{n}" for n in range(1, 5)]
    async with (
        team(options.registry, options.bus, capacity=4) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        await asyncio.gather(
            *(agents.start(name, behaviour="failing" if n % 2 else "") for n, name in enumerate(names))
        )
        await agents.ready(orchestrator, names)
        outcome = await send(orchestrator, count, in_flight=8, seconds=0.01, rate=300)
        effects = agents.effects()
    failed = effects.started.total() - effects.ended.total()
    report.fact("commands answered / failed", f"{len(outcome.answers)} / {len(outcome.errors)}")
    report.fact(
        "tries that failed, and their share of all", f"{failed}, {failed / effects.started.total():.1%}"
    )
    report.fact("slowest answer after a failed try", f"{max(outcome.rerouted, default=0) * 1e3:.0f} ms")
    report.promise("there was trouble: at least 10 tries failed", failed >= 10)
    report.promise("all answered, none twice", len(outcome.answers) == count and not outcome.twice)
    report.promise("those that fail get at most a tenth of the work", failed <= count / 10)
    return report


async def all_failing(options: Options) -> Report:
    """All four agents fail at everything: callers must not multiply the load of a team that is down."""
    count, names = 1000, ["a1", "a2", "a3", "a4"]
    report = Report()
    async with (
        team(options.registry, options.bus, capacity=4) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        await asyncio.gather(*(agents.start(name, behaviour="failing") for name in names))
        await agents.ready(orchestrator, names)
        outcome = await send(orchestrator, count, in_flight=8, seconds=0.005)
        tries = agents.effects().started.total()
    report.fact("calls / tries", f"{count} / {tries} ({tries / count:.2f} a call)")
    report.promise(
        "every call fails, with its reason and its tries",
        len(outcome.errors) == count and all(error.attempts for error in outcome.errors.values()),
    )
    report.promise("at most 1.5 tries a call", count <= tries <= 1.5 * count)
    return report
