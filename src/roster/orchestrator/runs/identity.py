"""Who an executor is: an id that no other process has, under a lease of ours, so that others can tell when it is dead."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from roster._clock import boottime
from roster.errors import LeaseLostError, StoreError
from roster.orchestrator.runs.database import tables
from roster.registry.holder import Holder, this_process
from roster.registry.settings import DEFAULT_TTL, seconds

if TYPE_CHECKING:
    import sqlalchemy as sa

    from roster.store.base import Lease, Store

logger = logging.getLogger("roster.orchestrator.runs")

ROOT = "/ai-team/executors/"
# A store that thaws revokes the leases of the living: they are back within a keep-alive, so nobody is dead before that.
_GRACE = 15.0


@dataclass(frozen=True, slots=True)
class Known:
    """An executor on record: its id, its process, and the registry that has its lease."""

    id: str
    holder: Holder | None
    store: str


class Identity:
    """This process as an executor.

    Args:
        store: holds its lease.
        ttl: seconds that it outlives the last keep-alive; without it `ROSTER_TTL`, else 30.

    Raises:
        ConfigError: `ROSTER_TTL` is no number of seconds.
    """

    def __init__(self, store: Store, ttl: float | None = None) -> None:
        here = this_process()
        self.id = f"{here.host[:60]}-{here.pid}-{uuid.uuid4().hex[:8]}"
        self._store = store
        self._ttl = seconds(ttl, "ROSTER_TTL", DEFAULT_TTL)
        self._lease: Lease | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._missing: dict[str, float] = {}

    async def open(self) -> None:
        """Take a lease, and keep it.

        Raises:
            StoreError: the store does not give one.
        """
        await self._take()
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Give the lease back."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._lease is not None:
            try:
                await self._lease.revoke()
            except StoreError as error:
                logger.info("the executor's lease is left to run out: %s", error)
            self._lease = None

    async def _take(self) -> None:
        lease = await self._store.grant(self._ttl)
        await self._store.put(ROOT + self.id, json.dumps(this_process().to_dict()).encode(), lease=lease.id)
        self._lease = lease

    async def _keep(self) -> None:
        while True:
            lease = self._lease
            await asyncio.sleep((self._ttl if lease is None else lease.ttl) / 3)
            try:
                if lease is None:
                    await self._take()
                else:
                    await lease.keep_alive()
            except LeaseLostError:
                # Others may have taken up what we had: the walks find out at their next write. From now on we are back.
                logger.warning("the executor's lease was lost; it takes another")
                self._lease = None
                await self._again()
            except StoreError as error:
                logger.info("the executor's lease is unconfirmed: %s", error)

    async def _again(self) -> None:
        try:
            await self._take()
        except StoreError as error:
            logger.warning("no new lease for the executor yet: %s", error)

    async def check(self) -> None:
        """Take a lease again at once where ours is known to be lost."""
        if self._keeper is not None and self._lease is None:
            await self._again()

    # -- others ---------------------------------------------------------------------------------------------------

    async def dead(self, known: list[Known]) -> list[str]:
        """Return those who are dead for sure: by proof on this machine, or by a lease that has been gone for long enough."""
        gone = [one.id for one in known if one.holder is not None and one.holder.liveness() == "dead"]
        doubtful = [one for one in known if one.id not in gone and one.id != self.id]
        ours = [one for one in doubtful if one.store == self._store.url]
        if not ours:
            self._missing.clear()
            return gone
        alive = {entry.key[len(ROOT) :] for entry in (await self._store.list(ROOT)).entries}
        now = boottime()
        missing = {one.id for one in ours if one.id not in alive}
        self._missing = {one: self._missing.get(one, now) for one in missing}
        return gone + [one for one, since in self._missing.items() if now - since >= _GRACE]

    # -- on record ------------------------------------------------------------------------------------------------

    def enlist(self) -> Callable[[sa.Connection], None]:
        """Put this executor on record, before it holds anything."""
        row: Mapping[str, Any] = {
            "id": self.id,
            "holder": json.dumps(this_process().to_dict()),
            "store": self._store.url,
            "since": time.time(),
        }

        def write(connection: sa.Connection) -> None:
            import sqlalchemy as sa

            connection.execute(sa.insert(tables().executors).values(**row))

        return write

    def leave(self) -> Callable[[sa.Connection], None]:
        """Let go of all walks, and take this executor off the record."""

        def write(connection: sa.Connection) -> None:
            import sqlalchemy as sa

            walks, executors = tables().walks, tables().executors
            connection.execute(
                sa.update(walks)
                .where(walks.c.executor == self.id, walks.c.ended.is_(False))
                .values(executor=None)
            )
            connection.execute(sa.delete(executors).where(executors.c.id == self.id))

        return write
