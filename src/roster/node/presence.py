"""A node's presence in the registry and on the bus: how it comes, what it says of itself, how it leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from roster._clock import boottime
from roster._loops import Hop, on_wake
from roster.bus import Load, open_bus
from roster.bus.base import Bus
from roster.errors import BusUnavailableError, RegistryError, RosterError, StoreError
from roster.node.checks import Finding
from roster.node.engine import Engine
from roster.node.standstill import SHORT, Standstill
from roster.passport import NodePassport
from roster.registry import Registration, Registry
from roster.registry.record import REACHABLE
from roster.registry.settings import DEFAULT_TTL, seconds

logger = logging.getLogger("roster.node")

# A change of load is told at once, several within this time together: the registration limits what is written.
_GATHER = 0.02
_LOOK = 5.0
_LOOK_BUSY = SHORT / 2
_BLOCKED = 1.0
_TAKEOVER_WAIT = 15.0
_SAY_DEADLINE = 2.0


def bindings_of(passport: NodePassport) -> list[str]:
    """Return the keys of what a node hears beside its own queue's commands: control, and its routing key."""
    name, namespace = passport.name, passport.namespace
    keys = [f"ctl.{name}.{namespace}.#", f"ctl.all.{namespace}.#", "ctl.all.all.#"]
    return [*keys, passport.mindbus_routing_key] if passport.mindbus_routing_key else keys


