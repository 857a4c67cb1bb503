"""All nodes over HTTP at this gateway: who may register what, who has fallen silent, and the end of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from roster._clock import boottime
from roster._loops import on_wake
from roster.bus import open_bus
from roster.bus.base import Bus
from roster.errors import BusUnavailableError, NodeNotFoundError, StoreUnavailableError
from roster.gateway.member import Member
from roster.gateway.problems import Problem
from roster.gateway.tokens import Principal
from roster.node.standstill import SHORT
from roster.passport import NodePassport

if TYPE_CHECKING:
    from roster.gateway.core import Gateway

logger = logging.getLogger("roster.gateway")

RESTRICTED = "restricted.ai-team.dev"
MAX_MEMBERS = 2000
MIN_TTL, MAX_TTL, DEFAULT_TTL = 2.0, 3600.0, 30.0
_LOOK = 0.25
_REGISTER = 30.0
_WAIT = 2.0  # for the lease of a holder that is dead already; a longer one is for the program to wait out


class Members:
    """The nodes over HTTP. It belongs to the gateway's loop.

    Args:
        gateway: whose registry they are in.
        bus_url: the bus on which they take commands.
    """

    def __init__(self, gateway: Gateway, bus_url: str | None) -> None:
        self._gateway = gateway
        self._bus_url = bus_url
        self.bus: Bus | None = None
        self._members: dict[str, Member] = {}
        self._coming: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reaper: asyncio.Task[None] | None = None
        self._unhook: Callable[[], None] | None = None
        self._woke_at = boottime()
        self._closed = False

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._members)

    def get(self, key: str) -> Member | None:
        """Return the node of this key, None if there is none here."""
        return self._members.get(key)

    def need(self, key: str, uid: str) -> Member:
        """Return the node of this key and incarnation, which has shown a sign of life by asking.

        Raises:
            NodeNotFoundError: there is none here.
            Problem: another incarnation has the name.
        """
        member = self._members.get(key)
        if member is None or member.ended:
            raise NodeNotFoundError(
                f"{key} is not registered over HTTP at this gateway (any more): register it again"
            )
        if member.uid != uid:
            raise Problem(
                409,
                "other-incarnation",
                f"{key} has another uid than the one given: it was registered again, by somebody else or after a silence",
            )
        member.touch()
        return member

    # -- coming ------------------------------------------------------------------------------------

    async def register(
        self, document: Mapping[str, Any], principal: Principal, *, ttl: float, takeover: bool
    ) -> Member:
        """Register a node for a program.

        Raises:
            DocumentError: the passport is wrong.
            Problem: the token does not reach so far, or there are too many.
            NameConflictError: a live process holds the name.
            BusUnavailableError: the bus is out of reach.
        """
        passport = self._bare(NodePassport.from_dict(document, source="passport"))
        key = passport.key
        check_grant(principal, passport)
        passport = self._with_restricted(principal, passport)
        if self._closed or len(self._members) + len(self._coming) >= MAX_MEMBERS:
            raise Problem(503, "not-ready", "no more nodes are taken here", headers={"retry-after": "5"})
        if key in self._coming:
            raise Problem(409, "name-conflict", f"{key} is being registered by another request")
        before = self._members.get(key)
        if before is not None and not before.ended and not takeover:
            raise Problem(
                409,
                "name-conflict",
                f"{key} is registered here, and was heard of within its TTL of {before.ttl:g} s: wait for its end, or "
                "register with takeover=true if it is yours",
            )
        mine = before is not None and principal.role == "node" and before.owner == principal.digest
        if takeover and principal.role == "node" and not mine:
            known = self._gateway.registry.informer.get(key)
            if known is not None and known.state != "offline":
                raise Problem(403, "forbidden", f"{principal.name} may take over no name that another holds")
            takeover = False
        self._coming.add(key)
        try:
            if before is not None:
                self._members.pop(key, None)
                before.end("was registered again", by_itself=False)
                await before.close(died=False)
            async with asyncio.timeout(_REGISTER):
                return await self._add(passport, principal, ttl, takeover)
        except TimeoutError:
            raise StoreUnavailableError(f"{key} could not be registered within {_REGISTER:g} s") from None
        finally:
            self._coming.discard(key)

    async def _add(self, passport: NodePassport, principal: Principal, ttl: float, takeover: bool) -> Member:
        bus = await self._bus()
        registration = await self._gateway.registry.register(
            passport, ttl=ttl, takeover=takeover, wait=_WAIT, state="starting"
        )
        member = Member(
            registration,
            owner=principal.digest,
            ttl=registration.ttl,
            team=self._gateway.registry.store.url,
            over=self._ended,
            noted=self._gateway.history.command_over,
        )
        try:
            await member.serve(bus)
        except BaseException:
            await member.close(died=False)
            raise
        self._members[member.key] = member
        logger.info("%s is registered over HTTP by %s, uid %s", member.key, principal.name, member.uid)
        return member

    @staticmethod
    def _bare(passport: NodePassport) -> NodePassport:
        """Take away what is the registry's to say."""
        return passport.with_metadata(uid=None, generation=None).replace(status=None)

    def _with_restricted(self, principal: Principal, passport: NodePassport) -> NodePassport:
        """Keep the restricted labels that an operator gave this name, whatever its program says."""
        if principal.role == "operator":
            return passport
        known = self._gateway.registry.informer.get(passport.key)
        kept = (
            {} if known is None else {key: value for key, value in known.labels.items() if is_restricted(key)}
        )
        return passport.with_metadata(labels={**passport.labels, **kept}) if kept else passport

    async def _bus(self) -> Bus:
        if self.bus is None:
            bus = open_bus(self._bus_url)
            await bus.__aenter__()
            self.bus = bus
            self._reaper = asyncio.create_task(self._reap(), name="roster-gateway-members")
            self._unhook = on_wake(asyncio.get_running_loop(), self._woke)
        return self.bus

    def wake(self) -> None:
        """Have every long poll and stream look again."""
        for member in self._members.values():
            member.wake()

    # -- going -------------------------------------------------------------------------------------

    async def remove(self, key: str) -> bool:
        """Take a node out in good order; return whether it was here."""
        member = self._members.pop(key, None)
        if member is None:
            return False
        member.end("was deleted", by_itself=False)
        await member.close(died=False)
        return True

    def _ended(self, member: Member, why: str) -> None:
        """A node has ended by itself: its registration was lost, or is somebody else's."""
        self._gateway.metrics.lease_losses.inc()
        logger.warning("%s, a node over HTTP, has ended: %s", member.key, why)
        self._drop(member, died=False)

    def _drop(self, member: Member, *, died: bool) -> None:
        if self._members.get(member.key) is member:
            del self._members[member.key]
        task = asyncio.get_running_loop().create_task(member.close(died=died))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reap(self) -> None:
        """End those whose programs have fallen silent."""
        while True:
            await asyncio.sleep(_LOOK)
            now = boottime()
            for member in [one for one in self._members.values() if one.expires <= now]:
                why = f"was not heard of for its TTL of {member.ttl:g} s"
                logger.warning("%s, a node over HTTP, %s", member.key, why)
                self._gateway.metrics.expirations.inc()
                member.end(why, by_itself=False)
                self._drop(member, died=True)

    def _woke(self) -> None:
        """The loop came back from waiting. While it stood still programs could not be heard: their time starts anew."""
        now = boottime()
        gap, self._woke_at = now - self._woke_at, now
        if gap < SHORT:
            return
        for member in list(self._members.values()):
            member.expires = max(member.expires, now + min(member.ttl, gap + _LOOK))
            member.engine.stood_still(gap)
            if gap >= member.ttl / 2:
                member.registration.lose("the gateway stood still for half of its TTL or longer")

    async def close(self) -> None:
        """Take all of them out of the registry."""
        self._closed = True
        if self._unhook is not None:
            self._unhook()
        if self._reaper is not None:
            self._reaper.cancel()
            await asyncio.wait([self._reaper])
        members, self._members = list(self._members.values()), {}
        for member in members:
            member.end("has left: its gateway ends", by_itself=False)
        await asyncio.gather(*(member.close(died=False) for member in members))
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self.bus is not None:
            with suppress(BusUnavailableError):
                await self.bus.close()


