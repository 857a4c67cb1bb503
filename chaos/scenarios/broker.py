"""A RabbitMQ that dies, and one that takes no more messages, under load."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from chaos.caller import caller
from chaos.ledger import Effects
from chaos.leftovers import left_over
from chaos.load import Outcome, send
from chaos.report import Options, Report
from chaos.stores import broker_of
from chaos.team import scene
from roster import CallError, Orchestrator
from roster._clock import boottime

NAMES = ("a1", "a2", "a3", "a4")
RATE, SECONDS = 50.0, 0.05
IN_FLIGHT = 1000
# Seconds: what the end of a call may come after its deadline; what is left of a deadline when all must be well again.
LATE, RECOVERY = 0.5, 5.0

Outage = tuple[float, float]


async def broker_kill(options: Options) -> Report:
    """RabbitMQ is killed with -9 and started again, twice, under 2 callers and 4 agents."""
    timeout = 30.0
    load: dict[str, Any] = {"in_flight": IN_FLIGHT, "seconds": SECONDS, "rate": RATE, "timeout": timeout}
    report = Report()
    outages: list[Outage] = []
    gone: list[float] = []
    outcome = Outcome()
    async with (
        broker_of() as broker,
        scene((options.registry, broker.url), NAMES) as (agents, orchestrator),
        caller(agents, "second", NAMES) as second,
    ):

        async def from_both(count: int) -> Outcome:
            name = f"after-{len(outages)}-{count}"
            second.begin(count, prefix=f"{name}-second-", **load)
            first = await send(orchestrator, count, prefix=f"{name}-first-", **load)
            return first.merged(await second.done(f"{name}-second-"))

        uids = _uids(orchestrator)
        for _ in range(2):
            # For as long as it may take to come up, and after that as long as it may take until all is well.
            sending = asyncio.create_task(from_both(int(RATE * 20)))
            await asyncio.sleep(RECOVERY)
            killed = boottime()
            await asyncio.to_thread(broker.kill)
            gone.append(boottime())
            await asyncio.to_thread(broker.start)
            outages.append((killed, boottime()))
            outcome = outcome.merged(await sending).merged(await from_both(int(RATE * RECOVERY)))
        left = await left_over(broker, orchestrator, NAMES)
        effects = agents.effects()
        same = _uids(orchestrator) == uids
    out = [
        open_at(outcome, killed) | _called(outcome, killed, dead)
        for (killed, _), dead in zip(outages, gone, strict=True)
    ]
    caught = set[str]().union(*out)
    called = [_called(outcome, dead, back) for (_, back), dead in zip(outages, gone, strict=True)]
    # Called so late before a return, or so long, that nothing could be done by its deadline.
    hopeless = {
        command
        for (_, back), commands in zip(outages, called, strict=True)
        for command in commands
        if outcome.began[command] + timeout < back + RECOVERY
    }
    failed = outcome.errors.keys()
    twice = [command for command in effects.finished_twice if command not in caught]
    again = [first_answer(outcome, back) - back for _, back in outages]
    report.fact("outages", " ".join(f"{back - killed:.1f} s" for killed, back in outages))
    report.fact("first answer after the return", " ".join(f"{one:.2f} s" for one in again))
    report.fact("commands of 2 callers / failed", f"{len(outcome.began)} / {len(failed)}")
    report.fact("out at each kill / of those failed", _shares(out, failed))
    report.fact("called while it was away / of those failed", _shares(called, failed))
    report.fact("slowest end of a call", f"{max(outcome.taken.values()):.2f} s of {timeout:g} s")
    report.fact(
        "finished twice: of those out at a kill / of others",
        f"{len(effects.finished_twice) - len(twice)} / {len(twice)}",
    )
    _errors(report, outcome.errors)
    report.promise(
        "there was trouble: at each of two kills at least 3 commands were out, and the load went on",
        all(len(one) >= 3 for one in out) and max(outcome.began.values()) > outages[-1][1],
    )
    report.promise("0 lost: what was not out at a kill is answered", not failed - caught - hopeless)
    report.promise("0 answered twice", outcome.twice == 0)
    _of_failures(report, outcome, effects, timeout)
    report.promise("nothing is done twice that was not out at a kill", not twice)
    report.promise(f"answers come again within {RECOVERY:g} s of each return", max(again) <= RECOVERY)
    report.promise("no agent was taken for dead", same)
    report.promise(f"nothing is left in a queue or in anybody's hands {left or ''}", not left)
    return report


def _uids(orchestrator: Orchestrator) -> list[str]:
    records = [orchestrator.node(f"chaos/{name}") for name in NAMES]
    return [record.uid if record is not None else "" for record in records]


def _called(outcome: Outcome, since: float, until: float) -> set[str]:
    return {command for command, began in outcome.began.items() if since <= began < until}


def open_at(outcome: Outcome, moment: float) -> set[str]:
    """Return the commands that had been called by then, and not ended."""
    return {
        command
        for command, began in outcome.began.items()
        if began < moment < began + outcome.taken.get(command, float("inf"))
    }


def _shares(groups: Iterable[set[str]], failed: Collection[str]) -> str:
    return ", ".join(f"{len(group)} / {len(group.intersection(failed))}" for group in groups)


def first_answer(outcome: Outcome, after: float) -> float:
    """When the first answer came after a moment; infinity: none did."""
    came = (outcome.began[command] + outcome.taken[command] for command in outcome.answers)
    return min((at for at in came if at >= after), default=float("inf"))


def _errors(report: Report, errors: dict[str, CallError]) -> None:
    """Show each kind of failure, with an example."""
    kinds = Counter((str(error.code), error.outcome) for error in errors.values())
    for kind, count in kinds.most_common(6):
        example = next(error for error in errors.values() if (str(error.code), error.outcome) == kind)
        report.fact(f"{count} failed with {' '.join(kind)}", example.summary[:200])


def _of_failures(report: Report, outcome: Outcome, effects: Effects, timeout: float) -> None:
    """What is promised of every call, whatever the broker does."""
    wrong = [
        command
        for command, error in outcome.errors.items()
        if error.outcome in ("not_sent", "refused") and effects.started[command]
    ]
    report.fact("said to be not sent or refused, and had begun", f"{len(wrong)} {wrong[:3] or ''}")
    report.promise("each failure says why", all(error.summary for error in outcome.errors.values()))
    report.promise("what is said to be not sent, or refused, has never begun", not wrong)
    report.promise(
        f"every call ends by its deadline (and {LATE:g} s)",
        len(outcome.taken) == len(outcome.began) and max(outcome.taken.values()) <= timeout + LATE,
    )


async def broker_alarm(options: Options) -> Report:
    """A memory alarm stops whoever publishes to RabbitMQ for 10 s, under load, with deadlines of 3 s."""
    count, timeout, stopped_for = 1500, 3.0, 10.0
    report = Report()
    async with (
        broker_of() as broker,
        scene((options.registry, broker.url), NAMES) as (agents, orchestrator),
    ):
        uids = _uids(orchestrator)
        load = asyncio.create_task(
            send(orchestrator, count, in_flight=IN_FLIGHT, seconds=SECONDS, rate=RATE, timeout=timeout)
        )
        await asyncio.sleep(RECOVERY)
        asked = boottime()
        await asyncio.to_thread(broker.alarm, on=True)
        raised = boottime()
        await asyncio.sleep(stopped_for)
        ending = boottime()
        await asyncio.to_thread(broker.alarm, on=False)
        ended = boottime()
        outcome = await load
        left = await left_over(broker, orchestrator, NAMES)
        effects = agents.effects()
        same = _uids(orchestrator) == uids
    meanwhile = _called(outcome, raised, ending - timeout)
    before, after = _called(outcome, 0.0, asked - timeout), _called(outcome, ended + RECOVERY, float("inf"))
    touched = _called(outcome, asked - timeout, ended + RECOVERY)
    failed = outcome.errors.keys()
    begun = {line["command"]: line["at"] for line in effects.lines if line["what"] == "start"}
    late = [command for command, at in begun.items() if at > outcome.began[command] + timeout + LATE]
    again = first_answer(outcome, ending) - ended
    report.fact("the alarm was on for", f"{ending - raised:.1f} s")
    report.fact("called / failed: before, touched by it, after", _shares((before, touched, after), failed))
    report.fact(
        "called and over while it was on / of those failed", f"{len(meanwhile)} / {len(meanwhile & failed)}"
    )
    report.fact("slowest end of a call", f"{max(outcome.taken.values()):.2f} s of {timeout:g} s")
    report.fact("first answer after its end", f"{again:.2f} s")
    report.fact(
        "commands begun after their deadline / finished twice", f"{len(late)} / {len(effects.finished_twice)}"
    )
    _errors(report, outcome.errors)
    report.promise(
        "there was trouble: at least 100 calls failed while the alarm was on, and at least 100 came after it",
        len(meanwhile & failed) >= 100 and len(after) >= 100,
    )
    report.promise("what the alarm did not touch is answered", not failed & (before | after))
    _of_failures(report, outcome, effects, timeout)
    report.promise("0 answered twice, 0 done twice", outcome.twice == 0 and not effects.finished_twice)
    report.promise("nothing is begun after its deadline", not late)
    report.promise(f"service returns within {RECOVERY:g} s", again <= RECOVERY)
    report.promise("no agent was taken for dead", same)
    report.promise(f"nothing is left in a queue or in anybody's hands {left or ''}", not left)
    return report
