"""Servers that stand still while nobody died, and leases that end behind the back of those who live."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from servers.http import request

from chaos.gathering import Onlooker, onlooker, took
from chaos.load import Outcome, send
from chaos.report import Options, Report
from chaos.stores import on_each, server_of
from chaos.team import Team, team
from roster import Orchestrator
from roster._clock import boottime
from servers import Consul, Etcd, Server, ServerError

TTL = 30.0
FROZEN = 60.0
REVOKING = 42.0
RATE = 15.0
NOTICED_WITHIN = 15.0


@dataclass(slots=True)
class Stage:
    """A team on a server, callers that call it all the time, and one who looks on from each caller."""

    server: Server
    agents: Team
    callers: list[Orchestrator]
    onlookers: list[Onlooker]
    outcomes: list[Outcome]


@asynccontextmanager
async def _stage(engine: str, names: list[str], callers: int) -> AsyncIterator[Stage]:
    async with server_of(engine) as (server, _), AsyncExitStack() as stack:
        agents = await stack.enter_async_context(team(server.url, None, ttl=TTL))
        orchestrators = [
            await stack.enter_async_context(Orchestrator.connect(agents.registry_url, agents.bus_url))
            for _ in range(callers)
        ]
        await asyncio.gather(*(agents.start(name) for name in names))
        for each in orchestrators:
            await agents.ready(each, names)
        onlookers = [await stack.enter_async_context(onlooker(each)) for each in orchestrators]
        stage = Stage(server, agents, orchestrators, onlookers, [])
        yield stage


async def _calls_until(stage: Stage, over: asyncio.Event, prefix: str) -> None:
    """Call at a steady pace, in portions, until told that it is over."""

    async def one(number: int, caller: Orchestrator) -> None:
        portion = 0
        while not over.is_set():
            stage.outcomes.append(
                await send(
                    caller,
                    int(RATE),
                    in_flight=32,
                    seconds=0.02,
                    rate=RATE,
                    prefix=f"{prefix}-{number}-{portion}-",
                )
            )
            portion += 1

    await asyncio.gather(*(one(number, caller) for number, caller in enumerate(stage.callers)))


@asynccontextmanager
async def _under_calls(stage: Stage, prefix: str) -> AsyncIterator[None]:
    over = asyncio.Event()
    calls = asyncio.create_task(_calls_until(stage, over, prefix))
    try:
        yield
    finally:
        over.set()
        await calls


def _note_calls(report: Report, stage: Stage, least: int) -> None:
    answered = sum(len(outcome.answers) for outcome in stage.outcomes)
    errors = [error for outcome in stage.outcomes for error in outcome.errors.values()]
    slowest = max((max([*o.latencies, *o.rerouted], default=0.0) for o in stage.outcomes), default=0.0)
    rerouted = sum(len(outcome.rerouted) for outcome in stage.outcomes)
    report.fact(
        "calls answered / failed / rerouted, slowest",
        f"{answered} / {len(errors)} / {rerouted}, {slowest * 1e3:.0f} ms",
    )
    for error in errors[:3]:
        report.fact("failed", error)
    report.promise(f"0 failed calls, of at least {least}", not errors and answered >= least)


def _note_team(report: Report, stage: Stage, names: list[str]) -> None:
    """After a server stood still: nobody died, so nobody may be missing."""
    dead = [event for one in stage.onlookers for event in one.dead]
    fewest = min(one.fewest for one in stage.onlookers)
    report.fact("fewest candidates in a lookup", f"{fewest} of {len(names)}")
    report.fact("called unknown for a while", sum(one.doubted for one in stage.onlookers))
    for event in dead[:5]:
        report.fact("called dead", event)
    report.promise("nobody is called offline or removed", not dead)
    report.promise("every lookup finds everybody", fewest == len(names))


async def store_freeze(options: Options) -> Report:
    """Each server frozen with SIGSTOP for 60 s (TTL 30 s) under a team that is called all the time, and woken."""
    names = ["a1", "a2"]

    async def one(engine: str) -> Report:
        report = Report()
        async with _stage(engine, names, 1) as stage:
            eyes = stage.onlookers[0]
            async with _under_calls(stage, "c"):
                await asyncio.sleep(2.0)
                uids = eyes.uids()
                frozen = boottime()
                stage.server.freeze()
                await asyncio.sleep(FROZEN)
                stage.server.thaw()
                thawed = boottime()
                found = None
                while found is None and boottime() < thawed + 15:
                    await asyncio.sleep(0.02)
                    found = eyes.after(thawed, True)
                # Whoever has not found out yet that its lease is gone does so with its next keep-alive.
                await asyncio.sleep(TTL / 3)
                back = max(0.0, eyes.unready - thawed)
                after = eyes.uids()
            noticed = eyes.after(frozen, False)
            report.fact("noticed after", took(noticed))
            report.fact("greatest staleness", f"{eyes.stalest:.1f} s")
            report.fact("lookups meanwhile, slowest", f"{eyes.looks}, {eyes.slowest * 1e3:.1f} ms")
            anew = sum(after.get(name) != uid for name, uid in uids.items())
            report.fact("after the thaw: followed again / everybody ready", f"{took(found)} / {took(back)}")
            report.fact("registered anew", f"{anew} of {len(names)}")
            _note_calls(report, stage, 500)
            _note_team(report, stage, names)
            report.promise(
                f"noticed within {NOTICED_WITHIN:g} s", noticed is not None and noticed <= NOTICED_WITHIN
            )
            report.promise("lookups are served from the copy, none waits", eyes.slowest < 1.0)
            report.promise(
                "it recovers by itself: followed again within 5 s, everybody ready within TTL/3",
                found is not None and found <= 5 and len(after) == len(names) and back < TTL / 3,
            )
        return report

    return await on_each(options.stores, one)


async def mass_revoke(options: Options) -> Report:
    """etcd frozen for 42 s (TTL 30 s); then, on each store, every lease ended at once behind our back; all under calls."""
    names = ["a1", "a2", "a3", "a4"]

    async def one(engine: str) -> Report:
        report = Report()
        async with _stage(engine, names, 2) as stage:
            async with _under_calls(stage, "c"):
                await asyncio.sleep(2.0)
                if engine != "consul":
                    # etcd, and ZooKeeper as well, ends every lease the moment it wakes.
                    before = [eyes.uids() for eyes in stage.onlookers]
                    stage.server.freeze()
                    await asyncio.sleep(REVOKING)
                    stage.server.thaw()
                    took_them = [
                        await eyes.until(_all_new(uids), TTL)
                        for eyes, uids in zip(stage.onlookers, before, strict=True)
                    ]
                    report.fact(f"frozen {REVOKING:g} s: everybody back after", took(_slowest(took_them)))
                    report.promise("frozen: every lease was ended, everybody is back", None not in took_them)
                    _note_team(report, stage, names)
                    await asyncio.sleep(5.0)
                if engine != "zookeeper":
                    before = [eyes.uids() for eyes in stage.onlookers]
                    number = await asyncio.to_thread(_end_leases, stage.server)
                    took_them = [
                        await eyes.until(_all_new(uids), TTL)
                        for eyes, uids in zip(stage.onlookers, before, strict=True)
                    ]
                    report.fact("leases ended behind our back", number)
                    report.fact("everybody back after", took(_slowest(took_them)))
                    slowest = _slowest(took_them)
                    report.promise(
                        "every lease ended: everybody is back within TTL/3 and 3 s",
                        number >= len(names) and slowest is not None and slowest <= TTL / 3 + 3,
                    )
                await asyncio.sleep(2.0)
            fewest = min(eyes.fewest for eyes in stage.onlookers)
            report.fact("fewest candidates in a lookup", f"{fewest} of {len(names)}")
            _note_calls(report, stage, 200)
            # Two may be taken for dead before it shows that many go.
            report.promise("no lookup finds nobody", fewest >= len(names) - 2)
        return report

    return await on_each(options.stores, one)


def _all_new(before: dict[str, str]) -> Callable[[dict[str, str]], bool]:
    return lambda now: now.keys() == before.keys() and all(now[name] != before[name] for name in now)


def _slowest(durations: list[float | None]) -> float | None:
    known = [one for one in durations if one is not None]
    return max(known) if len(known) == len(durations) else None


def _end_leases(server: Server) -> int:
    """End every lease by the server's own means; return how many."""
    if isinstance(server, Etcd):
        # etcd's own gateway: a process for each of them would take longer than the nodes need to come back.
        leases = _gateway(server, "lease/leases", {})["leases"]
        for lease in leases:
            _gateway(server, "lease/revoke", {"ID": lease["ID"]})
        return len(leases)
    assert isinstance(server, Consul)
    sessions = [session["ID"] for session in server.api("GET", "/v1/session/list")]
    for session in sessions:
        server.api("PUT", f"/v1/session/destroy/{session}")
    return len(sessions)


def _gateway(server: Etcd, method: str, body: dict[str, str]) -> dict[str, Any]:
    status, text = request(server.ports["client"], f"/v3/{method}", method="POST", body=body)
    if status != 200:
        raise ServerError(f"etcd: {method} answered {status}: {text[:200]}")
    answer: dict[str, Any] = json.loads(text)
    return answer
