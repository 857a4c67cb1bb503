"""A team of agents, each a process of its own: started, waited for until they are ready, and ended by their ids."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from examples.teams import HERE, module_of
from roster import NodePassport, Registry, RosterError

READY = 60.0  # seconds that a team may take to start
LEAVE = 30.0  # seconds that an agent may take to finish what it has


class Team:
    """The processes of a team.

    Args:
        agents: the name of each, and its passport.

    Raises:
        RosterError: on entering, when an agent ends at once (with its last line), or is not ready in time.
    """

    def __init__(self, agents: Sequence[tuple[str, Path]]) -> None:
        self._agents = agents
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._logs: dict[str, BinaryIO] = {}

    @property
    def names(self) -> list[str]:
        """Each agent with its process id."""
        return [f"{name} (pid {process.pid})" for name, process in self._processes.items()]

    async def __aenter__(self) -> Team:
        keys = {NodePassport.load(passport).key for _, passport in self._agents}
        async with Registry.connect() as registry:
            if taken := keys & await _ready(registry):
                raise RosterError(
                    f"{', '.join(sorted(taken))} runs already: end it, or set ROSTER_STATE_DIR to another directory"
                )
            return await self._start(registry, keys)

    async def _start(self, registry: Registry, keys: set[str]) -> Team:
        try:
            for name, passport in self._agents:
                log = self._logs[name] = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the agent has ended
                self._processes[name] = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", module_of(name), "--passport", str(passport.resolve()),
                    env=_environment(), stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for us: we end the agents when the run is looked after
                )  # fmt: skip
            async with asyncio.timeout(READY):
                await self._all_ready(registry, keys)
        except TimeoutError:
            await self._end()
            raise RosterError(f"the agents were not ready within {READY:g} s") from None
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _all_ready(self, registry: Registry, keys: set[str]) -> None:
        while not keys <= await _ready(registry):
            for name, process in self._processes.items():
                if process.returncode is not None:
                    raise RosterError(f"{name} ended at once: {self._last_words(name)}")
            await asyncio.sleep(0.05)

    def _last_words(self, name: str) -> str:
        log = self._logs[name]
        log.seek(0)
        lines = log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    async def _end(self) -> None:
        """End every process that was started."""
        for process in self._processes.values():
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
        for name, process in self._processes.items():
            try:
                await asyncio.wait_for(process.wait(), LEAVE)
            except TimeoutError:
                process.kill()
                await process.wait()
            self._logs[name].close()
        self._processes.clear()


async def _ready(registry: Registry) -> set[str]:
    return {node.key for node in await registry.find(healthy=True)}


def _environment() -> dict[str, str]:
    """The agents find the package of the examples wherever this was started."""
    found = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{found}" if found else str(HERE.parent)}
