"""One node's presence in the registry: keeps its lease, reports its state, and comes back when the lease is lost."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from roster._clock import boottime
from roster.errors import (
    ConfigError,
    LeaseLostError,
    NameConflictError,
    NodeNotFoundError,
    RegistryError,
    StoreError,
    StoreUnavailableError,
)
from roster.passport import NodePassport
from roster.registry.claim import Claim
from roster.registry.draft import Draft
from roster.registry.keys import NodeKey, node_key
from roster.registry.leases import Leases
from roster.registry.status import LIVE_STATES
from roster.registry.writer import Writer
from roster.store.base import Hint, Store

logger = logging.getLogger("roster.registry")

T = TypeVar("T")

DEREGISTER_TIMEOUT = 10.0
_LIVES = 256


class Registration:
    """A node's presence. Made by `Registry.register`; it belongs to the loop that made it.

    It keeps the node's lease alive every third of the TTL on that loop, so that loop must not be blocked by
    the node's own work. Two things can end an incarnation (lost is not unconfirmed):

    - **Lost**: the store says so, or this process stood still for half a TTL or more. `on_lost(reason)` is
      called at once, then the node registers again by itself under a new uid and `on_registered(uid)` is
      called.
    - **Displaced**: somebody took the name over, or took it while this process stood still. `on_lost`, then
      `on_displaced(error)` with a `NameConflictError`; it does not fight back.

    A store that is merely silent is neither: the registration goes on trying.

    Attributes:
        on_lost: called with one sentence when the incarnation is lost; commands received under it are void.
        on_registered: called with the new uid after each registration by itself (not for the first).
        on_displaced: called with the error when another process has the name; this registration has ended
            then.
    """

    def __init__(
        self,
        store: Store,
        content: NodePassport,
        *,
        ttl: float,
        retention: float,
        passport_refresh: float,
        state: str = "ready",
        now: Callable[[], float] = boottime,
        rng: Callable[[], float] = random.random,
    ) -> None:
        if state not in LIVE_STATES:
            raise ConfigError(f"a node registers as one of {', '.join(sorted(LIVE_STATES))}, not {state!r}")
        self.on_lost: Callable[[str], None] | None = None
        self.on_registered: Callable[[str], None] | None = None
        self.on_displaced: Callable[[NameConflictError], None] | None = None
        self._store = store
        self._identity = NodeKey(content.namespace, content.name)
        self._draft = Draft(content, state=state, ttl=ttl)
        self._leases = Leases(store, content.name, retention=retention, now=now, rng=rng)
        # The uids of its lives, the newest last: a store that was restored from a backup shows one of them again.
        self._own: deque[str] = deque(maxlen=_LIVES)
        self._writer = Writer(
            store,
            self._identity,
            self._draft,
            self._leases,
            own=self._own,
            refresh=passport_refresh,
            now=now,
            rng=rng,
        )
        self._now = now
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self._ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._lost: str | None = None
        self._away = False  # the store was silent when it was last asked
        self._error: NameConflictError | None = None
        self._retry_at = float("-inf")
        self._next_beat = 0.0
        self._beats = 0

    # -- what it is --------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return str(self._identity)

    @property
    def uid(self) -> str:
        """The incarnation; another one after each registration."""
        return self._writer.uid

    @property
    def passport(self) -> NodePassport:
        """The passport as it is stored, with uid and generation."""
        return self._writer.stored

    @property
    def state(self) -> str:
        """`starting`, `ready`, `busy` or `draining`; `offline` when it has ended."""
        return "offline" if self._ended.is_set() else self._draft.state

    @property
    def seq(self) -> int:
        """Number of the newest report."""
        return self._draft.seq

    @property
    def ttl(self) -> float:
        """Seconds of the node's lease, as the store granted it."""
        return self._draft.ttl

    @property
    def lost(self) -> bool:
        """Whether this incarnation is lost and the next one not there yet."""
        return self._lost is not None

    @property
    def cordoned(self) -> bool:
        """Whether `Registry.drain` has marked the passport, as far as this node has seen."""
        return self._draft.cordoned is not None

    @property
    def error(self) -> NameConflictError | None:
        """Why it was displaced, None if it was not."""
        return self._error

    async def wait_ended(self) -> None:
        """Return when it has deregistered.

        Raises:
            NameConflictError: it was displaced.
        """
        await self._ended.wait()
        if self._error is not None:
            raise self._error

    # -- what the node says ------------------------------------------------------------------------

    def report(
        self,
        active_tasks: int,
        capacity: int | None = None,
        *,
        seq: int | None = None,
        at_once: bool = False,
    ) -> None:
        """Tell the load. Cheap; any thread. Written in the background.

        A node of state `ready` or `busy` is `busy` while it has no room. The first flip between the two is
        written at once, further ones at most once a second, mere load at most every 5 s; the last report is
        always written.

        Args:
            active_tasks: commands running now.
            capacity: how many may run at once; None: unchanged.
            seq: the node's own counter, where it numbers its reports elsewhere too; None: the next number.
            at_once: written now, however short ago the last report was.
        """
        draft = self._draft
        if capacity is not None:
            draft.capacity = capacity
        draft.seq = draft.seq + 1 if seq is None else max(seq, draft.seq)
        draft.active_tasks = active_tasks
        wake = at_once or not self._writer.load
        self._writer.load = True
        self._writer.urgent |= at_once
        if draft.state in ("ready", "busy"):
            state = "busy" if active_tasks >= draft.capacity else "ready"
            if state != draft.state:
                draft.state = state
                wake = wake or not self._writer.flip
                self._writer.flip = True
        if wake:
            self._rouse()

    async def set_state(self, state: str) -> None:
        """Change the state, and write it now.

        Args:
            state: `starting`, `ready` (shown as `busy` while it has no room), `busy` or `draining`.

        Raises:
            ConfigError: it is none of these.
            RegistryError: the registration has ended.
            StoreUnavailableError: unconfirmed; it will be written as soon as the store is back.
        """
        if state not in LIVE_STATES:
            raise ConfigError(f"a node's state is one of {', '.join(sorted(LIVE_STATES))}, not {state!r}")
        self._need_alive()
        if state == "ready" and self._draft.active_tasks >= self._draft.capacity:
            state = "busy"
        if state != self._draft.state:
            self._draft.state = state
            self._draft.seq += 1
            self._writer.urgent = True
            await self._flush()

    async def drain(self) -> None:
        """Become `draining`: no new work. Whoever runs the node finishes what runs, then calls `deregister`."""
        await self.set_state("draining")

    def set_condition(self, type: str, status: str | None, reason: str = "", message: str = "") -> None:
        """Show a condition in the status, as Kubernetes does. Written in the background.

        Args:
            type: its name, CamelCase.
            status: `True`, `False` or `Unknown`; None takes the condition away.
            reason: one CamelCase word for machines.
            message: a sentence for people.
        """
        if self._draft.set_condition(type, status, reason[:1024], message[:1024]):
            self._writer.urgent = True
            self._rouse()

    def withdraw(self, capability: str) -> None:
        """Stop offering one capability; the others stay. Written in the background.

        Raises:
            NodeNotFoundError: the passport has no such capability.
        """
        self._need_capability(capability)
        if capability not in self._draft.withdrawn:
            self._draft.withdrawn.add(capability)
            self._writer.urgent = True
            self._rouse()

    def restore(self, capability: str) -> None:
        """Offer a withdrawn capability again. Written in the background."""
        self._need_capability(capability)
        if capability in self._draft.withdrawn:
            self._draft.withdrawn.discard(capability)
            self._writer.urgent = True
            self._rouse()

    async def update(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        capabilities: Sequence[Mapping[str, Any]] | None = None,
    ) -> NodePassport:
        """Change the passport at run time; `metadata.generation` rises if its content changed.

        Args:
            labels: all labels from now on; None leaves them.
            annotations: all annotations from now on; None leaves them.
            capabilities: all capabilities from now on, as in a passport; None leaves them.

        Returns:
            The passport as stored.

        Raises:
            DocumentError: the result is no valid passport; nothing has changed.
            RegistryError: the registration has ended.
            StoreUnavailableError: unconfirmed; it will be written as soon as the store is back.
        """
        self._need_alive()
        if self._draft.change(labels=labels, annotations=annotations, capabilities=capabilities):
            self._draft.withdrawn &= {capability.name for capability in self._draft.content.capabilities}
            self._writer.urgent = self._writer.passport_dirty = True
            await self._flush()
        return self._writer.stored

    def lose(self, reason: str) -> None:
        """Treat this incarnation as lost, as if the store had said so: for whoever notices first that the process stood
        still. Call it on the registration's loop."""
        self._declare_lost(reason)

    async def deregister(self, timeout: float = DEREGISTER_TIMEOUT) -> None:
        """Leave: passport and status are removed at once. A second call does nothing.

        Args:
            timeout: seconds to reach the store.

        Raises:
            StoreUnavailableError: it could not be reached; the leases run out by themselves.
        """
        await self._stop_tasks()
        if self._ended.is_set():
            return
        self._ended.set()
        try:
            async with asyncio.timeout(timeout), self._lock:
                await self._writer.remove()
                await self._leases.release()
        except TimeoutError:
            raise StoreUnavailableError(
                f"{self.key} could not deregister within {timeout:g} s; its lease runs out within {self._draft.ttl:g} s"
            ) from None
        logger.info("%s deregistered", self.key, extra=self._about())

    async def abandon(self) -> None:
        """End as a death does: the node is `offline` at once, and stays listed for its retention.

        For whoever registers on behalf of another process, and finds that one dead. A store that cannot be reached ends the
        lease by itself.
        """
        await self._stop_tasks()
        if self._ended.is_set():
            return
        self._ended.set()
        async with self._lock:
            await self._leases.abandon()
        logger.info("%s was given up", self.key, extra=self._about())

    async def __aenter__(self) -> Registration:
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self.deregister()
        except StoreError as error:
            # Leaving must not hide why one leaves; the lease ends what could not be ended here.
            logger.warning("%s: %s", self.key, error, extra=self._about())

    # -- beginning ---------------------------------------------------------------------------------

    async def begin(
        self, *, takeover: bool, wait: float | None, on_wait: Callable[[str], None] | None
    ) -> None:
        """Take the name and start to keep it. Called once, by `Registry.register`."""
        try:
            await self._claim(takeover=takeover, wait=wait, on_wait=on_wait)
        except BaseException:
            await self._leases.release()
            raise
        logger.info("%s registered, uid %s", self.key, self._writer.uid, extra=self._about())
        self._tasks = [
            asyncio.create_task(self._pulse(), name=f"roster-pulse {self.key}"),
            asyncio.create_task(self._run(), name=f"roster-registration {self.key}"),
        ]

    async def _claim(
        self, *, takeover: bool, wait: float | None, on_wait: Callable[[str], None] | None
    ) -> None:
        lease = await self._leases.grant(self._draft.ttl, self._hint())
        claim = Claim(
            self._store,
            self._identity,
            status_lease=lease.id,
            passport_lease=(await self._leases.life()).id,
            documents=self._writer.documents,
            takeover=takeover,
            wait=wait,
            own=self._own,
            on_wait=on_wait,
        )
        keeping = asyncio.create_task(self._leases.keep_while_waiting())
        try:
            claimed = await claim.take()
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
        self._writer.adopt(claimed)
        self._draft.ttl = lease.ttl
        self._lost = None
        self._next_beat = self._beat_after(lease.ttl)

    # -- keeping -----------------------------------------------------------------------------------

    async def _pulse(self) -> None:
        """Notice that this process stood still: a wake-up comes much later than planned."""
        while not self._ended.is_set():
            # Fine enough that a stop of half a TTL cannot hide in it, coarse enough for 200 idle processes.
            tick = self._draft.ttl / 10
            planned = self._now() + tick
            await asyncio.sleep(tick)
            late = self._now() - planned
            if late >= self._draft.ttl / 2 - tick:
                self._declare_lost(
                    f"this process stood still for {late:.1f} s of a TTL of {self._draft.ttl:g} s"
                )

    def _declare_lost(self, reason: str) -> None:
        if self._lost is not None or self._ended.is_set():
            return
        self._lost = reason
        logger.warning("%s lost its registration: %s", self.key, reason, extra=self._about())
        self._call(self.on_lost, reason)
        self._wake.set()

    async def _run(self) -> None:
        while not self._ended.is_set():
            self._wake.clear()
            delay = self._due() - self._now()
            if delay > 0 and self._lost is None:
                try:
                    async with asyncio.timeout(delay):
                        await self._wake.wait()
                except TimeoutError:
                    pass  # something is due
                continue
            async with self._lock:
                await self._step()

    def _due(self) -> float:
        due = self._writer.due if self._leases.shown == self._hint() else float("-inf")
        return max(min(self._next_beat, due), self._retry_at)

    async def _step(self) -> None:
        """Do one thing that is due; whatever goes wrong is decided here: lost, displaced, or try again."""
        try:
            if self._lost is not None:
                await self._reclaim()
                return
            async with asyncio.timeout(max(self._draft.ttl / 3, 0.5)):
                if self._now() >= self._next_beat:
                    await self._beat()
                else:
                    await self._write()
            self._retry_at = float("-inf")
            if self._away:
                self._away = False
                logger.info("%s reaches the store again", self.key, extra=self._about())
        except NameConflictError as error:
            await self._displace(error)
        except LeaseLostError as error:
            self._declare_lost(f"the store says: {error}")
        except (StoreError, TimeoutError) as error:
            # Unconfirmed: the store is silent, we run. Keep serving, keep trying.
            self._retry_at = self._now() + self._draft.ttl / 10 * (0.5 + self._rng())
            # One line when it begins, one when it is over; the tries between tell nothing new.
            logger.log(
                logging.DEBUG if self._away else logging.WARNING,
                "%s could not reach the store, trying again: %s",
                self.key,
                str(error) or "no answer in time",
                extra=self._about(),
            )
            self._away = True
        except Exception:
            # A mistake of ours or of an engine's must not end the keep-alive in silence.
            self._retry_at = self._now() + self._draft.ttl / 10
            logger.exception("keeping %s registered failed, trying again", self.key, extra=self._about())

    async def _beat(self) -> None:
        await self._leases.own.keep_alive()
        # Whoever takes a name over binds the keys to a lease of its own: ours goes on living, so look at
        # the key as well.
        await self._writer.check_status()
        self._beats += 1
        if await self._leases.renew_life_if_due():
            self._writer.passport_dirty = True
        if self._beats % 3 == 0:  # 2 KB where the status is 400 bytes
            await self._writer.check_passport()
        self._next_beat = self._beat_after(self._draft.ttl)

    def _beat_after(self, ttl: float) -> float:
        # Jitter: nodes that started together must not renew together for ever after.
        return self._now() + ttl / 3 * (0.9 + 0.1 * self._rng())

    async def _flush(self) -> None:
        """Write what is to be written now, and wait for it."""
        if self._lost is not None:
            return  # the next incarnation begins with it
        async with self._lock:
            try:
                async with asyncio.timeout(max(self._draft.ttl / 3, 0.5)):
                    await self._write()
            except NameConflictError as error:
                await self._displace(error)
                raise
            except LeaseLostError as error:
                # It registers again, with what was to be written.
                self._declare_lost(f"the store says: {error}")
            except TimeoutError:
                self._rouse()
                raise StoreUnavailableError(
                    f"the store {self._store.url} does not answer; trying again"
                ) from None

    async def _write(self) -> None:
        if self._writer.due <= self._now():
            await self._writer.write()
        await self._leases.show(self._hint())

    def _hint(self) -> Hint:
        return Hint(self.key, self._draft.offered, node_key(*self._identity))

    # -- losing and leaving ------------------------------------------------------------------------

    async def _reclaim(self) -> None:
        """Register again under a new uid, with backoff and full jitter: whole fleets lose their leases together."""
        old = self._leases.own_or_none
        failures = 0
        while not self._ended.is_set():
            bound = min(1.0, self._draft.ttl / 10) * 2 ** min(failures, 5)
            await asyncio.sleep(min(bound, self._draft.ttl) * self._rng())
            try:
                await self._claim(takeover=False, wait=None, on_wait=None)
                break
            except NameConflictError as error:
                await self._displace(error)
                return
            except StoreError as error:
                failures += 1
                logger.debug(
                    "%s could not register again, trying on: %s", self.key, error, extra=self._about()
                )
        if old is not None:
            await self._leases.revoke(old)
        self._retry_at = float("-inf")
        logger.warning("%s registered again, uid %s", self.key, self._writer.uid, extra=self._about())
        self._call(self.on_registered, self._writer.uid)

    async def _displace(self, error: NameConflictError) -> None:
        """Another process has the name: end without touching its keys."""
        self._declare_lost(str(error))
        self._error = error
        logger.error("%s", error, extra=self._about())
        self._call(self.on_displaced, error)
        self._ended.set()
        await self._leases.release()

    async def _stop_tasks(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        self._tasks = []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- small things ------------------------------------------------------------------------------

    def _rouse(self) -> None:
        if threading.get_ident() == self._thread:
            self._wake.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    def _call(self, hook: Callable[[T], None] | None, value: T) -> None:
        if hook is None:
            return
        try:
            hook(value)
        except Exception:
            # The owner's mistake must not cost the node its registration as well.
            logger.exception("a hook of the registration of %s failed", self.key, extra=self._about())

    def _about(self) -> dict[str, str]:
        """Return what each line of the log says beside its words."""
        return {"node": self.key, "uid": self._writer.uid}

    def _need_alive(self) -> None:
        if self._ended.is_set():
            raise self._error or RegistryError(f"{self.key} is not registered any more: register it again")

    def _need_capability(self, name: str) -> None:
        if all(capability.name != name for capability in self._draft.content.capabilities):
            raise NodeNotFoundError(f"the passport of {self.key} has no capability {name!r}")
