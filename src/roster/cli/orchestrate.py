"""`roster orchestrate`: an orchestrator that stays, and takes up the runs of process cards that nobody has."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli import logs
from roster.cli.session import Session
from roster.errors import ConfigError

if TYPE_CHECKING:
    from roster.orchestrator import Orchestrator

EXAMPLES = (
    "roster orchestrate",
    "roster orchestrate --at-once 20 --log-format json",
    "roster orchestrate --passport orchestrator.yaml      listed by 'roster get nodes' while it serves",
)
_ENDING = (signal.SIGTERM, signal.SIGINT)


def orchestrate(
    session: Session,
    passport: Annotated[
        Path | None,
        typer.Option(
            "--passport",
            metavar="FILE",
            help="Register as this node, of type orchestrator, while it serves.",
            show_default=False,
        ),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            "--at-once",
            min=1,
            max=100_000,
            help="How many runs it takes up at the same time; without it ROSTER_RUNS_AT_ONCE.",
            show_default="100",
        ),
    ] = None,
) -> None:
    """Take up runs of process cards, until SIGTERM or Ctrl-C.

    Those whose orchestrator died, those whose 'roster run' was left, and those begun with 'roster run --detach'. Several may
    serve beside each other, on one machine or on many with a database that they share (ROSTER_RUNS=postgresql://...). What
    runs when it ends is left where it is, for the next. It says on standard error what it takes up.
    """
    from roster.orchestrator.runs.runs import AT_ONCE

    if at_once is not None:
        os.environ[AT_ONCE] = str(at_once)
    logs.tell("roster.orchestrator.runs", but="roster.orchestrator.runs.engine")
    session.run(_serve(session, passport))


async def _serve(session: Session, passport: Path | None) -> None:
    loop = asyncio.get_running_loop()
    ending: asyncio.Future[signal.Signals] = loop.create_future()

    def end(number: signal.Signals) -> None:
        if not ending.done():
            ending.set_result(number)

    for number in _ENDING:
        loop.add_signal_handler(number, end, number)
    async with session.orchestrator() as orchestrator, _registered(orchestrator, passport):
        serving = asyncio.create_task(
            orchestrator.runs.serve(
                on_ready=lambda: session.out.note(
                    "ready: takes up runs that nobody has; SIGTERM or Ctrl-C ends it"
                )
            )
        )
        try:
            either: set[asyncio.Future[Any]] = {serving, ending}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
            session.out.note(f"{ending.result().name}: leaves; what runs is left to the next orchestrator")
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


@asynccontextmanager
async def _registered(orchestrator: Orchestrator, path: Path | None) -> AsyncIterator[None]:
    """Be listed while it serves.

    Raises:
        ConfigError: the passport is not an orchestrator's.
        NameConflictError: a live process holds the name.
    """
    if path is None:
        yield
        return
    from roster.passport import NodePassport

    passport = NodePassport.load(path)
    if passport.type != "orchestrator":
        raise ConfigError(f"{path}: spec.type is {passport.type or 'agent'}: write orchestrator")
    if passport.capabilities:
        raise ConfigError(f"{path}: an orchestrator serves no capabilities: remove spec.capabilities")
    async with await orchestrator.registry.register(passport):
        yield
