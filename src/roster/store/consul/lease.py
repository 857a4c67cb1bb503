"""Leases as Consul keeps them: a session, and for a node also a service whose check its heartbeats pass."""

from __future__ import annotations

import asyncio
import json
import math
import uuid
from typing import TYPE_CHECKING, Any

from roster._clock import boottime
from roster.errors import LeaseLostError, LimitError, StoreError, StoreUnavailableError
from roster.store.base import Hint
from roster.store.consul.wire import Answer

if TYPE_CHECKING:
    from roster.store.consul.engine import ConsulStore

SERVICE = "ai-node"
NAMELESS = "roster-lease"
# Consul takes session TTLs of 10 s to 24 h, and ends a session at exactly twice its TTL (measured with 1.8.7: 20.0 s for
# 10 s; the documentation promises no more than "at least the TTL").
MIN_SESSION = 10.0
MAX_SESSION = 86_400.0
FACTOR = 2.0
# The shortest time that Consul takes; the agent looks every 30 s.
DEREGISTER_AFTER = "60s"
# Consul refuses longer values (512) and more of them; what they are for is to be read by people.
MAX_META = 512
_RETRY = 0.02
_SESSIONS = "node read, session write"
_SERVICES = f'service "{SERVICE}" write, service "{NAMELESS}" write'


class SessionLease:
    """A lingering lease: a session that ends by time alone; see `roster.store.base.Lease`.

    Its `ttl` is never below 20 s, and never above two days.
    """

    def __init__(self, store: ConsulStore, session: str, ttl: float, sent: float) -> None:
        self._store = store
        self._id = session
        self._ttl = ttl
        self._deadline = sent + ttl
        self._lost = False

    @property
    def id(self) -> str:
        return self._id

    @property
    def ttl(self) -> float:
        return self._ttl

    @property
    def deadline(self) -> float:
        return self._deadline

    @property
    def lost(self) -> bool:
        return self._lost or boottime() >= self._deadline

    async def keep_alive(self) -> None:
        sent = boottime()
        await self._renew()
        self._deadline = sent + self._ttl

    async def describe(self, hint: Hint) -> None:
        pass  # nobody is shown what lingers

    async def revoke(self) -> None:
        self._lost = True
        # Also for a session that has ended Consul answers that it is destroyed.
        await self._store.wire.ask("PUT", f"/v1/session/destroy/{self._id}", again=True, what=_SESSIONS)

    async def _renew(self) -> None:
        if self._lost:
            raise self._ended()
        answer = await self._store.wire.ask(
            "PUT", f"/v1/session/renew/{self._id}", again=True, expect=(200, 404), what=_SESSIONS
        )
        if answer.status == 404:
            self._lost = True
            raise self._ended()

    def _ended(self) -> LeaseLostError:
        return LeaseLostError(f"the lease {self._id} has ended: grant another")


class ServiceLease(SessionLease):
    """A node's lease: a session bound to the TTL check of a service, which Consul's own health API, DNS and UI show.

    The check ends it at `ttl`, and so does the session's own TTL (at 20 s or later), should the agent die with its checks.
    A heartbeat writes nothing to raft: the agent keeps the check, and the leader the session's time.
    """

    def __init__(self, store: ConsulStore, session: str, ttl: float, sent: float, service: Service) -> None:
        super().__init__(store, session, ttl, sent)
        self._service = service

    async def keep_alive(self) -> None:
        sent = boottime()
        if self._lost:
            raise self._ended()
        if not await self._service.passes():
            # The agent has forgotten the service; as long as the session lives the node does.
            await self._service.register()
        await self._confirm(sent)

    async def describe(self, hint: Hint) -> None:
        sent = boottime()
        if self._lost:
            raise self._ended()
        if hint == self._service.hint:
            await self.keep_alive()  # to say the same again would write to raft
            return
        # With its check: should the service be gone, what comes back must be able to die.
        await self._service.register(hint)
        await self._confirm(sent)

    async def revoke(self) -> None:
        await super().revoke()
        await self._service.deregister()

    async def _confirm(self, sent: float) -> None:
        try:
            await self._renew()
        except LeaseLostError:
            # Passing its check has just called alive what has ended: nobody may be sent there.
            try:
                await self._service.deregister()
            except StoreError:
                pass  # then the check fails after its TTL, and Consul removes the service a minute later
            raise
        self._deadline = sent + self._ttl


