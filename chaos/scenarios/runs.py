"""Runs of process cards whose orchestrators and agents die, freeze, and are replaced."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from chaos.report import Options, Report
from chaos.runs import Crew, commands_of, crew, five_steps, judge, size_of, told
from roster._clock import boottime
from roster.orchestrator.runs.record import ENDED, RunRecord

AGENTS = tuple(f"a{number}" for number in range(1, 9))
PERIOD = 2.0
COUNT = 1000
TROUBLE = 150.0


async def _tell_ends(report: Report, records: list[RunRecord], crew_: Crew) -> None:
    ends = Counter(record.state for record in records)
    report.fact("how they ended", dict(ends))
    report.fact("most recoveries of one run", max(record.recoveries for record in records))
    for record in [one for one in records if one.state != "succeeded"][:3]:
        report.fact(f"{record.id} {record.state}", record.error or record.stuck)


async def card_runs(options: Options) -> Report:
    """1 000 runs of a card of 5 steps over 8 agents; an orchestrator killed with -9 every 2 s, agents at random."""
    count = COUNT
    several = options.runs is not None and not options.runs.startswith("sqlite")
    report, rng = Report(), random.Random(1)
    names = ("o1", "o2", "o3") if several else ("o1",)
    async with crew(options, AGENTS, ttl=3.0) as all_:
        tokens = [f"t{number}" for number in range(count)]
        began = boottime()
        await all_.enlist(five_steps(), {token: {"token": token} for token in tokens})
        report.fact("runs enlisted", f"{count} in {boottime() - began:.1f} s")
        began = boottime()
        for name in names:
            await all_.start(name)
        # A busy machine does not get on for the starts of processes: after a while it is left in peace.
        troubled = await all_.kill_in_turn(PERIOD, TROUBLE, rng, agents=0.5)
        for name, process in all_.orchestrators.items():
            if process.returncode is not None:
                await all_.start(name)
        finished = troubled or await all_.over(240.0)
        report.fact("runs ended", f"in {boottime() - began:.1f} s, with {len(names)} orchestrators at a time")
        report.fact("in trouble all the time", "yes" if troubled else f"for {TROUBLE:.0f} s")
        report.fact("kills", f"{all_.kills} of orchestrators, {len(all_.killed)} of agents")
        report.fact("largest orchestrator", f"{all_.most:.0f} MiB")
        if size := size_of(all_.runs_url):
            report.fact("the database", f"{size:.1f} MiB, {size * 1024 / count:.1f} KiB a run")
        records = await all_.records(tokens)
        await _tell_ends(report, records, all_)
        judged = judge(
            all_.agents.effects(), [one for token in tokens for one in commands_of(token)], all_.killed
        )
    report.promise(
        "there was trouble: at least 10 orchestrators and 3 agents killed",
        all_.kills >= 10 and len(all_.killed) >= 3,
    )
    report.promise("every run succeeds", finished and all(record.state == "succeeded" for record in records))
    report.promise(
        "every run brings its own result",
        all(record.result == {"last": f"{record.id}.s4"} for record in records),
    )
    told(report, judged)
    return report


async def killer_card(options: Options) -> Report:
    """A card that kills whichever orchestrator does its step, among 50 runs with short and long steps and 10 that wait."""
    report = Report()
    deadly = {"name": "deadly", "steps": [{"id": "kill", "action": "deadly"}]}
    waiting = {
        "name": "waiting",
        "steps": [
            {"id": "ask", "type": "human_checkpoint", "message": "well?"},
            {"action": "nobody_is_asked"},
        ],
    }
    long_ = {
        "name": "long",
        "steps": [{"action": "work", "params": {"command": "${input.token}.s0", "seconds": 4.0}}],
    }
    async with crew(options, AGENTS[:4], ttl=3.0, capacity=20) as all_:
        short = {f"t{number}": {"token": f"t{number}"} for number in range(40)}
        slow = {f"l{number}": {"token": f"l{number}"} for number in range(10)}
        idle: dict[str, dict[str, str]] = {f"w{number}": {} for number in range(10)}
        await all_.enlist(waiting, idle)
        await all_.enlist(deadly, {"killer": {}})
        await all_.enlist(long_, slow)
        await all_.enlist(five_steps(), short)
        began = boottime()
        await all_.start("o1", CHAOS_DEADLY="deadly")
        innocent = [*short, *slow]
        while boottime() - began < 150.0:
            if all_.orchestrators["o1"].returncode is not None:
                await all_.kill("o1")
                await all_.start("o1", CHAOS_DEADLY="deadly")
            if await all_.left() == len(idle):
                break
            await asyncio.sleep(0.1)
        report.fact("until the killer was given up and the others had ended", f"{boottime() - began:.1f} s")
        killer = all_.book.get("killer")
        report.fact("orchestrators that died", all_.kills)
        report.fact("the killer", f"{killer.state}: {(killer.error or {}).get('message')}")
        records = await all_.records(innocent)
        waits = await all_.records(idle)
        await _tell_ends(report, records, all_)
        alive = all_.orchestrators["o1"].returncode is None
        effects = all_.agents.effects()
        judged = judge(
            effects,
            [*(one for token in short for one in commands_of(token)), *(f"{one}.s0" for one in slow)],
            {},
        )
    report.promise("the card that kills is given up", killer.state == "dead" and alive)
    report.promise(
        "it has cost no more orchestrators than ROSTER_RUN_RECOVERIES and one (10 and 1)", all_.kills <= 11
    )
    report.promise("every other run succeeds", all(record.state == "succeeded" for record in records))
    report.promise(
        "whoever waits for a person is not given up either",
        all(record.state == "waiting" for record in waits),
    )
    told(report, judged)
    return report


async def orchestrator_freeze(options: Options) -> Report:
    """An orchestrator frozen past its lease in the middle of 200 runs, which a second one takes up; then it wakes."""
    count, ttl, frozen_for = 200, 5.0, 40.0
    report = Report()
    async with crew(options, AGENTS[:4], ttl=3.0, capacity=10) as all_:
        tokens = [f"t{number}" for number in range(count)]
        late = [f"u{number}" for number in range(50)]
        await all_.enlist(five_steps(0.2), {token: {"token": token} for token in tokens})
        await all_.start("o1", ROSTER_TTL=str(ttl))
        while sum(all_.agents.effects().ended.values()) < count:
            await asyncio.sleep(0.1)
        all_.freeze("o1")
        frozen = boottime()
        held = [one.id for one in await asyncio.to_thread(all_.book.list, states=("running",), limit=1000)]
        await all_.start("o2", ROSTER_TTL=str(ttl))
        while True:
            now = await all_.records(held)
            if not any(one.state not in ENDED and one.executor == now[0].executor for one in now):
                break
            if all(one.recoveries for one in now):
                break
            if boottime() - frozen > frozen_for:
                break
            await asyncio.sleep(0.2)
        taken = [one for one in await all_.records(held) if one.recoveries]
        report.fact("runs in its hands when it froze", len(held))
        report.fact("taken up by the second", f"{len(taken)}, after {boottime() - frozen:.1f} s")
        while boottime() - frozen < frozen_for:
            await asyncio.sleep(0.1)
        all_.thaw("o1")
        await all_.enlist(five_steps(), {token: {"token": token} for token in late})
        finished = await all_.over(90.0)
        records = await all_.records([*tokens, *late])
        await _tell_ends(report, records, all_)
        both = all(process.returncode is None for process in all_.orchestrators.values())
        judged = judge(
            all_.agents.effects(), [one for token in (*tokens, *late) for one in commands_of(token)], {}
        )
    report.promise(
        "it had runs in its hands, and the second took them all up", bool(held) and len(taken) == len(held)
    )
    report.promise("every run succeeds", finished and all(record.state == "succeeded" for record in records))
    report.promise(
        "every run brings its own result",
        all(record.result == {"last": f"{record.id}.s4"} for record in records),
    )
    report.promise("both orchestrators live", both)
    told(report, judged)
    return report


async def orchestrator_retire(options: Options) -> Report:
    """SIGTERM for an orchestrator under load, five times in turn: the next takes its runs at once, and none is struck."""
    count = 300
    report = Report()
    gaps: list[float] = []
    statuses: list[int] = []
    async with crew(options, AGENTS[:4], ttl=3.0, capacity=10) as all_:
        tokens = [f"t{number}" for number in range(count)]
        await all_.enlist(five_steps(0.2), {token: {"token": token} for token in tokens})
        await all_.start("o0")
        for turn in range(5):
            done = sum(all_.agents.effects().ended.values())
            while sum(all_.agents.effects().ended.values()) < done + 100:
                await asyncio.sleep(0.05)
            await all_.start(f"o{turn + 1}")
            await all_.serving(f"o{turn + 1}")
            statuses.append(await all_.retire(f"o{turn}"))
            since = boottime()
            while not any(
                line["what"] == "start" and line["at"] > since for line in all_.agents.effects().lines
            ):
                await asyncio.sleep(0.05)
            gaps.append(boottime() - since)
        finished = await all_.over(120.0)
        records = await all_.records(tokens)
        await _tell_ends(report, records, all_)
        effects = all_.agents.effects()
        judged = judge(effects, [one for token in tokens for one in commands_of(token)], {})
    report.fact("seconds until the next one went on", " ".join(f"{gap:.1f}" for gap in gaps))
    report.fact("work that was stopped", sum(effects.stopped.values()))
    report.promise("each ends with status 0", statuses == [0] * 5)
    report.promise("every run succeeds", finished and all(record.state == "succeeded" for record in records))
    report.promise("no run is counted as left by the dead", not any(record.recoveries for record in records))
    report.promise("the next one goes on within 5 s", max(gaps) < 5.0)
    told(report, judged)
    return report
