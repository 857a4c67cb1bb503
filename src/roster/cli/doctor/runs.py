"""Examines the runs of process cards: their database, those that do not get on, and who would take them up."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from roster._clock import seconds_since
from roster._durations import show_duration
from roster.cli.doctor.finding import Finding, fail, few, ok, warn
from roster.errors import ConfigError, RosterError

if TYPE_CHECKING:
    from roster.orchestrator.runs.book import Book
    from roster.orchestrator.runs.record import RunState

AREA = "runs"
_DEADLINE = 15.0
_LOOKED_AT = 500
_PATIENCE = 86400.0
_GOING: tuple[RunState, ...] = ("pending", "running", "waiting", "paused")


async def examine() -> list[Finding]:
    """Return findings. A database that is not there is not made."""
    if importlib.util.find_spec("sqlalchemy") is None:
        return [ok(AREA, "process cards are not run here (agent-roster[runs] is not installed)")]
    from roster.orchestrator.runs.database import RunsUrl

    try:
        url = RunsUrl.parse()
    except ConfigError as error:
        return [fail(AREA, str(error), "correct the variable")]
    if url.scheme == "sqlite" and not await asyncio.to_thread(Path(url.path).exists):
        return [ok(AREA, f"{url.shown}: no run has been begun")]
    try:
        async with asyncio.timeout(_DEADLINE):
            return await asyncio.to_thread(_look)
    except TimeoutError:
        return [
            fail(
                AREA,
                f"{url.shown} did not answer within {_DEADLINE:g} s",
                "see that the database runs, and that nothing holds a lock on it",
            )
        ]
    except RosterError as error:
        return [fail(AREA, str(error), "no card can be run until that is put right")]


def _look() -> list[Finding]:
    from roster.orchestrator.runs.book import Book

    book = Book()
    try:
        return [*_summary(book), *_runs(book)]
    finally:
        book.close()


def _summary(book: Book) -> list[Finding]:
    from roster.orchestrator.runs.looks import executors

    counts = book.counts()
    said = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no runs"
    known = executors(book.engine)
    alive = [one for one in known if one.holder is None or one.holder.liveness() != "dead"]
    gone = len(known) - len(alive)
    who = f"{len(alive)} orchestrator{'s' if len(alive) != 1 else ''} at work"
    found = [ok(AREA, f"{book.url.shown}: {said}; {who}{f', {gone} gone' if gone else ''}")]
    if not alive and any(counts.get(state) for state in _GOING):
        found.append(
            warn(
                AREA,
                "runs have not ended, and no orchestrator is at work",
                "start one that takes them up: roster orchestrate",
            )
        )
    if paused := book.paused_cards():
        found.append(
            warn(
                AREA,
                f"all runs of these cards stand still: {few(sorted(paused))}",
                "let them go on with 'roster resume card/NAME'",
            )
        )
    return found


def _runs(book: Book) -> list[Finding]:
    found: list[Finding] = []
    going = book.list(states=_GOING, limit=_LOOKED_AT)
    # The reason may be in a step, and a list has none.
    stuck = [record for record in (book.get(one.id) for one in going) if record.stuck]
    found += [
        warn(AREA, f"{one.id} is stuck: {one.stuck}", f"look at it: roster describe run {one.id}")
        for one in stuck[:10]
    ]
    if len(stuck) > 10:
        found.append(warn(AREA, f"{len(stuck) - 10} more runs are stuck", "see 'roster get runs'"))
    waiting = [
        record
        for record in going
        if record.waiting is not None
        and record.waiting["kind"] in ("approval", "escalation")
        and (seconds_since(record.waiting["since"]) or 0.0) > _PATIENCE
    ]
    for record in waiting[:10]:
        since = show_duration(seconds_since((record.waiting or {})["since"]))
        found.append(
            warn(
                AREA,
                f"{record.id} has waited for a person for {since}",
                f"answer it: roster describe run {record.id} says how",
            )
        )
    if dead := book.list(states=("dead",), limit=_LOOKED_AT):
        found.append(
            fail(
                AREA,
                f"{len(dead)} run{'s were' if len(dead) > 1 else ' was'} given up, since orchestrators died in them again "
                f"and again: {few([record.id for record in dead])}",
                "look at the step they were in, then 'roster run resume ID' or 'roster run prune'",
            )
        )
    return found
