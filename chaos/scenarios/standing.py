"""Agents that stand still: frozen by SIGSTOP, or with an event loop that a handler blocks."""

from __future__ import annotations

import asyncio

from chaos.ledger import Effects
from chaos.load import Outcome, send
from chaos.report import Options, Report
from chaos.team import scene, team
from roster import Orchestrator
from roster._clock import boottime


async def freeze(options: Options) -> Report:
    """4 agents under load; one is frozen with SIGSTOP for a minute (TTL 3 s); half of the work is idempotent."""
    ttl, names = 3.0, ["a1", "a2", "a3", "a4"]
    report = Report()
    capabilities: list[dict[str, object]] = [{"name": "work"}, {"name": "safe", "idempotent": True}]
    async with (
        team(options.registry, options.bus, ttl=ttl, capacity=16, capabilities=capabilities) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        # The one that is frozen never looks whether to stop: nothing but a cancellation keeps it from its effect.
        await asyncio.gather(*(agents.start(name, behaviour="eager" * (name == "a2")) for name in names))
        await agents.ready(orchestrator, names)
        rate = 60.0
        count = int(rate * (3 + options.frozen + 5))
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

        def caught_of_each() -> int:
            held = agents.effects().running("chaos/a2")
            return min(sum(command.startswith(kind) for command in held) for kind in ("work", "safe"))

        # With work of both kinds in its hands, so that there is something to see.
        while caught_of_each() < 3:
            await asyncio.sleep(0.01)
        agents.freeze("a2")
        frozen = boottime()
        await asyncio.sleep(options.frozen)
        agents.thaw("a2")
        thawed = boottime()
        work, safe = await asyncio.gather(*loads)
        await agents.ready(orchestrator, names)
        await asyncio.sleep(1)
        effects = agents.effects()

    acted, answered = after_waking("chaos/a2", thawed, effects, work.merged(safe))

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
    # What is idempotent may be given to another by any agent that is slow for half a second.
    harmful = [command for command in twice if command.startswith("work")]
    report.fact(
        "undisturbed latency p50 / p99", f"{work.median * 1e3:.1f} / {work.quantile(0.99) * 1e3:.1f} ms"
    )
    report.fact("stood still for", f"{thawed - frozen:.1f} s")
    report.fact("last command sent to the frozen agent", f"{late:.2f} s after the freeze")
    report.fact("commands rerouted: idempotent / others", f"{len(safe.rerouted)} / {len(work.rerouted)}")
    report.fact("slowest idempotent answer", f"{slowest['safe']:.2f} s")
    report.fact("slowest other answer", f"{slowest['work']:.2f} s")
    report.fact("lost / answered twice to the caller", f"{lost} / {work.twice + safe.twice}")
    report.fact("in the frozen agent's hands, and begun by another", len(caught))
    report.fact(
        "finished twice, not in its hands: idempotent / others",
        f"{len(twice) - len(harmful)} / {len(harmful)} {harmful[:3] or ''}",
    )
    report.fact(
        "the caller's own process got no turn for at most", f"{max(work.stall, safe.stall) * 1e3:.1f} ms"
    )
    report.fact(
        "given to another: acted for / answered by the woken agent", f"{len(acted)} / {len(answered)}"
    )
    for outcome in (work, safe):
        for command, error in list(outcome.errors.items())[:3]:
            report.fact(f"error of {command}", error)
    report.promise(
        "there was trouble: at least 2 commands of each kind rerouted",
        min(len(safe.rerouted), len(work.rerouted)) >= 2,
    )
    report.promise("0 lost, 0 answered twice", lost == 0 and work.twice + safe.twice == 0)
    report.promise("new work avoids the frozen agent within 1 s", late <= 1.0)
    report.promise("idempotent work is answered within 1.5 s", slowest["safe"] <= 1.5)
    report.promise("other work is answered within TTL + 1 s", slowest["work"] <= ttl + 1)
    report.promise(
        "0 finished twice that is not idempotent, where the executor was not frozen in the middle",
        not harmful,
    )
    report.promise(
        "on waking it acts and answers for nothing that was given to another", not acted and not answered
    )
    return report


def after_waking(node: str, thawed: float, effects: Effects, outcome: Outcome) -> tuple[set[str], set[str]]:
    """Return the commands of others that a woken agent has acted for after it woke, and those that it has answered."""
    others = {command for command, nodes in effects.nodes.items() if set(nodes) - {node}}
    acted = {
        line["command"]
        for line in effects.lines
        if line["node"] == node and line["at"] > thawed and line["what"] in ("start", "end")
    }
    answered = {
        command
        for command, answer in outcome.answers.items()
        if answer.node == node and outcome.began[command] + outcome.taken[command] > thawed
    }
    return acted & others, answered & others


async def blocked_loop(options: Options) -> Report:
    """A handler blocks its agent's event loop for three TTLs (TTL 3 s) while work comes for four agents."""
    ttl, names = 3.0, ["a1", "a2", "a3"]
    report = Report()
    async with scene((options.registry, options.bus), names, ttl=ttl, capacity=8) as (agents, orchestrator):
        await agents.start("blocker", capabilities=["work", "block"])
        await agents.ready(orchestrator, [*names, "blocker"])
        dead: list[str] = []
        said: dict[str, float] = {}

        async def watch() -> None:
            async for event in orchestrator.registry.watch(namespace="chaos"):
                if event.name != "blocker" or event.record is None:
                    continue
                if event.type in ("offline", "unknown", "removed"):
                    dead.append(event.type)
                status = event.record.status
                for one in status.conditions if status is not None else ():
                    if one.type == "Responsive":
                        said.setdefault(one.status, boottime())

        watching = asyncio.create_task(watch())
        began = boottime()
        blocked = asyncio.create_task(
            orchestrator.ask(
                "block", {"command": "blocked", "seconds": 3 * ttl}, namespace="chaos", timeout=60
            )
        )
        outcome = await send(orchestrator, 600, in_flight=32, seconds=0.05, rate=50, timeout=60)
        answer = await blocked
        await agents.ready(orchestrator, [*names, "blocker"])
        watching.cancel()
        effects = agents.effects()
    shown = said.get("False", float("inf")) - began
    there = [
        outcome.began[command] + attempt.started - began
        for command, one in outcome.answers.items()
        for attempt in one.attempts
        if attempt.node == "chaos/blocker"
    ]
    meanwhile = [at for at in there if shown + 0.2 < at < 3 * ttl - 0.2]
    report.fact("Responsive=False shown after", f"{shown:.2f} s")
    report.fact(
        "commands sent there before / meanwhile / after",
        (
            f"{sum(at <= shown + 0.2 for at in there)} / {len(meanwhile)} / {sum(at >= 3 * ttl - 0.2 for at in there)}"
        ),
    )
    report.fact("commands answered / failed", f"{len(outcome.answers)} / {len(outcome.errors)}")
    report.promise("its agent was never called dead", not dead)
    report.promise("Responsive=False is shown within 2.5 s, and ends", shown <= 2.5 and "True" in said)
    report.promise("no new work goes there meanwhile", not meanwhile)
    report.promise("work goes there again afterwards", any(at >= 3 * ttl - 0.2 for at in there))
    report.promise(
        "its command was done once, at the first try",
        effects.started["blocked"] == effects.ended["blocked"] == 1 and len(answer.attempts) == 1,
    )
    report.promise("0 failed, 0 finished twice", not outcome.errors and not effects.finished_twice)
    return report