def is_restricted(label: str) -> bool:
    """Return whether a label is an operator's alone, as with Kubernetes' NodeRestriction."""
    prefix, slash, _ = label.partition("/")
    return bool(slash) and (prefix == RESTRICTED or prefix.endswith(f".{RESTRICTED}"))


def check_own(principal: Principal, key: str) -> None:
    """Raise if a node's token is not for this node.

    Raises:
        Problem: it is not.
    """
    if principal.role == "node" and principal.node != key:
        raise Problem(
            403, "forbidden", f"{principal.name} is the token of {principal.node}, and of no other node"
        )


def check_labels(principal: Principal, labels: Mapping[str, Any]) -> None:
    """Raise if a node's token sets, changes or takes away what is an operator's.

    Raises:
        Problem: it does.
    """
    restricted = sorted(label for label in labels if is_restricted(label))
    if principal.role == "node" and restricted:
        raise Problem(
            403,
            "forbidden",
            f"labels under {RESTRICTED}/ are an operator's alone: {', '.join(restricted)[:500]}",
        )


def check_grant(principal: Principal, passport: NodePassport) -> None:
    """Raise if a node's token does not reach as far as this passport.

    Raises:
        Problem: it does not.
    """
    check_own(principal, passport.key)
    check_labels(principal, passport.labels)
    if principal.role != "node":
        return
    beyond = [one.name for one in passport.capabilities if not principal.may_declare(one.name)]
    if beyond:
        raise Problem(
            403,
            "forbidden",
            f"{principal.name} may not offer {', '.join(beyond)[:500]}: the grant is in the token file",
        )
    if passport.mindbus_queue != f"agent.{passport.namespace}.{passport.name}":
        raise Problem(
            403, "forbidden", "with a node's token the queue is agent.NAMESPACE.NAME: leave mindbus_queue out"
        )
    if passport.mindbus_routing_key is not None:
        raise Problem(
            403,
            "forbidden",
            "with a node's token there is no mindbus_routing_key: it would hear others' commands",
        )
