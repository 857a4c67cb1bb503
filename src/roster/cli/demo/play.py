"""The demo's plot: who starts when, who dies, what is counted."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from roster._clock import boottime
from roster.cli.demo.show import Board
from roster.errors import CallError, RosterError
from roster.orchestrator import CallAnswer, Orchestrator
from roster.registry import NodeEvent

COMMANDS = 60
IN_FLIGHT = 10
START_DEADLINE = 20.0
CALL_DEADLINE = 30.0
TOPICS = ("bees", "tides", "sourdough", "glaciers", "jazz", "lighthouses", "волны", "moss", "maps", "comets")


@dataclass(slots=True)
class Tally:
    """What came back."""

    answers: list[CallAnswer] = field(default_factory=list)
    errors: list[tuple[int, CallError]] = field(default_factory=list)
    answered: Counter[int] = field(default_factory=Counter)
    killed_at: float | None = None
    failovers: list[float] = field(default_factory=list)


class Demo:
    """One performance.

    Args:
        console: where it is shown.
        directory: where registry, bus and the agents' logs live, unless `ROSTER_REGISTRY` and `ROSTER_BUS` say otherwise.
    """

    def __init__(self, console: Console, directory: Path, *, commands: int = COMMANDS) -> None:
        self._console = console
        self._directory = directory
        self._commands = commands
        self._board = Board(commands)
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tally = Tally()
        self._environment = {**os.environ, "ROSTER_STATE_DIR": str(directory)}
        self._acts: set[asyncio.Task[None]] = set()
        self._left: dict[str, int | None] = {}

    async def play(self) -> int:
        """Run it; return the exit status: 0 only if nothing was lost."""
        try:
            for name in ("writer-001", "writer-002", "writer-003", "editor-001"):
                await self._start(name)
            os.environ["ROSTER_STATE_DIR"] = str(self._directory)
            async with Orchestrator.connect() as orchestrator:
                await orchestrator.start()
                remove = orchestrator.registry.informer.add_listener(self._on_event)
                try:
                    await self._all_ready(orchestrator, 4)
                    with Live(
                        self._board.render(), console=self._console, refresh_per_second=10, transient=False
                    ) as live:
                        shower = asyncio.create_task(self._keep_showing(live, orchestrator))
                        try:
                            await self._send_all(orchestrator)
                            await asyncio.gather(*self._acts)
                        finally:
                            shower.cancel()
                            self._look(orchestrator)
                            live.update(self._board.render())
                finally:
                    remove()
        finally:
            await self._end()
        return self._summary()

    # -- the plot -------------------------------------------------------------------------------------------------

    async def _start(self, name: str) -> None:
        passports = resources.files("roster.cli.demo") / "passports"
        passport = self._directory / f"{name}.yaml"
        passport.write_bytes((passports / f"{name}.yaml").read_bytes())
        log = (self._directory / f"{name}.log").open("wb")
        with log:
            self._processes[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "roster.cli.demo.agent", str(passport), env=self._environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._board.row(name).note = f"pid {self._processes[name].pid}"

    async def _all_ready(self, orchestrator: Orchestrator, count: int) -> None:
        self._console.print(f"starting {count} agents, each a process with its own passport ...")
        async with asyncio.timeout(START_DEADLINE):
            async for event in orchestrator.registry.watch(namespace="demo"):
                for name, process in self._processes.items():
                    if process.returncode is not None:
                        raise RosterError(f"{name} ended at once: {self._last_words(name)}")
                ready = await orchestrator.registry.find(namespace="demo", healthy=True)
                if len(ready) >= count and event.type != "removed":
                    return

    async def _send_all(self, orchestrator: Orchestrator) -> None:
        """Send every command, at most `IN_FLIGHT` at once, and let things happen on the way."""
        room = asyncio.Semaphore(IN_FLIGHT)

        async def one(number: int) -> None:
            try:
                await self._one(orchestrator, number)
            finally:
                room.release()

        acts = {
            self._commands // 3: self._kill,
            self._commands // 2: self._add,
            self._commands * 2 // 3: self._retire,
        }
        async with asyncio.TaskGroup() as group:
            for number in range(self._commands):
                await room.acquire()
                if (act := acts.get(number)) is not None:
                    task = asyncio.create_task(act(orchestrator))
                    self._acts.add(task)
                group.create_task(one(number))

    async def _one(self, orchestrator: Orchestrator, number: int) -> None:
        topic = TOPICS[number % len(TOPICS)]
        capability, params = _command(number, topic)
        try:
            answer = await orchestrator.ask(capability, params, namespace="demo", timeout=CALL_DEADLINE)
        except CallError as error:
            self._tally.errors.append((number, error))
            self._board.failed += 1
            self._board.say(f"command {number} failed: {error}")
            return
        self._tally.answered[number] += 1
        self._tally.answers.append(answer)
        self._board.answered += 1
        self._board.row(answer.node.split("/")[1]).done += 1
        if len(answer.attempts) > 1:
            self._board.rerouted += 1
            interrupted, after = answer.attempts[-2], answer.attempts[-1]
            self._tally.failovers.append(after.started - interrupted.started - interrupted.duration)

    async def _kill(self, orchestrator: Orchestrator) -> None:
        """Kill a writer with work in its hands."""
        victim = max(
            (name for name in ("writer-001", "writer-002", "writer-003")),
            key=lambda name: _active(orchestrator, name),
        )
        process = self._processes[victim]
        self._board.row(victim).note = "killed with kill -9"
        self._board.say(
            f"kill -9 {victim} (pid {process.pid}) with {_active(orchestrator, victim)} commands in its hands"
        )
        self._tally.killed_at = boottime()
        process.kill()
        await process.wait()

    async def _add(self, _: Orchestrator) -> None:
        """Start one more writer."""
        self._board.say("writer-004 starts")
        await self._start("writer-004")

    async def _retire(self, _: Orchestrator) -> None:
        """Have one writer leave in good order."""
        name = next(name for name in ("writer-003", "writer-001") if self._processes[name].returncode is None)
        process = self._processes[name]
        self._board.say(f"SIGTERM {name}: it finishes what it has, and leaves")
        process.send_signal(signal.SIGTERM)
        status = await asyncio.wait_for(process.wait(), 30)
        self._left[name] = status
        self._board.row(name).note = f"left in good order, exit status {status}"

    async def _end(self) -> None:
        """End every process that was started."""
        running = [process for process in self._processes.values() if process.returncode is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()

    # -- showing --------------------------------------------------------------------------------------------------

    def _on_event(self, event: NodeEvent) -> None:
        if event.namespace != "demo":
            return
        row = self._board.row(event.name)
        if event.type == "removed":
            row.state = "gone"
            row.load = 0
        elif event.record is not None:
            row.state = event.record.state
            row.capacity = event.record.capacity

    def _look(self, orchestrator: Orchestrator) -> None:
        for name, row in self._board.rows.items():
            row.load = 0 if row.state in ("gone", "offline") else _active(orchestrator, name)
            if row.state in ("ready", "busy"):
                # Answers carry the load; the registry hears of it a moment later.
                row.state = "busy" if row.load >= row.capacity else "ready"

    async def _keep_showing(self, live: Live, orchestrator: Orchestrator) -> None:
        while True:
            self._look(orchestrator)
            live.update(self._board.render())
            await asyncio.sleep(0.1)

    def _last_words(self, name: str) -> str:
        lines = (self._directory / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _summary(self) -> int:
        tally, out = self._tally, self._console
        by_node = Counter(answer.node.split("/")[1] for answer in tally.answers)
        twice = sum(count > 1 for count in tally.answered.values())
        lost = self._commands - len(tally.answered)
        out.print()
        out.print(
            "[bold]who did what[/bold]     "
            + ", ".join(f"{name} {count}" for name, count in sorted(by_node.items()))
        )
        rerouted = [answer for answer in tally.answers if len(answer.attempts) > 1]
        out.print(
            f"[bold]rerouted[/bold]         {len(rerouted)} commands went to another node after the first"
        )
        for answer in rerouted:
            first = answer.attempts[0]
            out.print(
                f"                 {first.node} -> {answer.node}: {first.error}",
                markup=False,
                highlight=False,
            )
        if tally.failovers:
            out.print(
                f"[bold]failover[/bold]         slowest {max(tally.failovers) * 1000:.1f} ms from the loss to the next node"
            )
        out.print(
            f"[bold]answered[/bold]         {len(tally.answered)} of {self._commands}, {twice} twice, {lost} lost"
        )
        clean = all(status == 0 for status in self._left.values())
        if not clean:
            out.print(f"[red]left with a non-zero exit status: {self._left}[/red]")
        for number, error in tally.errors:
            out.print(f"command {number}: {error}", markup=False, style="red")
        return 0 if lost == 0 and twice == 0 and clean else 1


def _command(number: int, topic: str) -> tuple[str, Mapping[str, Any]]:
    """Two thirds are articles, one third edits, which the writers can do too."""
    if number % 3 == 2:
        return "edit_text", {"text": f"some   words about {topic}"}
    return "write_article", {"topic": topic, "style": "plain"}


def _active(orchestrator: Orchestrator, name: str) -> int:
    load = orchestrator.team.router.load(f"demo/{name}")
    return load.active if load is not None else 0
