"""Runs of process cards under fault: orchestrators in processes of their own, agents that count effects, and the judge."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from chaos.ledger import Effects
from chaos.report import Options, Report
from chaos.stores import server_of
from chaos.team import Team, team
from roster import Orchestrator
from roster._clock import boottime
from roster.orchestrator.runs import looks
from roster.orchestrator.runs.book import Book
from roster.orchestrator.runs.record import ENDED, RunRecord
from servers import Postgres

SECONDS = 0.02
# An agent that is killed so soon after an effect may have lost the answer with its life.
_AT_THE_END = 0.5
_LOOK = 0.1


def five_steps(seconds: float = SECONDS) -> dict[str, Any]:
    """Return the card that the load is made of: each step is one effect, and hands its result to the next."""
    steps: list[dict[str, Any]] = [
        {
            "id": f"s{number}",
            "action": "work",
            "params": {"command": f"${{input.token}}.s{number}", "seconds": seconds},
            "output": f"o{number}",
        }
        for number in range(5)
    ]
    return {"name": "five", "steps": [*steps, {"type": "complete", "result": {"last": "${o4.command}"}}]}


def commands_of(token: str) -> list[str]:
    """Return what the agents are to do for one run of that card."""
    return [f"{token}.s{number}" for number in range(5)]


@dataclass(slots=True)
class Judged:
    """What the ledger says.

    Attributes:
        skipped: commands that were never done.
        twice: commands that were begun more than once.
        unexcused: those of them where it was not an agent's death that made it so, and what was seen of them.
    """

    skipped: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    unexcused: dict[str, list[str]] = field(default_factory=dict)


def judge(effects: Effects, expected: Iterable[str], killed: Mapping[int, float]) -> Judged:
    """Hold the effects against what was to be done, each once.

    An execution by an agent that was killed in the middle of it, or before it can have handed the answer over, is excused.

    Args:
        expected: the commands.
        killed: when each agent that was killed died, by its process.
    """
    seen: dict[str, list[tuple[str, int, float]]] = defaultdict(list)
    ends: dict[tuple[str, int], float] = {}
    for line in effects.lines:
        seen[line["command"]].append((line["what"], line["pid"], line["at"]))
        if line["what"] == "end":
            ends[line["command"], line["pid"]] = line["at"]
    verdict = Judged()
    for command in expected:
        if not effects.ended[command]:
            verdict.skipped.append(command)
    for command, what in seen.items():
        begun = [pid for kind, pid, _ in what if kind == "start"]
        if len(begun) < 2:
            continue
        verdict.twice.append(command)
        sound = [
            pid
            for pid in begun
            if pid not in killed or killed[pid] - ends.get((command, pid), inf) > _AT_THE_END
        ]
        if len(sound) > 1 or len(set(begun)) < len(begun):
            verdict.unexcused[command] = [f"{kind} {pid} at {at:.2f}" for kind, pid, at in what] + [
                f"killed {pid} at {killed[pid]:.2f}" for pid in begun if pid in killed
            ]
    return verdict


@dataclass(slots=True)
class Crew:
    """Orchestrators and agents around one database of runs.

    Attributes:
        agents: the team.
        runs_url: the database.
        book: the same, opened.
        orchestrators: their processes, by name.
        killed: when each agent died that was killed, by its process.
        kills: how many orchestrators were killed.
        most: the largest resident memory that was seen of one of them, in MiB.
    """

    agents: Team
    runs_url: str
    book: Book
    orchestrators: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    killed: dict[int, float] = field(default_factory=dict)
    kills: int = 0
    most: float = 0.0
    _all: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What all processes have in common."""
        return {
            "ROSTER_REGISTRY": self.agents.registry_url,
            "ROSTER_BUS": self.agents.bus_url,
            "ROSTER_RUNS": self.runs_url,
            "ROSTER_STATE_DIR": str(self.agents.directory / "state"),
        }

    # -- agents ---------------------------------------------------------------------------------------------------

    async def start_agents(self, names: Iterable[str]) -> None:
        """Start agents; they are not waited for. Those that come back find the answers of their former lives."""
        for name in names:
            await self.agents.start(name, environment=self.environment)

    async def replace_agent(self, name: str) -> None:
        """kill -9 an agent, and start it again."""
        process = self.agents.processes[name]
        await self.agents.kill(name)
        self.killed[process.pid] = boottime()
        await self.start_agents([name])

    # -- orchestrators --------------------------------------------------------------------------------------------

    async def start(self, name: str, **environment: str) -> None:
        """Start an orchestrator; it is not waited for."""
        directory = self.agents.directory
        with (directory / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "chaos.runner", str(directory / f"{name}.jsonl")],
                env={**os.environ, **self.environment, **environment},
                stdout=log,
                stderr=log,
            )
        self.orchestrators[name] = process
        self._all.append(process)

    async def serving(self, name: str, within: float = 30.0) -> None:
        """Wait until an orchestrator looks for runs.

        Raises:
            TimeoutError: it did not in time.
        """
        pid = self.orchestrators[name].pid

        def there() -> bool:
            known = looks.executors(self.book.engine)
            return any(one.holder is not None and one.holder.pid == pid for one in known)

        async with asyncio.timeout(within):
            while not await asyncio.to_thread(there):
                await asyncio.sleep(_LOOK)

    async def kill(self, name: str) -> None:
        """kill -9, and reap it."""
        process = self.orchestrators[name]
        self.most = max(self.most, resident(process.pid))
        if process.returncode is None:
            process.kill()
        await process.wait()
        self.kills += 1

    async def retire(self, name: str, deadline: float = 60.0) -> int:
        """SIGTERM; return the exit status."""
        process = self.orchestrators[name]
        process.terminate()
        return await asyncio.wait_for(process.wait(), deadline)

    def freeze(self, name: str) -> None:
        """SIGSTOP, though not in the middle of a write to a file, whose lock it would keep."""
        process = self.orchestrators[name]
        with _between_writes(self.agents.registry_url), _between_writes(self.runs_url):
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self.orchestrators[name].send_signal(signal.SIGCONT)

    async def end(self) -> None:
        """End every orchestrator, frozen ones too."""
        for process in self._all:
            if process.returncode is None:
                process.kill()
        for process in self._all:
            await process.wait()

    def log(self, name: str) -> str:
        """Return what an orchestrator has logged."""
        return (self.agents.directory / f"{name}.log").read_text(errors="replace")

    # -- runs -----------------------------------------------------------------------------------------------------

    async def enlist(self, card: Any, inputs: Mapping[str, Mapping[str, Any]]) -> None:
        """Leave runs to the orchestrators, each under its own id."""
        async with Orchestrator.connect(
            self.agents.registry_url, self.agents.bus_url, runs_url=self.runs_url
        ) as orchestrator:
            for run, given in inputs.items():
                await orchestrator.runs.start(card, given, run_id=run, detach=True)

    async def left(self) -> int:
        """Return how many runs have not ended."""
        counts = await asyncio.to_thread(self.book.counts)
        return sum(count for state, count in counts.items() if state not in ENDED)

    async def over(self, within: float, *, run: str | None = None) -> bool:
        """Wait until a run, or all, have ended; return whether that came in time."""
        until = boottime() + within
        while boottime() < until:
            if run is None and not await self.left():
                return True
            if run is not None and await asyncio.to_thread(self.book.state, run) in ENDED:
                return True
            await asyncio.sleep(_LOOK)
        return False

    async def records(self, runs: Iterable[str]) -> list[RunRecord]:
        """Return runs with their steps."""
        return [await asyncio.to_thread(self.book.get, run) for run in runs]

    async def kill_in_turn(
        self, period: float, within: float, rng: random.Random, *, agents: float = 0.0
    ) -> bool:
        """Kill the orchestrators with -9, one after the other, and start each again at once.

        Args:
            period: seconds from one kill to the next. One that is still starting is waited for: a busy machine takes
                its time, and orchestrators that die before they have begun are no trouble to anybody.
            within: seconds to go on for at most.
            agents: how likely an agent is killed with it.

        Returns:
            Whether all runs have ended in time.
        """
        until = boottime() + within
        names = list(self.orchestrators)
        while boottime() < until:
            name = names[self.kills % len(names)]
            await self.serving(name)
            if await self.over(period):
                return True
            await self.kill(name)
            if rng.random() < agents:
                await self.replace_agent(rng.choice(list(self.agents.processes)))
            await self.start(name)
        return await self.over(0.2)


