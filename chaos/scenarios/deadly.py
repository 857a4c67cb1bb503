"""Work that kills whoever does it, and work that hangs."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from chaos.load import send
from chaos.report import Options, Report
from chaos.team import scene
from roster import CallError
from roster._clock import boottime
from roster.errors import DeliveryError

EXECUTIONS = 3
# So much that no agent is ever without: a call goes to the least loaded, that is away from one that has a deadly command in
# hand, as long as there is any other with less. And each takes longer than a deadly one: work that waited for the same room
# begins together and would end together with it.
DEADLY = 0.2
LOAD: dict[str, Any] = {"in_flight": 24, "seconds": 1.5 * DEADLY}


async def query_of_death(options: Options) -> Report:
    """A command kills with -9 whoever runs it, twice over, among 8 agents under load."""
    count, names, deadly = 1000, [f"a{n}" for n in range(1, 9)], ("d1", "d2")
    report = Report()
    errors: dict[str, CallError] = {}
    async with scene(
        (options.registry, options.bus), names, ttl=3.0, capacity=4, capabilities=["work", "deadly"]
    ) as (agents, orchestrator):
        load = asyncio.create_task(send(orchestrator, count, **LOAD))
        async with asyncio.timeout(30):
            while agents.effects().ended.total() < LOAD["in_flight"]:
                await asyncio.sleep(0.02)
        for command in deadly:
            try:
                await orchestrator.call(
                    "deadly", {"command": command, "seconds": DEADLY}, namespace="chaos", timeout=30
                )
            except CallError as error:
                errors[command] = error
        under_load = not load.done()
        outcome = await load
        letters = await orchestrator.bus.dead_letters()
        ended = [
            process.returncode for process in agents.processes.values() if process.returncode is not None
        ]
        effects = agents.effects()
    buried = {letter.message.data["params"]["command"]: letter.reason for letter in letters}
    victims = {command: effects.nodes[command] for command in deadly}
    beside = {
        command: [len(effects.running(node)) - 1 for node in nodes] for command, nodes in victims.items()
    }
    for command in deadly:
        killed = zip(victims[command], beside[command], strict=True)
        report.fact(
            f"{command} killed, with so many neighbours", ", ".join(f"{node} {n}" for node, n in killed)
        )
        report.fact(f"{command}: its caller hears", errors.get(command, "nothing"))
        report.fact(f"{command}: its dead letter says", buried.get(command, "there is none"))
    report.fact("agents that ended", f"{len(ended)} of {len(names)}")
    report.fact(
        "neighbours: answered / rerouted / failed",
        f"{len(outcome.answers)} / {len(outcome.rerouted)} / {len(outcome.errors)}",
    )
    report.promise(
        "there was trouble: neighbours under load, some in the hands of each that died of it while it was not alone",
        under_load and all(min(numbers[: EXECUTIONS - 1], default=0) > 0 for numbers in beside.values()),
    )
    report.promise(
        f"it is begun {EXECUTIONS} times, on as many agents, and not again; the last time it is alone",
        all(len(set(nodes)) == len(nodes) == EXECUTIONS for nodes in victims.values())
        and all(numbers[-1:] == [0] for numbers in beside.values()),
    )
    report.promise(
        "its caller hears who died of it, and that it may have run",
        len(errors) == len(deadly)
        and all(
            isinstance(error, DeliveryError)
            and error.outcome == "unknown"
            and all(name in str(error) for name in victims[command])
            for command, error in errors.items()
        ),
    )
    report.promise(
        "it is kept as a dead letter with the reason, and nothing else is",
        sorted(buried) == sorted(deadly)
        and len(letters) == len(deadly)
        and all(name in buried[command] for command in buried for name in victims[command]),
    )
    report.promise(
        "the fleet lives: nobody else ended, and every neighbour's command is answered",
        ended == [-signal.SIGKILL] * len(deadly) * EXECUTIONS and outcome.lost == 0,
    )
    return report


async def hanging(options: Options) -> Report:
    """Handlers that hang, on the loop and on threads, with deadlines of 1 s, on an agent for 4 commands at once."""
    names, kinds, timeout, turns = ["a1"], ("work", "stuck"), 1.0, 5
    report = Report()
    failed: list[CallError] = []
    slowest = 0.0
    async with scene((options.registry, options.bus), names, capacity=4, capabilities=kinds) as (
        agents,
        orchestrator,
    ):

        async def hang(command: str, kind: str) -> None:
            nonlocal slowest
            began = boottime()
            try:
                await orchestrator.call(
                    kind, {"command": command, "seconds": 2.0 * turns}, namespace="chaos", timeout=timeout
                )
            except CallError as error:
                failed.append(error)
                slowest = max(slowest, boottime() - began)

        # As many as there are slots, again and again: were one not freed, the next turn would find it taken.
        for turn in range(turns):
            await asyncio.gather(*(hang(f"{turn}-{kind}-{n}", kind) for kind in kinds for n in range(2)))
        after = await send(orchestrator, 40, in_flight=4, seconds=0.05, timeout=5.0)
        effects = agents.effects()
    hung = 2 * len(kinds) * turns
    begun = sum(effects.started[command] for command in effects.started if "-" in command)
    report.fact(
        "commands that hang: called / begun / stopped", f"{hung} / {begun} / {effects.stopped.total()}"
    )
    report.fact("slowest end", f"{slowest:.2f} s of {timeout:g} s")
    report.fact("commands after them: answered / slowest", f"{len(after.answers)} / {after.slowest:.2f} s")
    report.promise("there was trouble: nine in ten of them had begun", begun >= 0.9 * hung)
    report.promise(
        "every one fails by its deadline (and 0.5 s)", len(failed) == hung and slowest <= timeout + 0.5
    )
    report.promise("its deadline frees the slot: all that comes after is answered", after.lost == 0)
    return report
