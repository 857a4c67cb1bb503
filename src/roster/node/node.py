"""`Node`: a passport, the functions behind its capabilities, and the life of the process that serves them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal as os_signals
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from roster._logs import log_as_the_environment_says
from roster._loops import Hop, LoopThread
from roster.bus import Load
from roster.bus.keys import answers_window as answers_window_of
from roster.errors import NodeError, RosterError
from roster.node.answers import Answers
from roster.node.checks import Check, Finding, keep_looking
from roster.node.context import Context
from roster.node.engine import Engine
from roster.node.handlers import Handler, bind
from roster.node.presence import Presence
from roster.node.runner import Runner
from roster.node.signals import OWN, Signal, Signals
from roster.node.threads import Threads
from roster.passport import NodePassport
from roster.passport.document import PassportLike, passport_of

logger = logging.getLogger("roster.node")

F = TypeVar("F", bound=Callable[..., Any])

START_DEADLINE = 60.0
GRACE = 30.0


class Node:
    """An agent: registers its passport, serves its capabilities, leaves in good order.

    The bus and the lease live on a thread and a loop of their own; async handlers run on the loop that started the node,
    plain functions on threads. A handler that blocks the loop therefore does not make the node look dead.

    Args:
        passport: the passport, its document, or a path to it.
        registry_url: the registry; without it `ROSTER_REGISTRY`, else the user's SQLite file.
        bus_url: the bus; without it `ROSTER_BUS`, else the user's local bus.
        ttl: seconds that the registration outlives the last keep-alive; without it `ROSTER_TTL`, else 30.
        grace: seconds that running work has to finish when the node stops.
        takeover: replace a live node of the same name.
        answers_window: seconds that the answers to calls with an idempotency key are kept; without it
            `ROSTER_ANSWERS_WINDOW`, else 3600.

    Raises:
        DocumentError: the passport is wrong.
        ConfigError: the window is no number of seconds.

    Example:
        >>> node = Node.load("node_passport.yaml")
        >>> @node.capability("write_article")
        ... async def write_article(topic: str, style: str = "plain") -> dict:
        ...     return {"article": f"All about {topic}", "metadata": {"style": style}}
        >>> node.run()  # until SIGTERM
    """

    def __init__(
        self,
        passport: PassportLike,
        *,
        registry_url: str | None = None,
        bus_url: str | None = None,
        ttl: float | None = None,
        grace: float = GRACE,
        takeover: bool = False,
        answers_window: float | None = None,
    ) -> None:
        self.passport = passport_of(passport)
        self.grace = grace
        self._registry_url = registry_url
        self._bus_url = bus_url
        self._ttl = ttl
        self._takeover = takeover
        self._answers_window = answers_window_of(answers_window)
        self._functions: dict[str, Callable[..., Any]] = {}
        self._signals: dict[str, Signal] = {}
        self._checks: list[Check] = []
        self._checking: list[asyncio.Task[None]] = []
        self._io: LoopThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = Threads(f"roster-{self.passport.name}")
        self._stopping: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._serving = False
        self._runner: Runner | None = None
        self._presence: Presence | None = None
        self._engine: Engine | None = None

    def connect_to(self, registry_url: str | None, bus_url: str | None) -> None:
        """Use another registry and bus than those that it was made with.

        Raises:
            NodeError: it runs already.
        """
        if self._io is not None:
            raise NodeError(f"{self.key} runs already: say where before its start")
        self._registry_url, self._bus_url = registry_url, bus_url

    @classmethod
    def load(cls, path: str | os.PathLike[str], **options: Any) -> Node:
        """Make a node from a passport file. `options` are those of `Node`.

        Raises:
            DocumentError: the passport is wrong, or cannot be read.
        """
        return cls(NodePassport.load(Path(path)), **options)

    # -- what it can do -------------------------------------------------------------------------------------------

    def capability(self, name: str) -> Callable[[F], F]:
        """Serve a capability of the passport with the function below.

        The function's parameters are the params by name; one annotated `Context` gets the command's context.

        Raises:
            NodeError: the passport does not declare it, or it has a handler already.
        """
        if self.passport.capability(name) is None:
            declared = ", ".join(capability.name for capability in self.passport.capabilities) or "none"
            raise NodeError(
                f"the passport of {self.key} does not declare the capability {name!r} (it declares: {declared}); "
                "add it under spec.capabilities"
            )
        if name in self._functions:
            raise NodeError(f"the capability {name!r} of {self.key} has two handlers")

        def keep(function: F) -> F:
            self._functions[name] = function
            return function

        return keep

    def check(self, capability: str, *, every: float = 10.0, timeout: float = 5.0) -> Callable[[F], F]:
        """Look at one capability with the function below; while it fails, that capability alone is withdrawn.

        It is made once before the node becomes ready. It takes no arguments and returns None or True when all is well,
        False when it is not, or raises. A check that is itself broken (it returns something else, or raises what only a
        mistake raises, such as `TypeError`) withdraws nothing: the node shows the condition as `Unknown`.

        Args:
            capability: what it looks at.
            every: seconds between two looks.
            timeout: seconds after which it counts as failing.

        Raises:
            NodeError: the passport does not declare the capability.
            ConfigError: a duration is out of range.

        Example:
            >>> @node.check("write_article", every=30)
            ... async def model_answers() -> bool:
            ...     return await model.ping()
        """
        if self.passport.capability(capability) is None:
            raise NodeError(
                f"the passport of {self.key} does not declare the capability {capability!r}: nothing to check"
            )

        def keep(function: F) -> F:
            self._checks.append(Check(capability, function, every, timeout))
            return function

        return keep

    def signal(self, name: str) -> Callable[[F], F]:
        """Serve a control signal (such as `config`) with the function below: it gets the signal's data, a dict.

        What it returns, a JSON object or nothing, confirms the signal to its sender.

        Raises:
            NodeError: the node serves this signal itself, or it has a handler already.
        """
        if name in OWN or name in self._signals:
            raise NodeError(f"the signal {name!r} is served already")

        def keep(function: F) -> F:
            self._signals[name] = function
            return function

        return keep

    def _bind_all(self) -> dict[str, Handler]:
        faults: list[str] = []
        handlers: dict[str, Handler] = {}
        for capability in self.passport.capabilities:
            function = self._functions.get(capability.name)
            if function is None:
                faults.append(
                    f"the passport of {self.key} declares {capability.name!r}, and nothing serves it: "
                    f"add @node.capability({capability.name!r}), or take it out of the passport"
                )
                continue
            try:
                handlers[capability.name] = bind(capability, function)
            except NodeError as error:
                faults.append(str(error))
        if faults:
            raise NodeError("; ".join(faults))
        return handlers

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return self.passport.key

    @property
    def uid(self) -> str:
        """The incarnation registered now; empty before the first registration."""
        return self._engine.uid if self._engine is not None else ""

    @property
    def state(self) -> str:
        """`offline` before the start and after the end, else what the registry is told."""
        return self._presence.state if self._presence is not None else "offline"

    @property
    def active_tasks(self) -> int:
        """How many commands are in hand."""
        return self._engine.hands.active if self._engine is not None else 0

    def set_condition(
        self, type: str, status: Literal["True", "False", "Unknown"], reason: str = "", message: str = ""
    ) -> None:
        """Show a condition in the node's status, as Kubernetes does. Any thread.

        Args:
            type: its name, CamelCase.
            status: whether it holds.
            reason: one CamelCase word for programs.
            message: a sentence for people.
        """
        presence = self._need_presence()
        presence.hop.post(presence.set_condition, type, status, reason, message)

    async def update(
        self, *, labels: Mapping[str, str] | None = None, annotations: Mapping[str, str] | None = None
    ) -> None:
        """Change labels or annotations of the registered passport while it serves.

        Args:
            labels: all labels from now on; None leaves them.
            annotations: all annotations from now on; None leaves them.
        """
        presence = self._need_presence()
        assert self._io is not None  # noqa: S101 - follows from having a presence
        self.passport = await self._io.submit(presence.update(labels=labels, annotations=annotations))

    async def occupy(self, tasks: int) -> Load:
        """Count so many tasks as running beside the commands: work that comes by another door than the bus.

        They take slots: commands wait, go elsewhere, or are refused as they are when the slots are taken by commands.

        Args:
            tasks: how many from now on; 0 when that work is over.

        Returns:
            The node's load with them.
        """
        if tasks < 0:
            raise NodeError(f"a node has 0 or more tasks, not {tasks}")
        presence = self._need_presence()
        assert self._io is not None  # noqa: S101 - follows from having a presence
        return await self._io.submit(presence.occupy(tasks))

    def _need_presence(self) -> Presence:
        if self._presence is None:
            raise NodeError(f"{self.key} is not running: start it with run() or `async with node:`")
        return self._presence

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Register and begin to serve; the handlers run on this loop.

        Raises:
            NodeError: handlers and passport contradict each other, or it runs already.
            NameConflictError: a live process holds the name.
            StoreError: the registry cannot be reached or written.
            BusUnavailableError: the bus cannot be reached, or another process serves the queue.
        """
        if self._io is not None:
            raise NodeError(f"{self.key} runs already")
        handlers = self._bind_all()
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._failure = None
        self._io = LoopThread(f"roster-io-{self.passport.name}").start()
        io_hop = Hop(self._io.loop)
        runner = self._runner = Runner(self.key, self._threads, io_hop)
        try:
            findings = await asyncio.gather(*(check.look(self._threads) for check in self._checks))
            found = list(zip(self._checks, findings, strict=True))
            await asyncio.wait_for(
                self._io.submit(self._start_io(handlers, io_hop, runner, found)), START_DEADLINE
            )
        except BaseException:
            io, self._io = self._io, None
            with contextlib.suppress(RosterError, TimeoutError):
                await asyncio.wait_for(io.submit(self._close_io()), 10)
            io.stop()
            await runner.close()
            self._engine = self._presence = None
            raise
        self._checking = [
            asyncio.create_task(
                keep_looking(check, self._threads, self._on_finding), name=f"check {check.capability}"
            )
            for check in self._checks
        ]
        logger.info("%s is ready, uid %s", self.key, self.uid, extra={"node": self.key, "uid": self.uid})

    def _on_finding(self, check: Check, finding: Finding) -> None:
        presence = self._presence
        if presence is not None:
            presence.hop.post(presence.found, check.capability, finding)

    async def _start_io(
        self, handlers: dict[str, Handler], io_hop: Hop, runner: Runner, found: list[tuple[Check, Finding]]
    ) -> None:
        presence = Presence(
            self.passport,
            registry_url=self._registry_url,
            bus_url=self._bus_url,
            ttl=self._ttl,
            takeover=self._takeover,
            hop=io_hop,
            pulse=runner.pulse,
            lost=self._on_lost,
            fatal=self._on_fatal,
        )
        signals = Signals(
            self.key,
            self._signals,
            runner=runner,
            io_hop=io_hop,
            shutdown=self._asked_to_end,
            show=presence.set_condition,
            when_shown=presence.when_shown,
        )
        engine = Engine(
            key=self.key,
            capacity=self.passport.max_concurrent_tasks,
            handlers=handlers,
            run=runner.run,
            stop_running=runner.stop,
            changed=presence.changed,
            control=signals.serve,
            bus_hop=io_hop,
            look=presence.standstill.look,
            answers=Answers(
                self.key,
                team=lambda: presence.registry_url,
                window=self._answers_window,
                report=lambda problem: _show_answers(presence, problem),
            ),
        )
        signals.engine = engine
        runner.serve(engine, presence.standstill)
        self._engine, self._presence = engine, presence
        await presence.start(engine, [(check.capability, finding) for check, finding in found])
        self.passport = presence.passport

    async def stop(self, grace: float | None = None) -> bool:
        """Leave in good order: take no new work, hand back what waits, finish what runs, deregister.

        Args:
            grace: seconds for the running work; without it the node's own. What still runs then is cancelled.

        Returns:
            Whether everything in hand was finished in time.
        """
        if self._io is None:
            return True
        io, self._io = self._io, None
        for task in self._checking:
            task.cancel()
        assert self._presence is not None  # noqa: S101 - set together with the I/O thread
        try:
            finished = await io.submit(self._presence.leave(self.grace if grace is None else grace))
        finally:
            try:
                await io.submit(self._close_io())
            finally:
                if self._runner is not None:
                    await self._runner.close()
                await io.stop_from()
                self._presence = self._engine = None
        logger.info(
            "%s has left%s",
            self.key,
            "" if finished else ", with work cancelled at the end of its grace",
            extra={"node": self.key},
        )
        return finished

    async def _close_io(self) -> None:
        if self._presence is not None:
            await self._presence.close()

    async def __aenter__(self) -> Node:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def serve(self) -> bool:
        """Start, serve until `shutdown` is called or asked for, and leave in good order; return whether all was finished.

        Raises:
            NameConflictError: another process took the name over.
        """
        self._serving = True
        try:
            await self.start()
            assert self._stopping is not None  # noqa: S101 - start() made it
            try:
                await self._stopping.wait()
            finally:
                finished = await self.stop()
        finally:
            self._serving = False
        if self._failure is not None:
            raise self._failure
        return finished

    def shutdown(self) -> None:
        """Have `serve` or `run` end in good order. Any thread, also from a signal handler."""
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
                self._loop.call_soon_threadsafe(self._stopping.set)

    def _asked_to_end(self) -> bool:
        """A control signal says so; return whether anybody here looks for it. I/O loop."""
        if self._serving:
            self.shutdown()
        return self._serving

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then leave in good order. A second signal ends the process at once.

        If `ROSTER_LOG` (debug, info, warning, error, off) or `ROSTER_LOG_FORMAT` (text, json) is set, and the application
        has given neither the root logger nor the logger `roster` a handler, the library's log goes to stderr.

        Raises:
            ConfigError: one of these variables cannot be read.
            SystemExit: with 1 when running work had to be cancelled at the end of its grace.
        """
        log_as_the_environment_says()
        if not asyncio.run(self._run()):
            raise SystemExit(1)

    async def _run(self) -> bool:
        loop = asyncio.get_running_loop()
        asked = False

        def on_signal(number: int) -> None:
            nonlocal asked
            if asked:
                os._exit(128 + number)
            asked = True
            logger.info("%s: signal %d, leaving", self.key, number, extra={"node": self.key})
            stopping.set()

        stopping = asyncio.Event()
        # Before the start: a SIGTERM during it must still end in good order.
        for number in (os_signals.SIGTERM, os_signals.SIGINT):
            loop.add_signal_handler(number, on_signal, number)
        serving = asyncio.ensure_future(self.serve())
        asking = asyncio.ensure_future(stopping.wait())
        try:
            await asyncio.wait({serving, asking}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                if self._stopping is not None and self._presence is not None and self._presence.started:
                    self._stopping.set()
                else:
                    serving.cancel()
            try:
                return await serving
            except asyncio.CancelledError:
                return True
        finally:
            asking.cancel()

    # -- what the I/O loop tells ----------------------------------------------------------------------------------

    def _on_lost(self, why: str) -> None:
        """The lease is gone: others may have our work. I/O loop."""
        engine, presence = self._engine, self._presence
        if engine is not None:
            stood_still = presence is not None and presence.stood_still
            why = f"{self.key} lost its registration: {why}"
            for work in engine.hands.everything():
                engine.give_back(work, why, lost=True, stood_still=stood_still)

    def _on_fatal(self, error: BaseException) -> None:
        """Somebody else has the name: end. I/O loop."""
        self._failure = error
        logger.error("%s: %s", self.key, error, extra={"node": self.key})
        self.shutdown()


def _show_answers(presence: Presence, problem: str | None) -> None:
    if problem is None:
        presence.set_condition("AnswersKept", "True")
    else:
        presence.set_condition("AnswersKept", "False", "CannotWrite", problem[:1000])


__all__ = ["Context", "Node"]
