"""The two leases of a node: its own, and the long one that keeps its passport listed after its death."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from roster.errors import LeaseLostError, RegistryError, StoreError
from roster.store.base import Hint, Lease, Store

logger = logging.getLogger("roster.registry")


class Leases:
    """Grants, renews and ends the leases of one registration.

    Args:
        store: where.
        name: of the node.
        retention: seconds of the long lease.
        now: the clock that decides.
        rng: draws from 0 to 1, for jitter.

    Attributes:
        shown: what engines that show services to others show at present.
    """

    def __init__(
        self, store: Store, name: str, *, retention: float, now: Callable[[], float], rng: Callable[[], float]
    ) -> None:
        self.shown: Hint | None = None
        self._store = store
        self._name = name
        self._retention = retention
        self._now = now
        self._rng = rng
        self._own: Lease | None = None
        self._life: Lease | None = None
        self._next_life = 0.0

    @property
    def own(self) -> Lease:
        """The node's own.

        Raises:
            RegistryError: there is none any more.
        """
        if self._own is None:
            raise RegistryError(f"{self._name} is not registered any more")
        return self._own

    @property
    def own_or_none(self) -> Lease | None:
        """The node's own, None before and after its registration."""
        return self._own

    async def grant(self, ttl: float, hint: Hint) -> Lease:
        """Make a new lease the node's own; the one before is left alone."""
        self._own = await self._store.grant(ttl, hint=hint)
        self.shown = hint
        return self._own

    async def show(self, hint: Hint) -> None:
        """Have engines that show services to others show this from now on."""
        if hint != self.shown:
            await self.own.describe(hint)
            self.shown = hint

    async def life(self) -> Lease:
        """Return the passport's lease: the one there is, renewed, or a new one if it has ended."""
        if self._life is not None:
            try:
                await self._life.keep_alive()
            except LeaseLostError:
                self._life = None
        if self._life is None:
            self._life = await self._store.grant(self._retention, lingering=True)
        # Jitter: nodes that started together must not renew together for ever after.
        self._next_life = self._now() + self._retention / 3 * (0.8 + 0.2 * self._rng())
        return self._life

    async def life_id(self) -> str:
        """Return the id of the passport's lease without renewing it."""
        return (self._life or await self.life()).id

    async def renew_life_if_due(self) -> bool:
        """Renew the passport's lease now and then; return whether it had ended and is another one now."""
        return self._now() >= self._next_life and await self.life_was_lost()

    async def life_was_lost(self) -> bool:
        """Return whether the passport's lease had ended; there is a new one then."""
        before = self._life
        return await self.life() is not before

    async def keep_while_waiting(self) -> None:
        """Renew both until cancelled: waiting for a name may outlast leases that are new."""
        while True:
            await asyncio.sleep(self.own.ttl / 3)
            try:
                await self.own.keep_alive()
                await self.renew_life_if_due()
            except StoreError as error:
                logger.debug("%s, waiting for its name: %s", self._name, error)  # the claim itself will say

    async def release(self) -> None:
        """End both, as far as the store can be reached."""
        leases = [lease for lease in (self._own, self._life) if lease is not None]
        self._own = self._life = None
        for lease in leases:
            await self.revoke(lease)

    async def abandon(self) -> None:
        """End the node's own lease, as its death does; the passport's is left to run out."""
        own, self._own, self._life = self._own, None, None
        if own is not None:
            await self.revoke(own)

    async def revoke(self, lease: Lease) -> None:
        """End one lease, or leave it to run out."""
        try:
            async with asyncio.timeout(max(min(lease.ttl, 30.0) / 3, 0.5)):
                await lease.revoke()
        except (StoreError, TimeoutError) as error:
            logger.info(
                "a lease of %s could not be ended, it runs out: %s", self._name, str(error) or "no answer"
            )
