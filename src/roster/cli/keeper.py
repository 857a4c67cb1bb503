"""One registration and one child process, and the signals between them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from roster.cli.session import Session
from roster.errors import RegistryError, StoreError

if TYPE_CHECKING:
    from roster.cli.probes import Checks
    from roster.passport import NodePassport
    from roster.registry import Registration

NOT_FOUND = 127
NOT_RUNNABLE = 126

_LEAVING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_PASSED = (*_LEAVING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# What a terminal sends by a key goes to every process in its foreground: the child has it already.
_FROM_KEYS = (signal.SIGINT, signal.SIGQUIT)
_DRAIN_DEADLINE = 2.0  # a store that is silent must not hold a SIGTERM back
_END_GRACE = 10.0


class Keeper:
    """Keeps a passport registered while a child runs.

    Args:
        session: where to register, and what to say.
        passport: whose presence it is.
        command: the child; empty: hold the registration until a signal.
        checks: what has to be well for the node to be ready; without them it is from the beginning.
    """

    def __init__(
        self,
        session: Session,
        passport: NodePassport,
        command: Sequence[str],
        checks: Checks | None = None,
    ) -> None:
        self._session = session
        self._out = session.out
        self._passport = passport
        self._command = command
        self._checks = checks
        self._looking: asyncio.Task[None] | None = None
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._displaced = asyncio.Event()

    async def keep(self, ttl: float | None, *, takeover: bool) -> int:
        """Register, run, deregister; return the exit status.

        Raises:
            NameConflictError: a live process holds the name, or took it over.
            StoreError: the registry cannot be reached.
        """
        loop = asyncio.get_running_loop()
        for number in _PASSED if self._command else (*_LEAVING, signal.SIGHUP):
            loop.add_signal_handler(number, self._signals.put_nowait, number)
        async with self._session.registry() as registry:
            # A name may be waited for, and a signal ends the waiting.
            registering = asyncio.ensure_future(
                registry.register(
                    self._passport,
                    ttl=ttl,
                    takeover=takeover,
                    on_wait=self._out.note,
                    state="starting" if self._checks else "ready",
                )
            )
            signalled = await self._signal_before(registering)
            if signalled is not None:
                return 128 + signalled
            registration = registering.result()
            registration.on_lost = lambda why: self._out.warning(
                f"{registration.key} lost its registration: {why}"
            )
            registration.on_registered = lambda uid: self._out.warning(
                f"{registration.key} is registered again, uid {uid}"
            )
            registration.on_displaced = lambda _: self._displaced.set()
            if self._checks is not None:
                self._looking = asyncio.create_task(self._checks.keep_looking(registration, self._out))
            try:
                if self._command:
                    status = await self._run(registration)
                else:
                    self._out.note(
                        f"{registration.key} is registered, uid {registration.uid}; Ctrl-C ends it"
                    )
                    status = await self._hold()
            finally:
                await self._leave(registration)
            if registration.error is not None:
                raise registration.error
            return status

    async def _signal_before(self, work: asyncio.Future[Registration]) -> signal.Signals | None:
        """Wait for `work`; if a signal comes first, cancel it and return the signal."""
        asking = asyncio.ensure_future(self._signals.get())
        try:
            both: set[asyncio.Future[Any]] = {work, asking}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait([work])
                return asking.result()
            return None
        finally:
            asking.cancel()

    async def _hold(self) -> int:
        number = await self._next()
        return 130 if number == signal.SIGINT else 0

    async def _next(self) -> signal.Signals | None:
        """Return the next signal, None when another process has taken the name."""
        asking = asyncio.ensure_future(self._signals.get())
        gone = asyncio.ensure_future(self._displaced.wait())
        try:
            await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else None
        finally:
            asking.cancel()
            gone.cancel()

    async def _run(self, registration: Registration) -> int:
        try:
            child = await asyncio.create_subprocess_exec(*self._command, env=self._environment(registration))
        except FileNotFoundError:
            self._out.error(f"there is no command {self._command[0]!r}; check its name and PATH")
            return NOT_FOUND
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self._out.error(f"{self._command[0]!r} cannot be run: {reason}; make it an executable file")
            return NOT_RUNNABLE
        ending = asyncio.ensure_future(child.wait())
        passing = asyncio.ensure_future(self._pass_signals(child, registration))
        try:
            await asyncio.wait({ending, passing}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                await self._end(child, ending)
        finally:
            passing.cancel()
            await asyncio.wait({passing})
        status = await ending
        return 128 - status if status < 0 else status

    def _environment(self, registration: Registration) -> dict[str, str]:
        return {
            **self._session.environment(),
            "ROSTER_NODE_NAME": registration.passport.name,
            "ROSTER_NODE_NAMESPACE": registration.passport.namespace,
            "ROSTER_NODE_UID": registration.uid,
            "ROSTER_NODE_QUEUE": registration.passport.mindbus_queue,
        }

    async def _pass_signals(self, child: asyncio.subprocess.Process, registration: Registration) -> None:
        """Hand signals on; return when another process has taken the name."""
        while (number := await self._next()) is not None:
            if number in _LEAVING:
                await self._drain(registration)
            if not (number in _FROM_KEYS and _in_foreground()):
                _send(child, number)

    async def _drain(self, registration: Registration) -> None:
        """Have no new work sent here, before the child hears that it is to end."""
        await self._look_no_more()
        try:
            async with asyncio.timeout(_DRAIN_DEADLINE):
                await registration.drain()
        except (StoreError, RegistryError, TimeoutError) as error:
            self._out.warning(
                f"{registration.key} could not be shown as draining: {str(error) or 'the store is silent'}"
            )

    async def _end(self, child: asyncio.subprocess.Process, ending: asyncio.Future[int]) -> None:
        """The name is somebody else's: nobody sends work here any more, so the child ends."""
        self._out.warning("another process has taken the name over; ending the command")
        _send(child, signal.SIGTERM)
        done, _ = await asyncio.wait({ending}, timeout=_END_GRACE)
        if not done:
            _send(child, signal.SIGKILL)

    async def _look_no_more(self) -> None:
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.wait({looking})
            if not looking.cancelled():
                looking.result()  # a defect in it is told

    async def _leave(self, registration: Registration) -> None:
        await self._look_no_more()
        try:
            await registration.deregister()
        except StoreError as error:
            # The child's exit status is what the caller wants to hear; the lease ends what could not be ended here.
            self._out.warning(str(error))


def _send(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        child.send_signal(number)
    except ProcessLookupError:
        pass  # it has ended by itself


def _in_foreground() -> bool:
    """Return whether this process group has the terminal's keyboard."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False  # there is no terminal
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
