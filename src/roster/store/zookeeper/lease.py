"""Leases on ZooKeeper: a session each, or, for those that linger, a promise to tidy up."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from roster._clock import boottime
from roster.errors import LeaseLostError
from roster.store.base import Hint
from roster.store.zookeeper.packets import exists
from roster.store.zookeeper.planning import PERSISTENT, lease_of
from roster.store.zookeeper.session import Session, SessionEndedError

# A lingering lease forgets the oldest of more keys than these: they stay when it is revoked.
_REMEMBERED = 1024


class SessionLease:
    """A lease that is a ZooKeeper session; see `roster.store.base.Lease`.

    Its keys are ephemeral znodes. Nobody keeps the session alive but `keep_alive`, so that it is the server who counts the
    seconds. It ends up to one tick of the server later than its `deadline`.

    Args:
        session: connected, without pings of its own.
        sent: the CLOCK_BOOTTIME second before it was asked for.
    """

    def __init__(self, session: Session, sent: float) -> None:
        self.session = session
        self._ttl = session.ttl
        self._deadline = sent + session.ttl
        self._revoked = False
        lease = lease_of(session.id)
        assert lease is not None  # noqa: S101 - a connected session has a number
        self._id = lease

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
        return self.ended or boottime() >= self._deadline

    @property
    def ended(self) -> bool:
        """Whether the server has said so, or we have."""
        return self._revoked or self.session.ended

    @property
    def owner(self) -> int:
        """The session that its keys are bound to."""
        return self.session.id

    def wrote(self, key: str, revision: int) -> None:
        pass  # the server knows what is bound to a session

    def gone(self) -> LeaseLostError:
        """Return the error for an ended lease."""
        return LeaseLostError(f"the lease {self._id} has ended: grant another")

    async def keep_alive(self) -> None:
        if self.ended:
            raise self.gone()
        sent = boottime()
        try:
            await self.session.insist([exists("/")])
        except SessionEndedError:
            raise self.gone() from None
        self._deadline = sent + self._ttl

    async def describe(self, hint: Hint) -> None:
        pass  # ZooKeeper shows nobody a hint

    async def revoke(self) -> None:
        self._revoked = True
        await self.session.close()

    async def leave(self) -> None:
        """Let it run out."""
        await self.session.drop()


class LastingLease:
    """A lease that lingers; see `roster.store.base.Lease`.

    ZooKeeper has no session that outlives its client for days. So its keys are bound to nothing and stay when it runs out:
    somebody has to tidy up (`roster prune`). What it promises is that `revoke` deletes what was put under it and is as it
    was written. (Servers from 3.5 on can be told to delete znodes by their age, `zookeeper.extendedTypesEnabled`; kazoo
    cannot make such znodes.)

    Args:
        ttl: seconds.
        look: a round trip to the servers.
        forget: deletes keys that are at these revisions still.
    """

    owner = PERSISTENT

    def __init__(
        self,
        ttl: float,
        look: Callable[[], Awaitable[None]],
        forget: Callable[[dict[str, int]], Awaitable[None]],
    ) -> None:
        self._id = f"lasting-{uuid.uuid4()}"
        self._ttl = ttl
        self._look = look
        self._forget = forget
        self._deadline = boottime() + ttl
        self._written: OrderedDict[str, int] = OrderedDict()
        self.ended = False

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
        return self.ended

    def wrote(self, key: str, revision: int) -> None:
        """Remember what was put under it."""
        self._written.pop(key, None)
        while len(self._written) >= _REMEMBERED:
            self._written.popitem(last=False)
        self._written[key] = revision

    def gone(self) -> LeaseLostError:
        """Return the error for an ended lease."""
        return LeaseLostError(f"the lease {self._id} has ended: grant another")

    async def keep_alive(self) -> None:
        if self.ended:
            raise self.gone()
        sent = boottime()
        await self._look()
        self._deadline = sent + self._ttl

    async def describe(self, hint: Hint) -> None:
        pass  # ZooKeeper shows nobody a hint

    async def revoke(self) -> None:
        self.ended = True
        await self._forget(dict(self._written))
        self._written.clear()  # not before: what failed is tried again by the next one

    async def leave(self) -> None:
        """Let it be."""