class Presence:
    """Lives on the I/O loop, between the engine and the registry."""

    def __init__(
        self,
        passport: NodePassport,
        *,
        registry_url: str | None,
        bus_url: str | None,
        ttl: float | None,
        takeover: bool,
        hop: Hop,
        pulse: Callable[[Callable[[float], None]], None],
        lost: Callable[[str], None],
        fatal: Callable[[BaseException], None],
    ) -> None:
        self.passport = passport
        self.hop = hop
        self.started = False
        self.stood_still = False
        self._registry_url = registry_url
        self._bus_url = bus_url
        self._ttl = ttl
        self._takeover = takeover
        self._pulse = pulse
        self._lost = lost
        self._fatal = fatal
        self._registry: Registry | None = None
        self._bus: Bus | None = None
        self._registration: Registration | None = None
        self._engine: Engine | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._telling: asyncio.TimerHandle | None = None
        self._told = 0
        self._shown = "starting"
        self._showing: asyncio.Task[None] | None = None
        self.standstill = Standstill(seconds(ttl, "ROSTER_TTL", DEFAULT_TTL) / 2)
        self._unhook: Callable[[], None] | None = None
        self._pulse_asked = 0.0
        self._pulse_answered = 0.0

    @property
    def state(self) -> str:
        """What the registry is told: `starting`, `ready`, `busy` or `draining`."""
        engine = self._engine
        if engine is None or not self.started:
            return "starting"
        if engine.reasons:
            return "draining"
        return "busy" if engine.hands.active >= engine.hands.capacity else "ready"

    @property
    def registry_url(self) -> str:
        """The registry that the node is in, without secrets; empty before `start`."""
        return "" if self._registry is None else self._registry.store.url

    async def start(self, engine: Engine, findings: Sequence[tuple[str, Finding]] = ()) -> None:
        """Register, serve the queue, then say `ready`: whoever finds the node can reach it.

        Args:
            findings: what the checks found, by capability.
        """
        self._engine = engine
        self._unhook = on_wake(asyncio.get_running_loop(), self._woke)
        self._bus = open_bus(self._bus_url)
        self._registry = await Registry.connect(self._registry_url)
        registration = await self._registry.register(
            self.passport,
            ttl=self._ttl,
            takeover=self._takeover,
            state="starting",
        )
        registration.on_lost = self._on_lost
        registration.on_registered = self._on_registered
        registration.on_displaced = self._fatal
        self._registration = registration
        engine.uid = registration.uid
        self.passport = registration.passport
        await self._bus.__aenter__()
        for capability, finding in findings:
            self.found(capability, finding)
        # What has waited in the queue comes at once: it must not be refused.
        engine.open_for("starting")
        await self._serve(engine)
        # From here on it may have work in hand, which whoever ends the node lets it finish.
        self.started = True
        self._shown = "ready"
        try:
            await registration.set_state("ready")
        except StoreError as error:
            # It is kept, and written as soon as the store is back.
            logger.warning("%s could not say that it is ready: %s", self.passport.key, error)
        self._watcher = asyncio.create_task(self._watch())

    async def _serve(self, engine: Engine) -> None:
        assert self._bus is not None  # noqa: S101 - start() opened it
        bindings = bindings_of(self.passport)
        until = boottime() + (_TAKEOVER_WAIT if self._takeover else 0.0)
        while True:
            try:
                await engine.serve(self._bus, self.passport.mindbus_queue, bindings)
                return
            except BusUnavailableError:
                # After a takeover the old process leaves its queue as soon as it learns of it.
                if boottime() >= until:
                    raise
                await asyncio.sleep(0.1)

    def _woke(self) -> None:
        gap, long = self.standstill.io_woke()
        if long and self._registration is not None:
            self.stood_still = True
            self._registration.lose("this process stood still for half of its TTL or longer")
        elif gap >= SHORT and self._engine is not None:
            self._engine.stood_still(gap)

    def _on_lost(self, why: str) -> None:
        assert self._engine is not None  # noqa: S101 - there is no registration without it
        self._engine.close_for("lost", f"lost its registration: {why}")
        self._lost(why)

    def _on_registered(self, uid: str) -> None:
        self.stood_still = False
        if self._engine is not None:
            self._engine.uid = uid
            self._engine.open_for("lost")
            self._shown = ""  # the new incarnation begins with what was said last; say it again if it differs
            self.changed()

    # -- telling --------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """The load or the readiness has changed: tell the registry soon. Cheap, called twice a command."""
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(_GATHER, self._tell)

    def _tell(self) -> None:
        self._telling = None
        engine, registration = self._engine, self._registration
        if engine is not None and registration is not None:
            if engine.seq != self._told:
                engine.number_after(registration.seq)
                self._told = engine.seq
                registration.report(engine.hands.active, engine.hands.capacity, seq=engine.seq)
            if (
                self.started
                and (self._showing is None or self._showing.done())
                and self._to_show() != self._shown
            ):
                self._showing = asyncio.create_task(self._show_state(registration))

    async def occupy(self, tasks: int) -> Load:
        """Count so many tasks as running beside the commands, and tell the registry now; return the load."""
        engine, registration = self._engine, self._registration
        assert engine is not None  # noqa: S101 - Node checks
        assert registration is not None  # noqa: S101 - the same
        engine.number_after(registration.seq)
        load = engine.occupy(tasks)
        registration.report(load.active, load.capacity, seq=load.seq, at_once=True)
        return load

    def _to_show(self) -> str:
        """Say what `report` does not: between `ready` and `busy` the registration sees the difference by itself."""
        # While it is lost there is nothing to write to, and the next incarnation begins with what was said last.
        return "draining" if self._engine is not None and self._engine.reasons.keys() - {"lost"} else "ready"

    async def _show_state(self, registration: Registration) -> None:
        while (state := self._to_show()) != self._shown:
            self._shown = state
            try:
                await registration.set_state(state)
            except StoreError as error:
                # It is kept, and written as soon as the store is back.
                logger.warning(
                    "%s could not say that it is %s: %s",
                    self.passport.key,
                    state,
                    error,
                    extra={"node": self.passport.key, "state": state},
                )
            except RegistryError:
                return  # it has left, or was displaced: there is nothing to say any more

    def when_shown(self, then: Callable[[], None]) -> None:
        """Call `then` once: when the registry has been told the present state, or after two seconds all the same."""
        self._tell()
        showing = self._showing
        if showing is None or showing.done():
            then()
            return
        waiting = [then]

        def call(_: object = None) -> None:
            late.cancel()
            while waiting:
                waiting.pop()()

        late = asyncio.get_running_loop().call_later(_SAY_DEADLINE, call)
        showing.add_done_callback(call)

    def set_condition(
        self,
        type: str,
        status: Literal["True", "False", "Unknown"] | None,
        reason: str = "",
        message: str = "",
    ) -> None:
        """Show a condition in the node's status; None takes it away."""
        if self._registration is not None:
            self._registration.set_condition(type, status, reason, message)

    def found(self, capability: str, finding: Finding) -> None:
        """Withdraw a capability whose check fails, and offer it again when it does not."""
        engine, registration = self._engine, self._registration
        if engine is None or registration is None:
            return
        condition = f"check.ai-team.dev/{capability}"
        failing = finding.verdict == "failing"
        if failing != engine.is_withdrawn(capability):
            logger.log(
                logging.WARNING if failing else logging.INFO,
                "%s: %s %s%s", engine.key, capability, "is withdrawn: " if failing else "is offered again", finding.text,
                extra={"node": engine.key, "capability": capability},
            )  # fmt: skip
        if failing:
            engine.withdraw(capability, finding.text)
            registration.withdraw(capability)
            registration.set_condition(condition, "False", "CheckFailed", finding.text)
        else:
            engine.restore(capability)
            registration.restore(capability)
            if finding.verdict == "malformed":
                registration.set_condition(condition, "Unknown", "CheckMalformed", finding.text)
            else:
                registration.set_condition(condition, None)

    async def update(
        self, *, labels: Mapping[str, str] | None, annotations: Mapping[str, str] | None
    ) -> NodePassport:
        """Change the registered passport and return it."""
        assert self._registration is not None  # noqa: S101 - Node checks
        await self._registration.update(labels=labels, annotations=annotations)
        self.passport = self._registration.passport
        return self.passport

    # -- looking after itself -------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Notice a user's loop that is blocked, and a queue that is gone."""
        assert self._engine is not None  # noqa: S101 - start() set it
        while True:
            # Often while work is in hand, seldom while idle: two hundred idle agents must cost next to nothing.
            # With work in hand often enough to notice a short standstill, and always often enough for a long one.
            # While it is deaf as well: whoever waits for it waits no longer than needed.
            often = self._engine.hands.active or "deaf" in self._engine.reasons
            await asyncio.sleep(min(self.standstill.beat, _LOOK_BUSY if often else _LOOK))
            self._look_at_loop(self._engine)
            self._look_at_queue(self._engine)

    def _look_at_loop(self, engine: Engine) -> None:
        now = boottime()
        if not engine.hands.active and "blocked" not in engine.reasons:
            return  # nothing hangs on it, and waking two threads in hundreds of idle agents is not free
        if self._pulse_answered >= self._pulse_asked:
            self._pulse_asked = now
            self._pulse(self._on_pulse)
        elif now - self._pulse_asked >= _BLOCKED and "blocked" not in engine.reasons:
            engine.close_for("blocked", "does not respond: a handler blocks its event loop")
            self.set_condition("Responsive", "False", "EventLoopBlocked", "a handler blocks the event loop")
            logger.warning(
                "%s: a handler blocks the event loop; no new work is taken meanwhile",
                engine.key,
                extra={"node": engine.key},
            )

    def _on_pulse(self, asked: float) -> None:
        self._pulse_answered = asked
        if self._engine is not None and "blocked" in self._engine.reasons:
            self._engine.open_for("blocked")
            logger.info("%s: the event loop runs again", self._engine.key, extra={"node": self._engine.key})
            self.set_condition("Responsive", "True")

    def _look_at_queue(self, engine: Engine) -> None:
        if not engine.healthy and "deaf" not in engine.reasons:
            engine.close_for("deaf", "cannot be reached: its queue on the bus is gone")
            self.set_condition(REACHABLE, "False", "QueueLost", "the queue on the bus is gone")
            logger.error(
                "%s: its queue %s is gone; not ready until it is restored",
                engine.key,
                self.passport.mindbus_queue,
                extra={"node": engine.key},
            )
        elif engine.healthy and "deaf" in engine.reasons:
            engine.open_for("deaf")
            logger.info("%s: its queue is restored", engine.key, extra={"node": engine.key})
            # Not before it is ready again: calls wait for nodes that drain because they are cut off, for no others.
            self.when_shown(self._reachable)

    def _reachable(self) -> None:
        if self._engine is not None and "deaf" not in self._engine.reasons:
            self.set_condition(REACHABLE, "True")

    # -- leaving --------------------------------------------------------------------------------------------------

    async def leave(self, grace: float) -> bool:
        """Say `draining`, hand back what waits, let what runs finish; return whether all did in time."""
        engine = self._engine
        if engine is None:
            return True
        engine.close_for("leaving", "is leaving")
        self._tell()
        engine.hand_back_waiting()
        if self._showing is not None:
            await asyncio.wait({self._showing}, timeout=_SAY_DEADLINE)
        try:
            await asyncio.wait_for(engine.wait_idle(), max(0.0, grace))
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Deregister and close everything that `start` opened. Safe to call at any point of it."""
        if self._unhook is not None:
            self._unhook()
        for task in (self._watcher, self._showing):
            if task is not None:
                task.cancel()
        if self._telling is not None:
            self._telling.cancel()
        # The registration first: nobody should find a node whose queue is gone.
        if self._registration is not None:
            registration, self._registration = self._registration, None
            try:
                await registration.deregister()
            except RosterError as error:
                logger.warning(
                    "%s could not deregister, its lease will run out: %s", self.passport.key, error
                )
        if self._engine is not None:
            await self._engine.close()
        if self._bus is not None:
            bus, self._bus = self._bus, None
            await bus.close()
        if self._registry is not None:
            registry, self._registry = self._registry, None
            await registry.close()
