"""A team of agent processes, to be killed, frozen, woken and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.ledger import Effects
from roster import Orchestrator

START_DEADLINE = 30.0


@dataclass(slots=True)
class Team:
    """Agents on one registry and one bus.

    Attributes:
        registry_url: where they register.
        bus_url: where they are reached.
        directory: passports, logs and the ledger.
        ttl: seconds a registration outlives its holder.
        capacity: commands that one agent runs at once.
        capabilities: passport entries, or names alone; what every agent has unless it is started with others.
    """

    registry_url: str
    bus_url: str
    directory: Path
    ttl: float = 3.0
    capacity: int = 8
    capabilities: Sequence[Mapping[str, Any] | str] = ("work",)
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    starts: int = 0
    _all: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def ledger(self) -> Path:
        """The file that the agents write effects into."""
        return self.directory / "ledger.jsonl"

    async def start(
        self,
        name: str,
        *,
        capabilities: Sequence[Mapping[str, Any] | str] | None = None,
        capacity: int | None = None,
        behaviour: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start an agent; it is not waited for.

        Args:
            capabilities: its own ones; without them those of the team.
            capacity: its own one; without it that of the team.
            behaviour: do this (a name of `chaos.agent.BEHAVIOURS`) whatever it is asked for.
            environment: more variables for its process, such as a clock of its own.
        """
        offered = self.capabilities if capabilities is None else capabilities
        passport = self.directory / f"{name}.json"
        passport.write_text(
            json.dumps(
                {
                    "apiVersion": "ai-team.dev/v1",
                    "kind": "NodePassport",
                    "metadata": {"name": name, "namespace": "chaos"},
                    "spec": {
                        "type": "agent",
                        "version": "1.0.0",
                        "capabilities": [{"name": one} if isinstance(one, str) else one for one in offered],
                        "resources": {"max_concurrent_tasks": capacity or self.capacity},
                    },
                }
            )
        )
        variables = {
            **os.environ,
            "ROSTER_REGISTRY": self.registry_url,
            "ROSTER_BUS": self.bus_url,
            "ROSTER_TTL": str(self.ttl),
            "CHAOS_BEHAVIOUR": behaviour,
            **(environment or {}),
        }
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "chaos.agent",
                str(passport),
                str(self.ledger),
                env=variables,
                stdout=log,
                stderr=log,
            )
        self._all.append(self.processes[name])
        self.starts += 1

    async def kill(self, name: str) -> None:
        """kill -9, and reap it."""
        process = self.processes[name]
        process.kill()
        await process.wait()

    def freeze(self, name: str) -> None:
        """SIGSTOP: alive for the kernel, silent for everybody else.

        It returns when the agent has stopped. Not in the middle of a write to a registry file: a process that stands
        still there keeps its lock, and nobody can register until it goes on or ends (see docs/faults.md).
        """
        with self._between_writes():
            process = self.processes[name]
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)

    @contextmanager
    def _between_writes(self) -> Iterator[None]:
        scheme, _, path = self.registry_url.partition("://")
        if scheme != "sqlite":
            yield
            return
        with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as registry:
            registry.execute("BEGIN IMMEDIATE")
            yield
            registry.execute("ROLLBACK")

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self.processes[name].send_signal(signal.SIGCONT)

    async def retire(self, name: str, deadline: float = 30.0) -> int:
        """SIGTERM; return the exit status."""
        process = self.processes[name]
        process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(process.wait(), deadline)

    async def ready(self, orchestrator: Orchestrator, names: Iterable[str]) -> None:
        """Wait until these agents are ready."""
        await ready(orchestrator, names)

    def effects(self) -> Effects:
        """Return what the agents wrote so far."""
        return Effects.read(self.ledger)

    def log(self, name: str) -> str:
        """Return what an agent has logged."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    async def end(self) -> None:
        """End every process that was started, frozen ones too."""
        for process in self._all:
            if process.returncode is None:
                process.kill()
        for process in self._all:
            await process.wait()


async def ready(orchestrator: Orchestrator, names: Iterable[str]) -> None:
    """Wait until a caller knows these agents and finds them ready.

    Raises:
        TimeoutError: it did not in time.
    """
    await orchestrator.start()
    wanted = set(names)
    async with asyncio.timeout(START_DEADLINE):
        async for _ in orchestrator.registry.watch(namespace="chaos"):
            nodes = await orchestrator.registry.find(namespace="chaos", healthy=True)
            if wanted <= {node.name for node in nodes}:
                return


@asynccontextmanager
async def team(registry_url: str | None, bus_url: str | None, **options: Any) -> AsyncIterator[Team]:
    """Yield a team in a directory of its own; by default on SQLite and the local bus in that directory."""
    with tempfile.TemporaryDirectory(prefix="roster-") as directory:
        made = Team(
            registry_url or f"sqlite:///{directory}/registry.db",
            bus_url or f"local://{directory}/bus",
            Path(directory),
            **options,
        )
        try:
            yield made
        finally:
            await made.end()


@asynccontextmanager
async def scene(
    urls: tuple[str | None, str | None], names: Iterable[str] = ("a1", "a2", "a3", "a4"), **options: Any
) -> AsyncIterator[tuple[Team, Orchestrator]]:
    """Yield a team whose agents are ready, and a caller that knows them: the stage for one load and one fault.

    Args:
        urls: of the registry and of the bus; None: files of its own.
        names: the agents to start.
        options: of the team.
    """
    wanted = list(names)
    async with (
        team(*urls, **options) as agents,
        Orchestrator.connect(agents.registry_url, agents.bus_url) as orchestrator,
    ):
        await asyncio.gather(*(agents.start(name) for name in wanted))
        await agents.ready(orchestrator, wanted)
        yield agents, orchestrator