@asynccontextmanager
async def crew(options: Options, agents: Iterable[str], **team_options: Any) -> AsyncIterator[Crew]:
    """Yield a crew whose agents are ready, and which has no orchestrators yet."""
    names = list(agents)
    async with AsyncExitStack() as stack:
        registry = options.registry
        if registry in ("etcd", "consul", "zookeeper"):
            registry = (await stack.enter_async_context(server_of(registry)))[0].url
        made = await stack.enter_async_context(team(registry, options.bus, **team_options))
        runs_url = await stack.enter_async_context(_database(options.runs, made.directory))
        book = await asyncio.to_thread(Book, runs_url)
        stack.callback(book.close)
        whole = Crew(made, runs_url, book)
        stack.push_async_callback(whole.end)
        await whole.start_agents(names)
        async with Orchestrator.connect(made.registry_url, made.bus_url) as watcher:
            await made.ready(watcher, names)
        yield whole


@asynccontextmanager
async def _database(named: str | None, directory: Path) -> AsyncIterator[str]:
    if named == "postgres":
        with tempfile.TemporaryDirectory(prefix="roster-") as home:
            server = Postgres(Path(home), fsync=False)  # it is not what is killed
            try:
                await asyncio.to_thread(server.start)
                yield await asyncio.to_thread(server.new_database)
            finally:
                await asyncio.to_thread(server.close)
        return
    yield named or f"sqlite:///{directory}/runs.sqlite"


@contextmanager
def _between_writes(url: str) -> Iterator[None]:
    scheme, _, path = url.partition("://")
    if scheme != "sqlite":
        yield
        return
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as file:
        file.execute("BEGIN IMMEDIATE")
        yield
        file.execute("ROLLBACK")


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


def size_of(runs_url: str) -> float:
    """Return the size of a SQLite database of runs with its log, in MiB; 0 for another."""
    scheme, _, path = runs_url.partition("://")
    files = [Path(path), Path(f"{path}-wal")] if scheme == "sqlite" else []
    return sum(file.stat().st_size for file in files if file.exists()) / 2**20


def told(report: Report, judged: Judged) -> None:
    """Report what the judge found."""
    report.fact("commands begun more than once", len(judged.twice))
    for command, what in list(judged.unexcused.items())[:5]:
        report.fact(f"unexcused: {command}", what)
    report.promise("no step is skipped", not judged.skipped)
    report.promise(
        "no step is done twice, but where the agent that did it was killed in the middle",
        not judged.unexcused,
    )