class Service:
    """A service of one agent, with a TTL check.

    Args:
        store: whose.
        ttl: of the check, seconds.
        hint: what to show; None: a name that says nothing.
    """

    def __init__(self, store: ConsulStore, ttl: float, hint: Hint | None) -> None:
        self._store = store
        self._ttl = ttl
        self.hint = hint
        self.id = f"{SERVICE if hint else NAMELESS}-{uuid.uuid4().hex}"
        self.host: int | None = None

    @property
    def check(self) -> str:
        """The id of its check."""
        return f"service:{self.id}"

    async def register(self, hint: Hint | None = None) -> None:
        """Tell the agent of it, its check passing; of a service that is there, change what is shown.

        The agent that takes it first keeps it: no other knows it.
        """
        self.hint = hint or self.hint
        document: dict[str, Any] = {
            "ID": self.id,
            "Name": SERVICE if self.hint else NAMELESS,
            "Check": {
                "CheckID": self.check,
                "TTL": f"{math.ceil(self._ttl * 1000)}ms",
                "Status": "passing",
                "DeregisterCriticalServiceAfter": DEREGISTER_AFTER,
            },
        }
        if self.hint:
            document["Tags"] = list(self.hint.words)
            meta = {"key": self.hint.key, "name": self.hint.name}
            document["Meta"] = {name: _cut(text) for name, text in meta.items()}
        self.host = (await self._ask("register", json.dumps(document).encode())).host

    async def passes(self) -> bool:
        """Pass its check; return whether the agent knows it."""
        answer = await self._store.wire.ask(
            "PUT",
            f"/v1/agent/check/pass/{self.check}",
            at=self.host,
            again=True,
            expect=(200, 404, 500),
            what=_SERVICES,
        )
        if answer.status == 200:
            return True
        # 1.8 says it with 500, later versions with 404.
        if "TTL" in answer.text or answer.status == 404:
            return False
        raise StoreUnavailableError(f"{self._store.url}: Consul answered {answer.status}: {answer.text}")

    async def deregister(self) -> None:
        """Have the agent forget it."""
        await self._ask(f"deregister/{self.id}", b"", (200, 404))

    async def _ask(self, path: str, body: bytes, expect: tuple[int, ...] = (200,)) -> Answer:
        return await self._store.wire.ask(
            "PUT",
            f"/v1/agent/service/{path}",
            body=body,
            at=self.host,
            again=True,
            expect=expect,
            what=_SERVICES,
        )


def _cut(text: str) -> str:
    return text.encode()[:MAX_META].decode(errors="ignore")


async def grant_session(store: ConsulStore, ttl: float, hint: Hint | None) -> SessionLease:
    """Make a lease that lingers.

    Raises:
        LimitError: Consul keeps no session for so long.
    """
    if ttl > FACTOR * MAX_SESSION:
        raise LimitError(
            f"Consul keeps a session for at most {FACTOR * MAX_SESSION:.0f} s (two days) without a renewal, not {ttl:g} s: "
            "choose a shorter retention"
        )
    session_ttl = max(MIN_SESSION, ttl / FACTOR)
    sent = boottime()
    session = await _create_session(store, _session(session_ttl, hint), None)
    return SessionLease(store, session, FACTOR * session_ttl, sent)


async def grant_service(store: ConsulStore, ttl: float, hint: Hint | None) -> ServiceLease:
    """Make a lease that ends with its service's check."""
    service = Service(store, ttl, hint)
    sent = boottime()
    await service.register()
    try:
        document = _session(max(MIN_SESSION, ttl / FACTOR), hint)
        document["ServiceChecks"] = [{"ID": service.check}]
        session = await _create_session(store, document, service.host)
        lease = ServiceLease(store, session, ttl, sent, service)
        await lease.keep_alive()
    except BaseException:
        # Without its service the session ends as well.
        await _forget(service)
        raise
    return lease


async def _forget(service: Service) -> None:
    try:
        await service.deregister()
    except StoreError:
        pass  # nobody passes its check: Consul removes it by itself


def _session(ttl: float, hint: Hint | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "Name": _cut(hint.name) if hint else NAMELESS,
        "Behavior": "delete",
        # By default Consul bars a key for 15 s after its session ended.
        "LockDelay": "0s",
        # An agent that is out of touch for a moment must not cost its nodes their leases; that is for their TTL to decide.
        "NodeChecks": [],
    }
    if ttl <= MAX_SESSION:
        document["TTL"] = f"{math.ceil(ttl * 1000)}ms"
    return document


async def _create_session(store: ConsulStore, document: dict[str, Any], host: int | None) -> str:
    body = json.dumps(document).encode()
    until = boottime() + store.timeout
    while True:
        answer = await store.wire.ask(
            "PUT", "/v1/session/create", body=body, at=host, expect=(200, 500), what=_SESSIONS
        )
        if answer.status == 200:
            said = answer.json()
            if isinstance(said, dict) and isinstance(said.get("ID"), str):
                return str(said["ID"])
        elif "Permission denied" in answer.text:
            raise store.denied(answer.text, _SESSIONS)
        # The agent tells the servers of a new check a moment later; until then they do not know it.
        elif "check" in answer.text.lower() and boottime() < until:
            await asyncio.sleep(_RETRY)
            continue
        raise StoreUnavailableError(f"{store.url}: Consul made no session: {answer.text or answer.status}")
