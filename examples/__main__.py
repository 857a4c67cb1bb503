"""`python -m examples NAME`: starts the agents of an example, runs its card, shows what it brings, and ends the agents."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from examples.agents.starting import PASSPORTS
from examples.start import Team
from examples.teams import EXAMPLES, Example
from roster import Orchestrator, RosterError


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples",
        description="Start the agents of an example, each a process, run its card, and end them.",
        epilog="Registry, bus and database of runs are those of the environment, as for the roster command.",
    )
    parser.add_argument("name", metavar="NAME", choices=EXAMPLES, help=", ".join(EXAMPLES))
    parser.add_argument(
        "-i",
        "--input",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an input of the card; VALUE is JSON, or else text",
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="say yes to whatever the run asks, and send it the events it waits for",
    )
    parser.add_argument(
        "--agents-only", action="store_true", help="start the agents, and keep them until Ctrl-C; run no card"
    )
    return parser.parse_args()


def _inputs(example: Example, pairs: list[str]) -> dict[str, Any]:
    inputs = dict(example.inputs)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise SystemExit(f"error: -i: expected NAME=VALUE, found {pair}")
        try:
            inputs[name] = json.loads(value)
        except ValueError:
            inputs[name] = value
    return inputs


async def _typed(question: str) -> str:
    """Return a line from the terminal. No thread waits for it, which Ctrl-C could not end."""
    print(question, end="", flush=True)
    loop = asyncio.get_running_loop()
    there = asyncio.Event()
    loop.add_reader(sys.stdin, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline()


async def _answer(orchestrator: Orchestrator, run: str, waiting: dict[str, Any], *, yes: bool) -> None:
    """Tell a run that waits for somebody what it waits for."""
    event = waiting.get("event")
    if event is not None:
        print(f"\nthe run waits for the event {event}")
    else:
        print(f"\n{waiting.get('message') or waiting}\n")
    if not yes and not sys.stdin.isatty():
        word = f"signal {run} {event}" if event else f"approve {run}"
        print(f"nobody to ask here: answer with `roster run {word}`, or start it with --yes", flush=True)
        return
    said = "yes" if yes else (await _typed("yes or no? ")).strip().lower()
    good = said in ("y", "yes")
    if event is not None:
        if good:
            await orchestrator.runs.signal(run, event, {"by": "the example's user"})
    elif good:
        await orchestrator.runs.approve(run, by="the example's user")
    else:
        await orchestrator.runs.reject(run, by="the example's user", comment=said)


async def _run(example: Example, inputs: dict[str, Any], *, yes: bool) -> int:
    async with Orchestrator.connect() as orchestrator:
        run = await orchestrator.runs.start(example.path, inputs)
        print(f"run {run}", flush=True)
        shown: set[str] = set()
        asked: set[tuple[str, str]] = set()
        async for record in orchestrator.runs.watch(run):
            for step in record.steps:
                if step.key not in shown and step.ended_at is not None:
                    shown.add(step.key)
                    print(f"  {step.key:40} {step.state:10} {step.node or ''}".rstrip(), flush=True)
            waiting = dict(record.waiting or {})
            about = (str(waiting.get("step")), str(waiting.get("since")))
            if waiting.get("kind") in ("approval", "event", "escalation") and about not in asked:
                asked.add(about)
                await _answer(orchestrator, run, waiting, yes=yes)
    print(f"\n{record.state}", flush=True)
    if record.error is not None:
        print(f"error: {record.error['message']}", file=sys.stderr)
    if record.result is not None:
        text = (
            record.result
            if isinstance(record.result, str)
            else json.dumps(record.result, indent=2, ensure_ascii=False)
        )
        print(text)
    return 0 if record.state == "succeeded" else 1


async def _main() -> int:
    arguments = _arguments()
    example = EXAMPLES[arguments.name]
    inputs = _inputs(example, arguments.input)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with Team([(agent, Path(PASSPORTS / f"{agent}.yaml")) for agent in example.agents]) as team:
        print(f"agents: {', '.join(team.names)}", flush=True)
        work: asyncio.Future[int] | None = None
        if not arguments.agents_only:
            work = asyncio.ensure_future(_run(example, inputs, yes=arguments.yes))
        stopped = asyncio.ensure_future(stopping.wait())
        awaited: list[asyncio.Future[Any]] = [stopped] if work is None else [stopped, work]
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if work is None:
            return 0
        if not work.done():
            work.cancel()
            await asyncio.wait([work])
            print("stopped; the next orchestrator goes on with the run", file=sys.stderr)
            return 130
        return work.result()


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(_main()))
    except RosterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
