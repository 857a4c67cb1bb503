"""One node of a team, and what can be made to happen to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from roster.errors import NodeError
from roster.node import Node
from roster.registry.keys import status_key
from roster.testing.ledger import PATIENCE, Asked
from roster.testing.store import FaultyStore

if TYPE_CHECKING:
    from roster.testing.team import Team

_DEAD = "its process is dead"
_CUT = "the test has cut this node off"


class Member:
    """A node of a `Team`. Made by `Team.add` and `Team.add_node`.

    Every fault is there when the line that makes it is over: the registry shows it, callers have been told, and nothing
    has to be waited for.

    Attributes:
        node: the `roster.Node` itself.
    """

    def __init__(self, team: Team, node: Node) -> None:
        self.node = node
        self._team = team
        self._faults = team.bus_faults.queue(node.passport.mindbus_queue)
        self._faults.node = node.key

    def __repr__(self) -> str:
        return f"<{self.key}, {self.state}>"

    # -- what it is, and what it was asked ------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name."""
        return self.node.passport.name

    @property
    def key(self) -> str:
        """`namespace/name`, as answers and attempts name it."""
        return self.node.key

    @property
    def state(self) -> str:
        """What the registry says of it: `ready`, `busy`, `draining`, `offline`, `unknown`; `gone` when it is not listed."""
        record = self._team.orchestrator.node(self.key)
        return record.state if record is not None else "gone"

    @property
    def calls(self) -> list[Asked]:
        """The commands that reached it, in order."""
        return self._team.ledger.of(node=self.key)

    @property
    def params(self) -> list[dict[str, Any]]:
        """The params of those commands."""
        return [asked.params for asked in self.calls]

    async def asked(self, count: int = 1, *, timeout: float = PATIENCE) -> Asked:
        """Return the `count`th command that reached it, when it is there.

        Raises:
            AssertionError: it did not come within `timeout` seconds.
        """
        await self._team.until(
            lambda: len(self.calls) >= count, timeout=timeout, what=f"{self.key} to be asked {count} times"
        )
        return self.calls[count - 1]

    async def started(self, count: int = 1, *, timeout: float = PATIENCE) -> Asked:
        """Return the `count`th command that it began to work on, when it has.

        Raises:
            AssertionError: it has not within `timeout` seconds.
        """

        def begun() -> list[Asked]:
            return [asked for asked in self.calls if asked.started]

        await self._team.until(
            lambda: len(begun()) >= count, timeout=timeout, what=f"{self.key} to start {count} commands"
        )
        return begun()[count - 1]

    # -- its life -------------------------------------------------------------------------------------------------

    async def die(self, *, lease_ends: bool = True) -> None:
        """Die as by kill -9: its connection is lost, what it had started is `unknown` to the callers, the rest `refused`.

        Its async handlers are cancelled where they stand; a plain function on a thread cannot be stopped from outside and
        runs to its end, unheard.

        Args:
            lease_ends: its lease ends at once, so that it is `offline` (a store that can prove a death does this). False:
                the registry goes on calling it alive until `Team.advance` has passed its TTL.
        """
        clients = self._clients()
        for client in clients:
            client.cut = _DEAD
        await self._faults.die()
        if lease_ends:
            for client in clients:
                await client.end_leases()
        await self.node.stop(grace=0)
        self._heal()
        await self._team.settled()

    async def leave(self, *, grace: float | None = None) -> bool:
        """Leave in good order: hand back what waits, finish what runs, deregister.

        Args:
            grace: seconds for what runs; without it the node's own.

        Returns:
            Whether all was finished in time.
        """
        finished = await self.node.stop(grace)
        await self._team.settled()
        return finished

    async def restart(self) -> None:
        """Start it again, after its death or departure: a new incarnation under the old name."""
        await self.node.start()
        await self._team.settled()

    def _heal(self) -> None:
        faults = self._faults
        faults.held = faults.silent = faults.unreachable = False
        faults.errors.clear()

    # -- faults ---------------------------------------------------------------------------------------------------

    def fails(self, error: Exception | type[Exception] = RuntimeError, times: int = 1) -> None:
        """Have the next commands end with this error, as if its handler had raised it; the handler does not see them.

        Args:
            error: a `roster.CallError` travels with its code and whether it may be retried; anything else is, as always,
                a `RemoteError` that is not retried.
            times: how many commands.
        """
        made = error() if isinstance(error, type) else error
        self._faults.errors.extend([made] * times)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Member]:
        """Answer late: the work is done, and what the node says of it waits until the block is left.

        Example:
            >>> async with writer.held():
            ...     call = asyncio.create_task(team.call("write_article", {"topic": "bees"}))
            ...     await writer.started()
            ...     other = await team.add("write_article", write_article)
            ...     await writer.die()  # the work may have been done: nobody knows
            >>> await call
            {'article': 'All about bees'}
            >>> other.calls[0].attempt
            2
        """
        self._faults.held = True
        try:
            yield self
        finally:
            self._faults.held = False
            await self._faults.release()

    @asynccontextmanager
    async def silent(self) -> AsyncIterator[Member]:
        """Be silent: nothing reaches it, it says nothing, pings included, while its lease lives on (as under SIGSTOP).

        The team's orchestrator suspects it from the first line of the block on. When the block is left, it reads what
        has come meanwhile, and is trusted again.
        """
        self._faults.silent = True
        await self._team.ask_for_sign_of_life(self.key)
        try:
            yield self
        finally:
            self._faults.silent = False
            await self._faults.release()
            await self._team.ask_for_sign_of_life(self.key)

    @asynccontextmanager
    async def full(self) -> AsyncIterator[Member]:
        """Have no room: its slots are taken by work that came another way, so it is `busy` and refuses commands."""
        capacity = self.node.passport.max_concurrent_tasks
        await self._occupy(capacity + max(2, capacity))
        try:
            yield self
        finally:
            if self.node.state != "offline":
                await self._occupy(0)

    async def _occupy(self, tasks: int) -> None:
        await self.node.occupy(tasks)
        if all(client.unreachable is None for client in self._clients()):
            await self._team.until(
                lambda: self.state == self.node.state, what=f"{self.key} to be shown as {self.node.state}"
            )

    @asynccontextmanager
    async def unreachable(self) -> AsyncIterator[Member]:
        """Lose its queue on the bus: whoever sends to it is refused at once, while its lease lives on.

        The node notices it by itself within 5 s, and then stops being ready; callers do not wait for that.
        """
        self._faults.unreachable = True
        try:
            yield self
        finally:
            self._faults.unreachable = False

    @asynccontextmanager
    async def without_store(self) -> AsyncIterator[Member]:
        """Do not reach the registry, alone of all: its lease is not renewed, and ends when `Team.advance` passes its TTL.

        It goes on serving: unconfirmed is not lost. When the block is left it reaches the store again, and if its lease
        has ended meanwhile it registers anew at its next keep-alive (a third of its TTL, in real time).
        """
        clients = self._clients()
        if not clients:
            raise NodeError(f"{self.key} is not running: there is nothing to cut off")
        for client in clients:
            client.cut = _CUT
        try:
            yield self
        finally:
            for client in clients:
                if client.cut == _CUT:
                    client.cut = ""

    def _clients(self) -> list[FaultyStore]:
        passport = self.node.passport
        return self._team.store_faults.of(status_key(passport.namespace, passport.name))
