"""A team of agent processes, to be killed, frozen, woken and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
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
        capabilities: passport entries; all agents have the same.
    """

    registry_url: str
    bus_url: str
    directory: Path
    ttl: float = 3.0
    capacity: int = 8
    capabilities: list[dict[str, Any]] = field(default_factory=lambda: [{"name": "work"}])
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    starts: int = 0

    @property
    def ledger(self) -> Path:
        """The file that the agents write effects into."""
        return self.directory / "ledger.jsonl"

    async def start(self, name: str) -> None:
        """Start an agent; it is not waited for."""
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
                        "capabilities": self.capabilities,
                        "resources": {"max_concurrent_tasks": self.capacity},
                    },
                }
            )
        )
        environment = {
            **os.environ,
            "ROSTER_REGISTRY": self.registry_url,
            "ROSTER_BUS": self.bus_url,
            "ROSTER_TTL": str(self.ttl),
        }
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "chaos.agent",
                str(passport),
                str(self.ledger),
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.starts += 1

    async def kill(self, name: str) -> None:
        """kill -9, and reap it."""
        process = self.processes[name]
        process.kill()
        await process.wait()

    def freeze(self, name: str) -> None:
        """SIGSTOP: alive for the kernel, silent for everybody else."""
        self.processes[name].send_signal(signal.SIGSTOP)

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
        await orchestrator.start()
        wanted = set(names)
        async with asyncio.timeout(START_DEADLINE):
            async for _ in orchestrator.registry.watch(namespace="chaos"):
                nodes = await orchestrator.registry.find(namespace="chaos", healthy=True)
                if wanted <= {node.name for node in nodes}:
                    return

    def effects(self) -> Effects:
        """Return what the agents wrote so far."""
        return Effects.read(self.ledger)

    async def end(self) -> None:
        """End every process that was started, frozen ones too."""
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
        for process in self.processes.values():
            await process.wait()


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
