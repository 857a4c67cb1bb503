"""One card with every kind of step, and orchestrators killed at every point of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from chaos.report import Options, Report
from chaos.runs import Crew, crew, judge, told
from roster.errors import RunConflictError
from roster.orchestrator.runs.record import ENDED

AGENTS = ("a1", "a2", "a3", "a4")
RUNS, ITEMS, KILLS = 6, 200, 30
_LOOK = 0.1


def _work(what: str, output: str | None = None) -> dict[str, Any]:
    step: dict[str, Any] = {
        "action": "work",
        "params": {"command": f"${{input.token}}.{what}", "seconds": 0.02},
    }
    return step if output is None else {**step, "output": output}


def _child() -> dict[str, Any]:
    return {
        "name": "child",
        "steps": [_work("c0", "c0"), _work("c1", "c1"), {"type": "complete", "result": "${c1.command}"}],
    }


def every_kind() -> dict[str, Any]:
    """Return the card: its file has `child.yaml` beside it."""
    return {
        "name": "every-kind",
        "steps": [
            {"id": "first", **_work("first", "first")},
            {"id": "never", "when": "${first.command} == 'x'", **_work("never")},
            {
                "id": "branches",
                "type": "parallel",
                "branches": [
                    _work("b0", "b0"),
                    [_work("b1", "b1"), {"type": "wait", "duration": "300ms"}, _work("b1x", "b1x")],
                    [{"type": "wait", "event": "go ${input.token}", "output": "went"}, _work("b2", "b2")],
                    {"id": "ask", "type": "human_checkpoint", "message": "a branch?", "output": "branch"},
                ],
                "output": "all",
            },
            {
                "id": "each",
                "type": "foreach",
                "items": "${input.items}",
                "max_concurrency": 10,
                "do": {
                    "action": "work",
                    "params": {"command": "${input.token}.i${item}", "seconds": 0.005},
                    "output": "done",
                },
                "output": "each",
            },
            {
                "id": "child",
                "type": "subprocess",
                "card": "child.yaml",
                "params": {"token": "${input.token}"},
                "output": "child",
            },
            {"id": "pause", "type": "wait", "duration": "500ms"},
            {"id": "yes", "type": "human_checkpoint", "message": "${input.token}?", "output": "yes"},
            {"id": "which", "condition": "${yes.approved}", "then": "end", "else": "wrong"},
            {"id": "wrong", "type": "complete", "status": "failure", "result": None},
            {"id": "end", **_work("end", "end")},
            {
                "type": "complete",
                "result": {
                    "each": "${each}",
                    "child": "${child}",
                    "went": "${went}",
                    "b1x": "${b1x.command}",
                    "by": "${yes.by}",
                },
            },
        ],
    }


def _commands(token: str) -> list[str]:
    names = ["first", "b0", "b1", "b1x", "b2", "c0", "c1", "end", *(f"i{number}" for number in range(ITEMS))]
    return [f"{token}.{name}" for name in names]


def _expected(result: Any, token: str) -> bool:
    """Whether a run brought what it has to; which agent did a step is the one thing that may differ."""
    each = [one.get("command") for one in result.pop("each")] if isinstance(result, dict) else None
    return each == [f"{token}.i{number}" for number in range(ITEMS)] and result == {
        "child": f"{token}.c1",
        "went": {"token": token},
        "b1x": f"{token}.b1x",
        "by": "the operator",
    }


async def _operate(all_: Crew, tokens: list[str]) -> None:
    """Send each run its event, and say yes to whatever asks."""

    def once() -> None:
        for token in tokens:
            record = all_.book.get(token)
            if record.state in ENDED:
                continue
            for step in record.steps:
                if step.waiting is None:
                    continue
                try:
                    if step.waiting["kind"] == "approval":
                        all_.book.answer(token, "approve", step.key, by="the operator")
                    elif step.waiting["kind"] == "event":
                        all_.book.signal(token, step.waiting["event"], {"token": token})
                except RunConflictError:
                    pass  # it has gone on in the meantime

    while True:
        await asyncio.to_thread(once)
        await asyncio.sleep(_LOOK)


@asynccontextmanager
async def _operated(all_: Crew, tokens: list[str]) -> AsyncIterator[None]:
    task = asyncio.create_task(_operate(all_, tokens))
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def card_kinds(options: Options) -> Report:
    """Every kind of step, 200 items too, while the orchestrator is killed with -9 at 30 random points; files changed."""
    report, rng = Report(), random.Random(7)
    tokens = [f"k{number}" for number in range(RUNS)]
    async with crew(options, AGENTS, ttl=3.0) as all_:
        folder: Path = all_.agents.directory / "cards"
        folder.mkdir()
        card, child = folder / "every.yaml", folder / "child.yaml"
        card.write_text(yaml.safe_dump(every_kind(), sort_keys=False))
        child.write_text(yaml.safe_dump(_child(), sort_keys=False))
        inputs = {token: {"token": token, "items": list(range(ITEMS))} for token in tokens}
        await all_.enlist(card, inputs)
        # What a run began with it keeps to.
        card.write_text("name: another\nsteps: [{action: nobody_can}]\n")
        child.unlink()
        await all_.start("o1")
        finished = False
        async with _operated(all_, tokens):
            while all_.kills < KILLS and not finished:
                finished = await all_.over(rng.uniform(0.8, 3.0))
                if not finished:
                    await all_.kill("o1")
                    await all_.start("o1")
            finished = await all_.over(120.0)
        records = await all_.records(tokens)
        effects = all_.agents.effects()
        judged = judge(effects, [one for token in tokens for one in _commands(token)], {})
    report.fact("kills", all_.kills)
    report.fact("recoveries", [record.recoveries for record in records])
    for record in [one for one in records if one.state != "succeeded"]:
        report.fact(f"{record.id} {record.state}", record.error or record.stuck or record.waiting)
    report.promise("there was trouble: at least 10 kills", all_.kills >= 10)
    report.promise("every run succeeds", finished and all(record.state == "succeeded" for record in records))
    report.promise(
        "every run brings the same, by the cards that it began with",
        all(_expected(record.result, record.id) for record in records),
    )
    wanted = {one for token in tokens for one in _commands(token)}
    report.promise("nothing is done that was not to be", set(effects.started) <= wanted)
    told(report, judged)
    return report
