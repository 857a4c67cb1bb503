"""An orchestrator in a process of its own, which can be killed, and what it has noted of its calls.

Run as `python -m chaos.caller FILE [NAME...]`: it waits for the agents of these names, then takes lines of JSON from its
input, each the arguments of `chaos.load.send`, one after the other; it ends with its input. Registry and bus are those of
the environment.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from servers.helper import Helper

from chaos.helper import helper
from chaos.ledger import LedgerWriter
from chaos.load import Outcome, send
from chaos.team import Team, ready
from roster import CallAnswer, CallError, Code, Orchestrator
from roster.errors import Attempt

_DONE_WITHIN = 120.0


class Note:
    """Writes what becomes of each call as it happens: what was written before a kill -9 stays."""

    def __init__(self, ledger: LedgerWriter) -> None:
        self._write = ledger.write

    def called(self, command: str, began: float) -> None:
        self._write(what="called", command=command, began=began)

    def answered(self, command: str, answer: CallAnswer, taken: float) -> None:
        self._write(
            what="answered",
            command=command,
            node=answer.node,
            attempts=[asdict(attempt) for attempt in answer.attempts],
            duration=answer.duration,
            taken=taken,
        )

    def failed(self, command: str, error: CallError, taken: float) -> None:
        self._write(
            what="failed",
            command=command,
            text=error.summary,
            code=error.code,
            outcome=error.outcome,
            attempts=[asdict(attempt) for attempt in error.attempts],
            taken=taken,
        )


def outcome_of(lines: Iterable[dict[str, Any]]) -> Outcome:
    """Read back what `Note` has written."""
    outcome = Outcome()
    for line in lines:
        if line["what"] == "called":
            outcome.called(line["command"], line["began"])
        elif line["what"] == "answered":
            answer = CallAnswer(None, line["node"], _attempts(line), line["duration"])
            outcome.answered(line["command"], answer, line["taken"])
        elif line["what"] == "failed":
            error = CallError(
                line["text"], code=Code(line["code"]), outcome=line["outcome"], attempts=_attempts(line)
            )
            outcome.failed(line["command"], error, line["taken"])
    return outcome


def _attempts(line: dict[str, Any]) -> tuple[Attempt, ...]:
    return tuple(
        Attempt(**{**one, "code": None if one["code"] is None else Code(one["code"])})
        for one in line["attempts"]
    )


class Caller:
    """One such process."""

    def __init__(self, process: Helper) -> None:
        self._process = process

    def begin(self, count: int, **load: Any) -> None:
        """Have it send commands; `load` is what `chaos.load.send` takes, a `prefix` of its own among it."""
        self._process.say(json.dumps({"count": count, **load}))

    async def done(self, prefix: str) -> Outcome:
        """Wait until it has sent all that begins with a prefix, and return what came back.

        Raises:
            TimeoutError: it was not done in time, or has ended.
        """
        done = await self._process.until("done", _DONE_WITHIN, prefix=prefix)
        outcome = self.outcome(prefix)
        outcome.seconds, outcome.stall = done["seconds"], done["stall"]
        return outcome

    async def send(self, count: int, **load: Any) -> Outcome:
        """Have it send commands, and return what came back."""
        self.begin(count, **load)
        return await self.done(load["prefix"])

    def outcome(self, prefix: str) -> Outcome:
        """Return what has come back so far of what begins with a prefix."""
        lines = self._process.read()
        return outcome_of(line for line in lines if str(line.get("command", "")).startswith(prefix))

    async def kill(self) -> None:
        """kill -9, and reap it."""
        await self._process.end()


@asynccontextmanager
async def caller(agents: Team, name: str, names: Iterable[str]) -> AsyncIterator[Caller]:
    """Yield a caller that knows these agents, and kill it at the end."""
    urls = {"ROSTER_REGISTRY": agents.registry_url, "ROSTER_BUS": agents.bus_url}
    async with helper("chaos.caller", agents.directory, name, *names, environment=urls) as process:
        await process.until("ready")
        yield Caller(process)


async def _main(ledger: LedgerWriter, names: list[str]) -> None:
    async with Orchestrator.connect() as orchestrator:
        await ready(orchestrator, names)
        ledger.write(what="ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            load = json.loads(line)
            outcome = await send(orchestrator, load.pop("count"), note=Note(ledger), **load)
            ledger.write(what="done", prefix=load["prefix"], seconds=outcome.seconds, stall=outcome.stall)


if __name__ == "__main__":
    asyncio.run(_main(LedgerWriter(sys.argv[1]), sys.argv[2:]))
