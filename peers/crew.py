"""Agents and callers of one peer on one broker: started, killed, frozen, woken and retired."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers.helper import Helper, Lines, start

ROOT = Path(__file__).parent.parent
UP_WITHIN = 60.0


class PeerMissingError(RuntimeError):
    """A peer's environment has not been made."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to do the work.

    Attributes:
        name: as in the figures.
        library: whose environment it runs in and whose program it is; `roster`: this project's own.
        variables: of its processes' environment.
    """

    name: str
    library: str
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def program(self) -> str:
        """The module that it runs; `peers.programs.common` says how."""
        return f"peers.programs.with_{self.library.replace('-', '_')}"

    def python(self) -> str:
        """Return the interpreter of its environment.

        Raises:
            PeerMissingError: there is none.
        """
        if self.library == "roster":
            return sys.executable
        there = ROOT / ".peers" / self.library
        if not (there / ".ready").exists():
            raise PeerMissingError(f"no environment with {self.library}: scripts/setup-peers makes it")
        return str(there / "bin" / "python")


ROSTER = Peer("Roster", "roster")
AIO_PIKA = Peer("aio-pika by hand", "aio-pika")
BARE_AIO_PIKA = Peer("the same without confirms", "aio-pika", {"CONFIRMS": "0"})
FASTSTREAM = Peer("FastStream", "faststream")
NAMEKO = Peer("Nameko", "nameko")
CELERY = Peer("Celery", "celery")


class Crew:
    """Processes of one peer.

    Args:
        peer: which one.
        broker: URL of the broker.
        directory: for their files.
        capacity: commands that one agent runs at once.
        notes: whether agents note what they do.

    Attributes:
        directory: the same.
    """

    def __init__(
        self, peer: Peer, broker: str, directory: Path, *, capacity: int, notes: bool = True
    ) -> None:
        self._command = [peer.python(), "-W", "ignore", "-m", peer.program]
        self._broker = broker
        self.directory = directory
        self._capacity = capacity
        self._variables = {
            **peer.variables,
            "PYTHONPATH": str(ROOT),
            "ROSTER_REGISTRY": f"sqlite:///{directory}/registry.db",
            "ROSTER_TTL": "3",
            "NOTES": str(int(notes)),
        }
        self._all: list[Helper] = []
        self._agents: dict[str, Helper] = {}

    async def _start(self, role: str, name: str, *arguments: str) -> Helper:
        file = self.directory / f"{name}.jsonl"
        one = await start(
            [*self._command, role, str(file), *arguments], file, environment=self._variables, group=True
        )
        self._all.append(one)
        return one

    async def start(self, name: str) -> None:
        """Start an agent, again if it was there before; it is not waited for."""
        self._agents[name] = await self._start("agent", name, name, self._broker, str(self._capacity))

    async def up(self, names: Iterable[str]) -> None:
        """Wait until these agents serve.

        Raises:
            TimeoutError: they did not in time.
        """
        for name in names:
            agent = self._agents[name]
            await agent.until("up", UP_WITHIN, pid=agent.pid)

    def serves(self, name: str) -> bool:
        """Whether an agent has come up and has not ended."""
        agent = self._agents[name]
        return agent.running and bool(agent.find("up", pid=agent.pid))

    async def kill(self, name: str) -> None:
        """kill -9 an agent with all that it has started, and reap it."""
        await self._agents[name].end()

    def freeze(self, name: str) -> None:
        """SIGSTOP, and to all that it has started; it returns when the agent has stopped."""
        self._agents[name].signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._agents[name].pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self._agents[name].signal(signal.SIGCONT)

    async def retire(self, name: str, deadline: float) -> int | None:
        """SIGTERM to the agent alone; return its exit status, or None if it has not ended in time and was killed."""
        agent = self._agents[name]
        os.kill(agent.pid, signal.SIGTERM)
        status = await agent.ended(deadline)
        await agent.end()
        return status

    async def caller(self, name: str) -> Caller:
        """Start a caller, and wait until it is ready.

        Raises:
            TimeoutError: it was not in time.
        """
        process = await self._start("caller", name, self._broker)
        await process.until("ready", UP_WITHIN, pid=process.pid)
        return Caller(process)

    def effects(self) -> list[dict[str, Any]]:
        """Return what the agents have noted, in order of time: `start` and `end` of each command."""
        lines: list[dict[str, Any]] = []
        for name in self._agents:
            lines += (line for line in Lines(self.directory / f"{name}.jsonl").read() if "command" in line)
        return sorted(lines, key=lambda line: float(line["at"]))

    async def end(self) -> None:
        """Kill every process that was started, frozen ones too."""
        for one in self._all:
            await one.end()


class Caller:
    """A process that sends commands."""

    def __init__(self, process: Helper) -> None:
        self._process = process

    def begin(self, **load: Any) -> None:
        """Have it send a load: the fields of `peers.programs.common.Load`."""
        self._process.say(json.dumps(load))

    async def done(self, prefix: str, deadline: float) -> dict[str, Any]:
        """Wait until it has sent a load and all calls have ended, and return how long they took.

        Raises:
            TimeoutError: it was not done in time.
        """
        return await self._process.until("done", deadline, prefix=prefix)

    async def kill(self) -> None:
        """kill -9, and reap it."""
        await self._process.end()

    def calls(self) -> list[dict[str, Any]]:
        """Return what it has noted of its calls so far: `called`, `answered`, `failed`."""
        return [line for line in self._process.read() if "command" in line]


@asynccontextmanager
async def crew(
    peer: Peer, broker: str, names: Iterable[str], *, capacity: int, notes: bool = True
) -> AsyncIterator[Crew]:
    """Yield a crew whose agents serve, in a directory of its own, and end all of it afterwards."""
    with tempfile.TemporaryDirectory(prefix="roster-") as directory:
        made = Crew(peer, broker, Path(directory), capacity=capacity, notes=notes)
        wanted = list(names)
        try:
            for name in wanted:
                await made.start(name)
            await made.up(wanted)
            yield made
        finally:
            await made.end()
